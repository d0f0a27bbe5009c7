//! The way to a gateway: its URL, whom we believe, and who we are.

use std::net::IpAddr;

use anyhow::{Context, ensure};
use tessera_api::Result;
use tessera_rpc::{ClientTls, Tasks, UpstreamTlsSettings, client};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Uri};
use tonic::{Request, Status};

use crate::cli::AccessFlags;
use crate::{files, output};

/// A channel on which every request says who asks.
pub(super) type Way = InterceptedService<Channel, Bearer>;

/// The way to a gateway.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// Where it is.
    pub(super) url: String,
    tls: ClientTls,
    bearer: Bearer,
}

/// Says who asks, if there is a token. It is not shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Bearer(Option<AsciiMetadataValue>);

impl Access {
    /// The way to a gateway of this process.
    pub(crate) fn local(url: String) -> Self {
        Self { url, tls: ClientTls::default(), bearer: Bearer::default() }
    }

    /// The way to a gateway that runs elsewhere.
    ///
    /// # Errors
    /// When a file that a flag names cannot be used.
    pub(crate) fn to(url: &str, flags: &AccessFlags) -> anyhow::Result<Self> {
        let file = |flag: &Option<std::path::PathBuf>| flag.clone().unwrap_or_default();
        let settings = UpstreamTlsSettings {
            ca: file(&flags.ca),
            certificate: file(&flags.certificate),
            key: file(&flags.key),
            ..UpstreamTlsSettings::default()
        };
        let tls =
            ClientTls::start(&settings, &Tasks::default()).context("--ca, --certificate or --key cannot be used")?;
        let token = match (&flags.token_file, &flags.token) {
            (Some(path), _) => files::read_text(path)?.trim().to_owned(),
            (None, Some(token)) => token.expose().to_owned(),
            (None, None) => String::new(),
        };
        if !token.is_empty() && is_open(url) {
            output::note(&format!("the token goes to {url} unencrypted: use https:// if others can listen"));
        }
        Ok(Self { url: url.to_owned(), tls, bearer: Bearer::of(&token)? })
    }

    /// Makes a channel.
    ///
    /// # Errors
    /// When the URL is none.
    pub(super) fn open(&self) -> Result<Way> {
        Ok(InterceptedService::new(client::channel_with(&self.url, &self.tls)?, self.bearer.clone()))
    }
}

impl Bearer {
    fn of(token: &str) -> anyhow::Result<Self> {
        if token.is_empty() {
            return Ok(Self::default());
        }
        // What is not one word would be read as something else.
        let is_word = token.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(is_word, "the token is none: it must be one word of ASCII letters, digits and signs");
        let mut value = AsciiMetadataValue::try_from(format!("Bearer {token}"))?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Whether others may listen to what goes to this URL.
fn is_open(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    uri.scheme_str() == Some("http") && !is_here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_and_never_shown() {
        let mut bearer = Bearer::of("open-sesame").unwrap();
        let sent = bearer.call(Request::new(())).unwrap();
        assert_eq!(sent.metadata().get("authorization").unwrap(), "Bearer open-sesame");
        assert!(!format!("{bearer:?} {:?}", sent.metadata()).contains("sesame"));
        assert!(Bearer::default().call(Request::new(())).unwrap().metadata().is_empty());
        for wrong in ["open sesame", "open\nsesame", "öpen"] {
            let error = Bearer::of(wrong).unwrap_err();
            assert!(!format!("{error:?}").contains("sesame"), "{error:?}");
        }
    }

    #[test]
    fn others_may_listen_to_what_is_not_encrypted() {
        for (url, open) in [
            ("http://gateway:1", true),
            ("http://10.0.0.1:1", true),
            ("https://gateway:1", false),
            ("http://localhost:1", false),
            ("http://127.0.0.1:1", false),
            ("http://[::1]:1", false),
        ] {
            assert_eq!(is_open(url), open, "{url}");
        }
    }
}
