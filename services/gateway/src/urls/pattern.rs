//! Which hosts images may come from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::settings::Scheme;

/// `[SCHEME://]HOST[:PORT]`, where HOST is a name, an address, `*.NAME` for every name below it, or `*` for all. Without a
/// scheme every one that the settings name will do, without a port that of the scheme.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    /// As it was written.
    text: String,
    scheme: Option<Scheme>,
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// Every name that ends with a dot and this.
    Below(String),
    One(Host),
}

/// Why a text is no [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} names no hosts ({why}): write HOST, *.HOST or *, if need be with https:// or http:// before it and :PORT behind it"
)]
pub struct ParsePatternError {
    text: String,
    why: &'static str,
}

impl Pattern {
    /// The scheme that it asks for.
    pub(super) fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// Whether a URL is of one of these hosts.
    pub(super) fn matches(&self, url: &Url) -> bool {
        let default = match url.scheme() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        let Some(host) = url.host() else { return false };
        let is_of_these = match (&self.hosts, host) {
            (Hosts::All, _) => true,
            (Hosts::Below(name), Host::Domain(host)) => {
                host.strip_suffix(name.as_str()).is_some_and(|below| below.len() > 1 && below.ends_with('.'))
            }
            (Hosts::Below(_), _) => false,
            (Hosts::One(one), host) => *one == host,
        };
        is_of_these
            && self.scheme.is_none_or(|scheme| scheme.name() == url.scheme())
            && url.port_or_known_default() == self.port.or(default)
    }
}

impl FromStr for Pattern {
    type Err = ParsePatternError;

    fn from_str(text: &str) -> Result<Self, ParsePatternError> {
        let wrong = |why| ParsePatternError { text: text.to_owned(), why };
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(_) => return Err(wrong("its scheme is neither http nor https")),
        };
        if rest.contains(['/', '?', '#', '@']) {
            return Err(wrong("a host is all that may stand there"));
        }
        // The colons of an IPv6 address stand in brackets.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, Some(port.parse().map_err(|_| wrong("its port is no number"))?))
            }
            _ => (rest, None),
        };
        let parsed = |host: &str| Host::parse(host).map_err(|_| wrong("its host is neither name nor address"));
        let hosts = match host {
            "*" => Hosts::All,
            _ => match host.strip_prefix("*.") {
                Some(name) => match parsed(name)? {
                    Host::Domain(name) if !name.contains('*') => Hosts::Below(name),
                    _ => return Err(wrong("only names have names below them")),
                },
                None if host.contains('*') => return Err(wrong("a star stands for all or in front of a name")),
                None => Hosts::One(parsed(host)?),
            },
        };
        Ok(Self { text: text.to_owned(), scheme, hosts, port })
    }
}

impl TryFrom<String> for Pattern {
    type Error = ParsePatternError;

    fn try_from(text: String) -> Result<Self, ParsePatternError> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_hosts_and_nothing_else() {
        let all = [
            "https://a.test/b",
            "https://b.a.test/",
            "https://c.b.a.test/",
            "https://ba.test/",
            "https://a.test.evil.test/",
            "http://a.test/",
            "https://a.test:8443/",
            "http://a.test:443/",
            "https://192.0.2.7/",
            "https://[2001:db8::1]/",
        ];
        for (pattern, expected) in [
            ("*", &[0, 1, 2, 3, 4, 5, 8, 9][..]),
            ("a.test", &[0, 5]),
            ("A.TEST", &[0, 5]),
            ("a.test:443", &[0, 7]),
            ("https://a.test", &[0]),
            ("http://a.test", &[5]),
            ("a.test:8443", &[6]),
            ("*.a.test", &[1, 2]),
            ("*.test", &[0, 1, 2, 3, 4, 5]),
            ("*:8443", &[6]),
            ("192.0.2.7", &[8]),
            ("[2001:db8::1]", &[9]),
            ("https://[2001:db8::1]:443", &[9]),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            let matches: Vec<usize> =
                (0..all.len()).filter(|&index| parsed.matches(&all[index].parse().unwrap())).collect();
            assert_eq!(matches, expected, "{pattern}");
            assert_eq!(parsed.to_string(), pattern);
        }
    }

    #[test]
    fn a_host_is_what_it_is_understood_as_and_not_what_it_looks_like() {
        let pattern: Pattern = "a.test".parse().unwrap();
        for (url, expected) in [
            ("https://a.test@evil.test/", false),
            ("https://evil.test/?a.test", false),
            ("https://evil.test#a.test", false),
            ("https://evil.test\\@a.test/", false),
            ("https://a%2etest/", true),
            ("https://Ａ.test/", true),
            ("https://a.test./", false),
        ] {
            assert_eq!(pattern.matches(&url.parse().unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn what_names_no_hosts_is_refused() {
        for (text, why) in [
            ("", "neither name nor address"),
            ("ftp://a.test", "neither http nor https"),
            ("https://a.test/images", "a host is all"),
            ("user@a.test", "a host is all"),
            ("a.test:http", "no number"),
            ("a.test:70000", "no number"),
            ("a.*.test", "a star"),
            ("*a.test", "a star"),
            ("*.192.0.2.7", "only names"),
            ("*.*.test", "only names"),
            ("a b", "neither name nor address"),
        ] {
            let error = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("write HOST"), "{text}: {error}");
        }
    }
}
