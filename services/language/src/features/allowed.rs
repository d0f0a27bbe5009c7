//! Which stores features may be pulled from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tonic::transport::Uri;

/// A pattern of URLs of stores, as `https://vision-*.pool.svc:50052`: a star stands for any part of a name, an address or a
/// port, and never for a dot or a colon, so that it does not stretch over another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StorePattern(String);

/// Why a text is no [`StorePattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pattern of stores: write https://HOST:PORT or http://HOST:PORT, with a * for any part of a name")]
pub struct ParseStorePatternError(String);

impl StorePattern {
    /// Whether a store is one of these.
    pub(crate) fn allows(&self, store: &str) -> bool {
        plain(store).is_some_and(|store| matches(&self.0, &store))
    }
}

impl FromStr for StorePattern {
    type Err = ParseStorePatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // What stands for a digit, stands in a host and in a port.
        let is_pattern = plain(&text.replace('*', "1")).is_some();
        let text = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
        if is_pattern { Ok(Self(text)) } else { Err(ParseStorePatternError(text)) }
    }
}

impl TryFrom<String> for StorePattern {
    type Error = ParseStorePatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<StorePattern> for String {
    fn from(pattern: StorePattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for StorePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A URL as it is compared: scheme, host and port, and nothing else.
fn plain(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?.as_str());
    let has_more = uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") || authority.contains('@');
    let is_known = matches!(scheme, "http" | "https") && uri.port_u16().is_some() && !has_more;
    is_known.then(|| format!("{scheme}://{authority}").to_ascii_lowercase())
}

/// Whether a text is what a pattern stands for. Each star takes as little as it can, and more when the rest does not fit.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(before) else { return false };
    let most = rest.find(['.', ':', '/']).unwrap_or(rest.len());
    (0..=most).filter(|&end| rest.is_char_boundary(end)).any(|end| matches(after, &rest[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, store: &str) -> bool {
        pattern.parse::<StorePattern>().unwrap().allows(store)
    }

    #[test]
    fn a_star_stands_for_a_part_of_a_name() {
        for (pattern, store) in [
            ("https://vision-0:50052", "https://vision-0:50052"),
            ("https://vision-0:50052/", "https://VISION-0:50052/"),
            ("https://vision-*.pool.svc:50052", "https://vision-12.pool.svc:50052"),
            ("https://*.pool.svc:50052", "https://vision-12.pool.svc:50052"),
            ("http://10.0.*.*:50052", "http://10.0.7.200:50052"),
            ("http://[::1]:50052", "http://[::1]:50052"),
            ("http://*a*b*:1", "http://xaybz:1"),
            ("http://127.0.0.1:*", "http://127.0.0.1:40001"),
        ] {
            assert!(allows(pattern, store), "{pattern} {store}");
        }
    }

    #[test]
    fn nothing_else_is_allowed() {
        for (pattern, store) in [
            ("https://vision-0:50052", "http://vision-0:50052"),
            ("https://vision-0:50052", "https://vision-0:50053"),
            ("https://vision-0:50052", "https://vision-0:50052.evil.example:1"),
            ("https://vision-*:50052", "https://vision-0.evil.example:50052"),
            ("https://vision-*:50052", "https://vision-0:1@evil.example:50052"),
            ("https://vision-*:50052", "https://vision-0@evil.example:50052"),
            ("https://vision-*:50052", "https://vision-0:50052/path"),
            ("http://10.0.*.*:50052", "http://10.0.0.0.evil.example:50052"),
            ("https://*.svc:50052", "https://a.b.svc:50052"),
            ("https://vision-0:5*", "https://vision-0:5@evil.example:1"),
            ("https://vision-0:50052", "vision-0:50052"),
            ("https://vision-0:50052", ""),
        ] {
            assert!(!allows(pattern, store), "{pattern} {store}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_what_to_write() {
        for text in
            ["", "*", "vision-0:50052", "https://vision-0", "ftp://vision-0:1", "https://*:1/path", "https://a@b:1"]
        {
            let error = text.parse::<StorePattern>().unwrap_err().to_string();
            assert!(error.contains("https://HOST:PORT"), "{error}");
        }
    }
}
