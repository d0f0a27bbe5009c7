//! Settings of TLS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tessera_config::{Problems, Validate, duration};

/// Time between two looks at the files, unless somebody says another.
const REFRESH: Duration = Duration::from_secs(10);

/// Who a server is, and whom it lets in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// File of its certificate, followed by those between it and its authority (PEM). Empty: no TLS.
    pub certificate: PathBuf,
    /// File of the certificate's key (PEM).
    pub key: PathBuf,
    /// File of the authorities of clients (PEM): only who has a certificate of theirs is let in. Empty: everybody is.
    pub client_ca: PathBuf,
    /// Time between two looks at these files.
    #[serde(with = "duration")]
    pub refresh: Duration,
}

/// Which servers a client believes, and who it is itself. Is used for `https://` URLs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTlsSettings {
    /// File of the authorities of servers (PEM). Empty: those that the system believes.
    pub ca: PathBuf,
    /// The name that the certificate of a server has whose URL has an IP address. Empty: that address.
    pub server_name: String,
    /// File of the client's own certificate (PEM), for servers that ask for one.
    pub certificate: PathBuf,
    /// File of that certificate's key (PEM).
    pub key: PathBuf,
    /// Time between two looks at these files.
    #[serde(with = "duration")]
    pub refresh: Duration,
}

impl Default for TlsSettings {
    fn default() -> Self {
        let none = PathBuf::new();
        Self { certificate: none.clone(), key: none.clone(), client_ca: none, refresh: REFRESH }
    }
}

impl Default for UpstreamTlsSettings {
    fn default() -> Self {
        let none = PathBuf::new();
        Self { ca: none.clone(), server_name: String::new(), certificate: none.clone(), key: none, refresh: REFRESH }
    }
}

impl TlsSettings {
    /// Whether there is to be TLS.
    pub fn is_on(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }
}

impl UpstreamTlsSettings {
    /// Whether the client shows a certificate.
    pub(super) fn has_certificate(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }
}

impl Validate for TlsSettings {
    fn validate(&self, problems: &mut Problems) {
        pair(&self.certificate, &self.key, problems);
        if !self.is_on() && !self.client_ca.as_os_str().is_empty() {
            problems.add("client_ca", "asks clients for certificates, which needs a `certificate` of the server's own");
        }
        positive(self.refresh, problems);
    }
}

impl Validate for UpstreamTlsSettings {
    fn validate(&self, problems: &mut Problems) {
        pair(&self.certificate, &self.key, problems);
        if !self.server_name.is_empty() && ServerName::try_from(self.server_name.as_str()).is_err() {
            problems.add("server_name", format!("{:?} is no name of a host", self.server_name));
        }
        positive(self.refresh, problems);
    }
}

fn pair(certificate: &Path, key: &Path, problems: &mut Problems) {
    for (given, other, name) in [(certificate, key, "key"), (key, certificate, "certificate")] {
        if !given.as_os_str().is_empty() && other.as_os_str().is_empty() {
            problems.add(name, "must be given too: a certificate and its key go together");
        }
    }
}

fn positive(refresh: Duration, problems: &mut Problems) {
    if refresh.is_zero() {
        problems.add("refresh", "must be longer than nothing");
    }
}
