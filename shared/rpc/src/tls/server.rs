//! The server's side: connections are let in once their handshake is done.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{HTTP1, HTTP2, TlsSettings, authorities, certificates, key, provider, versions};
use crate::files::{FileError, Files, Watched};
use crate::tasks::Tasks;

/// A connection that has not shaken hands by then is closed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Handshakes under way at once; more connections wait to be accepted.
const HANDSHAKES: usize = 512;

/// Who a server is, and whom it lets in.
#[derive(Clone, Debug)]
pub struct ServerTls(Watched<ServerConfig>);

impl ServerTls {
    /// Reads certificates and keys, and again when their files change. `None` where there is to be no TLS.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what it should.
    pub fn start(settings: &TlsSettings, tasks: &Tasks) -> Result<Option<Self>, FileError> {
        if !settings.is_on() {
            return Ok(None);
        }
        let TlsSettings { certificate, key, client_ca, refresh } = settings.clone();
        let mut paths = vec![certificate, key];
        if !client_ca.as_os_str().is_empty() {
            paths.push(client_ca);
        }
        let files = Files { what: "tls", paths, refresh };
        Watched::start(files, config, tasks).map(|config| Some(Self(config)))
    }

    /// Shakes hands with whoever comes, many at a time. A connection that fails to is closed. `http1`: HTTP/1.1 is spoken, too.
    pub(crate) fn accept(
        self,
        incoming: impl Stream<Item = io::Result<TcpStream>> + Send,
        http1: bool,
    ) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> + Send {
        let handshakes = incoming.map(move |accepted| {
            let mut config = self.0.current();
            if http1 {
                Arc::make_mut(&mut config).alpn_protocols.push(HTTP1.to_vec());
            }
            let acceptor = TlsAcceptor::from(config);
            async move {
                match accepted {
                    Ok(stream) => handshake(acceptor, stream).await.map(Ok),
                    Err(error) => Some(Err(error)),
                }
            }
        });
        handshakes.buffer_unordered(HANDSHAKES).filter_map(|outcome| async move { outcome })
    }
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let peer = stream.peer_addr().ok();
    let problem = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no handshake in {PATIENCE:?}"),
    };
    // Whoever reaches the port can cause this line, so it is none that is logged by default; honest clients are told.
    tracing::debug!(?peer, problem, "a connection was refused");
    None
}

/// Of the files of certificate, key and, where clients are asked for theirs, authorities.
fn config(files: &[Vec<u8>]) -> Result<ServerConfig, String> {
    let [certificate, own_key, client_ca @ ..] = files else { return Err("there is no key".into()) };
    let builder = versions(ServerConfig::builder_with_provider(provider()))?;
    let builder = match client_ca.first() {
        Some(pem) => {
            let roots = authorities("the file of `client_ca`", pem)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
        }
        None => builder.with_no_client_auth(),
    };
    let chain = certificates("the file of `certificate`", certificate)?;
    let own_key = key("the file of `key`", own_key)?;
    let mut config = builder.with_single_cert(chain, own_key).map_err(|error| unfit(&error))?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    // Every connection is verified by the files of its own time; inside, connections are few and long.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What is wrong with a certificate and a key that were read.
pub(super) fn unfit(error: &rustls::Error) -> String {
    format!("certificate and key do not fit: {error}")
}
