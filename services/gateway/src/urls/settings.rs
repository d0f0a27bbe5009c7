//! Settings of images by URL.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tessera_config::{ByteSize, Problems, Validate, duration};
use url::Url;

use super::pattern::Pattern;

/// Whether, from where and how images are fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UrlSettings {
    /// Whether the gateway fetches images at all.
    pub enabled: bool,
    /// Hosts that may be asked.
    pub allow: Vec<Pattern>,
    /// Schemes that a URL may have, and a redirect may lead to.
    pub schemes: Vec<Scheme>,
    /// Networks that are not public and may be spoken to all the same, such as that of an object store of one's own.
    pub private: Vec<IpNet>,
    /// Longest file.
    pub max_bytes: ByteSize,
    /// Longest time of one image: looking up, connecting, redirects and the file itself.
    #[serde(with = "duration")]
    pub time: Duration,
    /// Redirects that one image is followed through.
    pub redirects: usize,
    /// Images that are fetched at once; more wait.
    pub at_once: usize,
    /// A PEM file of certificates that are trusted besides those of the system. Empty: none.
    pub roots: PathBuf,
}

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Anybody on the way may read the image, and put another in its place.
    Http,
    /// By TLS, with a certificate that is trusted.
    Https,
}

impl Scheme {
    /// As URLs write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Default for UrlSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            allow: Vec::new(),
            schemes: vec![Scheme::Https],
            private: Vec::new(),
            max_bytes: ByteSize::mib(32),
            time: Duration::from_secs(10),
            redirects: 3,
            at_once: 64,
            roots: PathBuf::new(),
        }
    }
}

impl UrlSettings {
    /// Whether a URL is of a scheme and a host that may be asked.
    pub(super) fn allows(&self, url: &Url) -> bool {
        self.schemes.iter().any(|scheme| scheme.name() == url.scheme())
            && self.allow.iter().any(|pattern| pattern.matches(url))
    }
}

impl Validate for UrlSettings {
    fn validate(&self, problems: &mut Problems) {
        if self.enabled && self.allow.is_empty() {
            let message = "must name the hosts that images may come from, such as images.example.com or *.example.com; \
                           \"*\" is every host that has a public address";
            problems.add("allow", message);
        }
        if self.schemes.is_empty() {
            problems.add("schemes", "must name https, http or both");
        }
        for pattern in &self.allow {
            if pattern.scheme().is_some_and(|scheme| !self.schemes.contains(&scheme)) {
                problems.add("allow", format!("`{pattern}` has a scheme that `schemes` does not name"));
            }
        }
        let positive =
            [("max_bytes", self.max_bytes.as_u64() > 0), ("time", !self.time.is_zero()), ("at_once", self.at_once > 0)];
        for (key, _) in positive.iter().filter(|(_, fine)| !fine) {
            problems.add(key, "must be more than nothing");
        }
    }
}
