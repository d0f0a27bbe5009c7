//! Where the shared tier is, and its bounds.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tessera_config::Secret;
use url::Url;

use super::RemoteError;

/// What can be written as a URL, for messages.
const FORMS: &str = "redis://HOST[:PORT][/DATABASE], rediss://…, s3://BUCKET[/PREFIX] or file:///FOLDER";

/// Which server, and how much it is asked to hold.
#[derive(Clone)]
pub struct RemoteOptions {
    /// The server; see [`super::connect`] for the forms. A password in it is shown nowhere.
    pub url: String,
    /// Artifact bytes that the tier holds at most. What the server needs besides is not counted: give Redis a `maxmemory`
    /// of a quarter more.
    pub bytes: u64,
    /// The largest artifact that is written or read; no more is taken into memory from the server. Writing one to Redis
    /// takes three times its bytes while it lasts, everything else no more than one time.
    pub max_artifact_bytes: u64,
    /// How long a connection may take to come about, and an answer to come.
    pub timeout: Duration,
    /// Redis: artifacts that nobody used for so long expire, and so do those that its books have lost.
    pub idle: Duration,
    /// Objects: how often what other writers did is counted.
    pub sweep_every: Duration,
    /// Redis: connections that are kept while nobody uses them.
    pub idle_connections: usize,
    /// Redis: the password, unless it is in the URL.
    pub password: Option<Secret>,
    /// S3: URL of a server other than Amazon's, `http://…` or `https://…`.
    pub endpoint: Option<String>,
    /// S3: region; `us-east-1` if nothing is said.
    pub region: Option<String>,
    /// S3: requests are not signed without.
    pub credentials: Option<Credentials>,
    /// Certificates, as PEM, of the authorities that are trusted with TLS instead of the machine's own.
    pub authorities: Option<Vec<u8>>,
}

/// An access key of S3.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Its name.
    pub key_id: String,
    /// The key.
    pub secret_key: Secret,
    /// The session that it belongs to, if it is a temporary one.
    pub session_token: Option<Secret>,
}

/// A URL, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Address {
    Redis(Url),
    S3 { bucket: String, prefix: String },
    Folder(PathBuf),
}

impl RemoteOptions {
    /// Options with every bound at a sensible value and no secrets.
    pub fn new(url: impl Into<String>, bytes: u64) -> Self {
        Self {
            url: url.into(),
            bytes,
            max_artifact_bytes: bytes.min(256 << 20),
            timeout: Duration::from_secs(2),
            idle: Duration::from_hours(30 * 24),
            sweep_every: Duration::from_mins(10),
            idle_connections: 16,
            password: None,
            endpoint: None,
            region: None,
            credentials: None,
            authorities: None,
        }
    }

    /// The server's address. Says of every option that does not go with it that it does not.
    pub(super) fn address(&self) -> Result<Address, RemoteError> {
        let url = Url::parse(&self.url).map_err(|error| wrong(&format!("it is no URL ({error})")))?;
        let only = |given: bool, option: &str, scheme: &str| {
            let message = format!("option {option} of the shared store goes with {scheme} URLs only");
            if given { Err(RemoteError::Options(message)) } else { Ok(()) }
        };
        let is_redis = matches!(url.scheme(), "redis" | "rediss");
        if !is_redis {
            only(self.password.is_some(), "password", "redis")?;
        }
        if url.scheme() != "s3" {
            only(self.endpoint.is_some(), "endpoint", "s3")?;
            only(self.region.is_some(), "region", "s3")?;
            only(self.credentials.is_some(), "credentials", "s3")?;
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("nothing may follow a ? or # in it"));
        }
        if self.max_artifact_bytes == 0 || self.max_artifact_bytes > self.bytes {
            return Err(RemoteError::Options(format!(
                "the shared store may hold {} bytes, its largest artifact must have 1 to as many, not {}",
                self.bytes, self.max_artifact_bytes
            )));
        }
        let host = url.host_str().unwrap_or_default();
        match url.scheme() {
            "redis" | "rediss" if host.is_empty() => Err(wrong("it names no host")),
            "redis" | "rediss" => Ok(Address::Redis(url)),
            "s3" if host.is_empty() => Err(wrong("it names no bucket")),
            "s3" if !url.username().is_empty() || url.password().is_some() || url.port().is_some() => {
                Err(wrong("an s3 URL is bucket and prefix; the rest are options"))
            }
            "s3" => Ok(Address::S3 { bucket: host.into(), prefix: url.path().trim_matches('/').into() }),
            "file" => match url.to_file_path() {
                Ok(path) if path.parent().is_some() => Ok(Address::Folder(path)),
                _ => Err(wrong("a file URL is an absolute folder of this machine, and not the root")),
            },
            scheme => Err(wrong(&format!("there is no store for the scheme {scheme}"))),
        }
    }
}

