//! One entry of a list of workers, and the lines of a file of them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Stands behind the scheme of entries whose workers speak TLS.
const TLS: &str = "+tls";

/// Something that stands for workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// One worker, by its URL.
    Worker(String),
    /// A worker at each address that a name has.
    Addresses {
        /// How they are spoken to.
        scheme: Scheme,
        /// The name.
        name: String,
        /// Where they listen.
        port: u16,
    },
    /// A worker for each SRV record of a name.
    Services {
        /// How they are spoken to.
        scheme: Scheme,
        /// The name, with service and protocol in front.
        name: String,
    },
    /// A worker for each line of a file.
    File {
        /// Which.
        path: PathBuf,
    },
}

/// How a worker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// In the clear.
    Http,
    /// By TLS.
    Https,
}

/// Why a text is no [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} {why}: write http://HOST:PORT or https://HOST:PORT for one worker, dns://NAME:PORT for all addresses of a name, \
     srv://_SERVICE._tcp.NAME for its SRV records (dns+tls:// and srv+tls:// where they speak TLS), or file:///PATH for a \
     file with a URL a line"
)]
pub(crate) struct ParseEntryError {
    text: String,
    why: &'static str,
}

impl FromStr for Entry {
    type Err = ParseEntryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why| ParseEntryError { text: text.to_owned(), why };
        let Some((scheme, rest)) = text.split_once("://") else { return Err(wrong("names no scheme")) };
        match scheme {
            "http" | "https" => worker(text).map(Self::Worker).ok_or_else(|| wrong("needs a host and a port")),
            "dns" | "dns+tls" => {
                let (name, port) = host_and_port(rest).ok_or_else(|| wrong("needs a name and a port"))?;
                Ok(Self::Addresses { scheme: Scheme::of(scheme), name: name.to_owned(), port })
            }
            "srv" | "srv+tls" => {
                let labels: Vec<&str> = rest.split('.').collect();
                match labels[..] {
                    [service, protocol, _, ..]
                        if service.starts_with('_') && protocol.starts_with('_') && is_name(rest) =>
                    {
                        Ok(Self::Services { scheme: Scheme::of(scheme), name: rest.to_owned() })
                    }
                    _ => Err(wrong("needs service, protocol and name")),
                }
            }
            "file" if rest.len() > 1 && rest.starts_with('/') => Ok(Self::File { path: PathBuf::from(rest) }),
            "file" => Err(wrong("needs a path from the root")),
            _ => Err(wrong("has another scheme")),
        }
    }
}

impl Scheme {
    /// That of the workers that an entry with such a scheme stands for.
    fn of(entry: &str) -> Self {
        if entry.ends_with(TLS) { Self::Https } else { Self::Http }
    }

    /// What stands behind the scheme of an entry.
    fn suffix(self) -> &'static str {
        match self {
            Self::Http => "",
            Self::Https => TLS,
        }
    }

    /// The URL of a worker at `HOST:PORT`.
    pub(super) fn url(self, authority: &str) -> String {
        match self {
            Self::Http => format!("http://{authority}"),
            Self::Https => format!("https://{authority}"),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(url) => f.write_str(url),
            Self::Addresses { scheme, name, port } => write!(f, "dns{}://{name}:{port}", scheme.suffix()),
            Self::Services { scheme, name } => write!(f, "srv{}://{name}", scheme.suffix()),
            Self::File { path } => write!(f, "file://{}", path.display()),
        }
    }
}

/// The workers of a file's text: a URL a line; what follows `#` is a comment.
///
/// # Errors
/// Names the first line that is none.
pub(super) fn urls(text: &str) -> Result<Vec<String>, String> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.split('#').next().unwrap_or("").trim()));
    let url = |(number, line): (usize, &str)| {
        worker(line).ok_or_else(|| {
            format!("line {number}: {line:?} is no URL of a worker, write http://HOST:PORT or https://HOST:PORT")
        })
    };
    lines.filter(|(_, line)| !line.is_empty()).map(url).collect()
}

/// A worker's URL as it was written, without what does not matter.
fn worker(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    host_and_port(rest).map(|_| format!("{scheme}://{rest}"))
}

fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port| port != 0)?;
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let fine = address.map_or_else(|| is_name(host), |address| address.parse::<std::net::Ipv6Addr>().is_ok());
    fine.then_some((host, port))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_understood_and_shown_as_it_was() {
        for text in [
            "http://vision-0:50052",
            "http://10.0.0.1:50052",
            "http://[::1]:50052",
            "https://vision-0:50052",
            "dns+tls://vision.pool.svc.cluster.local:50052",
            "srv+tls://_grpc._tcp.vision.pool.svc.cluster.local",
            "dns://vision.pool.svc.cluster.local:50052",
            "srv://_grpc._tcp.vision.pool.svc.cluster.local",
            "file:///etc/tessera/vision",
        ] {
            assert_eq!(text.parse::<Entry>().unwrap().to_string(), text);
        }
        assert_eq!("http://a:1/".parse::<Entry>().unwrap(), Entry::Worker("http://a:1".into()));
    }

    #[test]
    fn what_is_no_entry_is_refused_with_what_to_write() {
        for (text, why) in [
            ("", "names no scheme"),
            ("vision-0:50052", "names no scheme"),
            ("ftp://vision-0:50052", "has another scheme"),
            ("file+tls:///etc/vision", "has another scheme"),
            ("https://vision-0", "needs a host and a port"),
            ("http://vision-0", "needs a host and a port"),
            ("http://vision-0:0", "needs a host and a port"),
            ("http://:50052", "needs a host and a port"),
            ("http://vision 0:50052", "needs a host and a port"),
            ("http://[::g]:50052", "needs a host and a port"),
            ("http://vision-0:50052/path", "needs a host and a port"),
            ("dns://vision", "needs a name and a port"),
            ("srv://vision", "needs service, protocol and name"),
            ("srv://_grpc._tcp", "needs service, protocol and name"),
            ("file://relative", "needs a path from the root"),
            ("file:///", "needs a path from the root"),
        ] {
            let message = text.parse::<Entry>().unwrap_err().to_string();
            assert!(message.starts_with(&format!("{text:?} {why}: write http://HOST:PORT")), "{message}");
        }
    }

    #[test]
    fn a_file_has_a_url_a_line_and_comments() {
        let text = "# workers\n\nhttp://a:1   # the first\n  https://b:2/\n#http://c:3\n";
        assert_eq!(urls(text).unwrap(), ["http://a:1", "https://b:2"]);
        assert_eq!(urls("").unwrap(), [""; 0]);
        let error = urls("http://a:1\ndns://b:2\n").unwrap_err();
        assert_eq!(error, "line 2: \"dns://b:2\" is no URL of a worker, write http://HOST:PORT or https://HOST:PORT");
    }
}
