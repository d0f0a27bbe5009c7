//! One request to one host: the addresses are given, so no name is looked up, and nothing is asked of a proxy.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tessera_api::gateway::ImageUrl;
use tessera_image::Format;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Position};

use super::{Refusal, take};

/// An address that takes longer to connect to is given up for the next one.
const CONNECT: Duration = Duration::from_secs(3);
/// Lines and bytes in front of a file: more is no answer of a file server.
const HEADERS: usize = 64;
const HEADER_BYTES: usize = 16 << 10;
/// Bytes that wait to be read.
const BUFFER_BYTES: usize = 64 << 10;
/// Room that is made before a file comes, whatever its length is said to be.
const FIRST_BYTES: u64 = 1 << 20;
/// Bytes by which every format is known.
const MAGIC_BYTES: usize = 12;
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// Why no host could be trusted.
#[derive(Debug, thiserror::Error)]
pub enum UrlRootsError {
    /// The file of certificates cannot be used.
    #[error("urls.roots: {} holds no certificate that can be read: {why}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is neither a file nor anything of the system.
    #[error("the system trusts no certificate: install its list (package ca-certificates) or name one as urls.roots")]
    None,
    /// The library of ciphers does not fit.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Trusts the certificates that the system does, and those of a file.
///
/// # Errors
/// When the file cannot be read, and when there is nothing to trust.
pub(super) fn trusting(file: &Path) -> Result<Arc<ClientConfig>, UrlRootsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if !file.as_os_str().is_empty() {
        let wrong = |why: String| UrlRootsError::File { path: file.to_owned(), why };
        let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = read.map_err(|error| wrong(error.to_string()))?;
        if certificates.is_empty() {
            return Err(wrong("it has none".into()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
    }
    if roots.is_empty() {
        return Err(UrlRootsError::None);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Bytes that a file may have.
#[derive(Clone, Copy)]
pub(super) struct Room<'a> {
    pub(super) file: u64,
    /// All files of the request together.
    pub(super) request: &'a AtomicU64,
}

/// A request to one host.
pub(super) struct Exchange<'a> {
    pub(super) url: &'a ImageUrl,
    /// Its addresses, in the order in which they are tried.
    pub(super) addresses: &'a [SocketAddr],
    pub(super) tls: &'a Arc<ClientConfig>,
    pub(super) room: Room<'a>,
}

/// What a host says.
pub(super) enum Answer {
    File(Bytes),
    /// As it writes it.
    Elsewhere(String),
}

impl Exchange<'_> {
    /// Connects, asks, and reads the answer.
    pub(super) async fn run(&self) -> Result<Answer, Refusal> {
        let stream = self.connect().await?;
        if self.url.as_url().scheme() != "https" {
            return self.converse(stream).await;
        }
        let name = match self.url.as_url().host() {
            Some(Host::Domain(name)) => ServerName::try_from(name.to_owned()).map_err(|_| Refusal::Insecure)?,
            Some(Host::Ipv4(address)) => ServerName::from(address),
            Some(Host::Ipv6(address)) => ServerName::from(address),
            None => return Err(Refusal::NotAllowed),
        };
        let connected = TlsConnector::from(Arc::clone(self.tls)).connect(name, stream).await;
        self.converse(connected.map_err(|error| self.noted(&error, Refusal::Insecure))?).await
    }

    /// Connects to the first address that lets us.
    async fn connect(&self) -> Result<TcpStream, Refusal> {
        for address in self.addresses {
            match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => self.noted(&error, Refusal::Unreachable),
                Err(_) => self.noted(&io::Error::from(io::ErrorKind::TimedOut), Refusal::Unreachable),
            };
        }
        Err(Refusal::Unreachable)
    }

    async fn converse<S>(&self, stream: S) -> Result<Answer, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: hyper::Error| self.noted(&error, Refusal::Broken);
        let (mut sender, connection) = http1::Builder::new()
            .max_headers(HEADERS)
            .max_header_size(HEADER_BYTES)
            .max_buf_size(BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let request = self.request()?;
        let asking = pin!(async {
            let response = sender.send_request(request).await.map_err(broken)?;
            self.read(response).await
        });
        // The connection is a part of this request and not a task of its own: it ends when nobody waits for it any more.
        match select(asking, pin!(connection)).await {
            Either::Left((answer, _)) => answer,
            // All that it has brought can still be read; its error is also that of what waits for it.
            Either::Right((_, asking)) => asking.await,
        }
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, Refusal> {
        let url = self.url.as_url();
        let request = Request::get(&url[Position::BeforePath..Position::AfterQuery])
            .header(HOST, &url[Position::BeforeHost..Position::AfterPort])
            .header(USER_AGENT, concat!("tessera/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "image/*")
            .header(ACCEPT_ENCODING, "identity")
            .header(CONNECTION, "close");
        request.body(Empty::new()).map_err(|_| Refusal::NotAllowed)
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Answer, Refusal> {
        let status = response.status().as_u16();
        if REDIRECTS.contains(&status) {
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            return location.map(|location| Answer::Elsewhere(location.to_owned())).ok_or(Refusal::Redirect);
        }
        if status != 200 {
            return Err(Refusal::Status(status));
        }
        let mut body = response.into_body();
        let said = body.size_hint().lower();
        if said > self.room.file {
            return Err(Refusal::TooLarge);
        }
        // What is said is not believed: neither that it is long nor that it is short.
        let mut file = BytesMut::with_capacity(usize::try_from(said.min(FIRST_BYTES)).unwrap_or_default());
        let mut is_image = false;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| self.noted(&error, Refusal::Broken))?.into_data() else { continue };
            if (file.len() + data.len()) as u64 > self.room.file {
                return Err(Refusal::TooLarge);
            }
            if !take(self.room.request, data.len() as u64) {
                return Err(Refusal::RequestTooLarge);
            }
            file.extend_from_slice(&data);
            if !is_image && file.len() >= MAGIC_BYTES {
                is_image = Format::of(&file).is_some();
                if !is_image {
                    return Err(Refusal::NoImage);
                }
            }
        }
        if is_image { Ok(Answer::File(file.freeze())) } else { Err(Refusal::NoImage) }
    }

    /// Tells the operator what the client is not told, and of the URL no more than its host.
    fn noted(&self, error: &dyn std::error::Error, refusal: Refusal) -> Refusal {
        tracing::debug!(url = %self.url, %error, "an image could not be fetched");
        refusal
    }
}