/// The URL is not shown: there may be a password in it.
fn wrong(why: &str) -> RemoteError {
    RemoteError::Options(format!("URL of the shared store: {why}; it can be {FORMS}"))
}

impl fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = Url::parse(&self.url).map(|mut url| {
            if url.password().is_some() {
                // A URL without a host has no password either.
                let _ = url.set_password(Some("***"));
            }
            url.to_string()
        });
        f.debug_struct("RemoteOptions")
            .field("url", &url.unwrap_or_else(|_| "no URL".into()))
            .field("bytes", &self.bytes)
            .field("max_artifact_bytes", &self.max_artifact_bytes)
            .field("timeout", &self.timeout)
            .field("idle", &self.idle)
            .field("sweep_every", &self.sweep_every)
            .field("idle_connections", &self.idle_connections)
            .field("password", &self.password)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("credentials", &self.credentials)
            .field("authorities", &self.authorities.as_ref().map(Vec::len))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address, String> {
        RemoteOptions::new(url, 1 << 30).address().map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_of_server_has_its_url() {
        for url in ["redis://cache", "redis://:pass@cache:6380/3", "rediss://[::1]:6379/0"] {
            assert_eq!(address(url), Ok(Address::Redis(Url::parse(url).unwrap())));
        }
        let s3 = |bucket: &str, prefix: &str| Ok(Address::S3 { bucket: bucket.into(), prefix: prefix.into() });
        assert_eq!(address("s3://bucket"), s3("bucket", ""));
        assert_eq!(address("s3://bucket/a/b/"), s3("bucket", "a/b"));
        assert_eq!(address("file:///mnt/a%20b"), Ok(Address::Folder("/mnt/a b".into())));
    }

    #[test]
    fn a_url_of_no_server_is_refused_with_what_is_possible() {
        let wrong = [
            ("", "it is no URL"),
            ("cache:6379", "no store for the scheme cache"),
            ("memcached://cache", "no store for the scheme memcached"),
            ("redis://", "names no host"),
            ("redis://cache/0?protocol=resp3", "? or #"),
            ("rediss://cache/#insecure", "? or #"),
            ("s3:///prefix", "names no bucket"),
            ("s3://key:secret@bucket", "the rest are options"),
            ("s3://bucket:9000", "the rest are options"),
            ("file:///", "not the root"),
            ("file://other/folder", "of this machine"),
        ];
        for (url, why) in wrong {
            let message = address(url).unwrap_err();
            assert!(message.contains(why) && message.contains("redis://HOST[:PORT]"), "{url}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn options_that_do_not_go_with_the_server_are_refused() {
        let refused = |url: &str, change: fn(&mut RemoteOptions)| {
            let mut options = RemoteOptions::new(url, 1 << 30);
            change(&mut options);
            options.address().unwrap_err().to_string()
        };
        let message = refused("redis://cache", |options| options.region = Some("eu".into()));
        assert_eq!(message, "option region of the shared store goes with s3 URLs only");
        let message = refused("s3://bucket", |options| options.password = Some(Secret::new("x")));
        assert_eq!(message, "option password of the shared store goes with redis URLs only");
        let message = refused("s3://bucket", |options| options.bytes = 1000);
        assert!(message.contains("may hold 1000 bytes"), "{message}");
    }

    #[test]
    fn no_secret_is_shown() {
        let mut options = RemoteOptions::new("redis://user:pass1@cache", 1 << 30);
        options.password = Some(Secret::new("pass2"));
        options.credentials = Some(Credentials {
            key_id: "id".into(),
            secret_key: Secret::new("pass3"),
            session_token: Some(Secret::new("pass4")),
        });
        let shown = format!("{options:?}");
        assert!(shown.contains("redis://user:***@cache") && !shown.contains("pass1"), "{shown}");
        for secret in ["pass2", "pass3", "pass4"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
