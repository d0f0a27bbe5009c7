//! A server that says what a test wants, byte by byte.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::NamedTempFile;
use tessera_rpc::Tasks;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a server does once it was asked.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Send(Vec<u8>),
    Wait(Duration),
    /// Sends this until nobody reads any more.
    Repeat(Vec<u8>),
    /// The same, but slowly.
    Drip(&'static [u8]),
    /// Says nothing more and keeps the connection.
    Hang,
}

/// A server that runs until its test is over.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// Its own, which it shows where it speaks TLS.
    pub(super) certificate: Certificate,
    asked: Arc<Mutex<Vec<String>>>,
}

/// A certificate for `localhost`, signed by itself.
pub(super) struct Certificate {
    pem: NamedTempFile,
    key: String,
}

impl Certificate {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let pem = NamedTempFile::new().unwrap();
        std::fs::write(pem.path(), made.cert.pem()).unwrap();
        Self { pem, key: made.signing_key.serialize_pem() }
    }

    /// Where it is, as long as this lives.
    pub(super) fn file(&self) -> PathBuf {
        self.pem.path().to_owned()
    }

    /// Speaks TLS with it.
    fn acceptor(&self) -> TlsAcceptor {
        let chain = vec![CertificateDer::from_pem_file(self.file()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()))
    }
}

impl Server {
    /// Serves what `acts` says for the path of a request.
    pub(super) async fn start(acts: impl Fn(&str) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::serve(Certificate::new(), |_| None, acts).await
    }

    /// The same over TLS.
    pub(super) async fn start_tls(acts: impl Fn(&str) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::serve(Certificate::new(), |certificate| Some(certificate.acceptor()), acts).await
    }

    async fn serve(
        certificate: Certificate,
        tls: impl FnOnce(&Certificate) -> Option<TlsAcceptor>,
        acts: impl Fn(&str) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        let tls = tls(&certificate);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (heads, acts, tasks) = (Arc::clone(&asked), Arc::new(acts), Tasks::default());
        tasks.clone().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (heads, acts, tls) = (Arc::clone(&heads), Arc::clone(&acts), tls.clone());
                tasks.spawn(async move {
                    match tls {
                        None => play(stream, &heads, &*acts).await,
                        // A client that does not trust it ends the handshake.
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => play(stream, &heads, &*acts).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { address, certificate, asked }
    }

    /// Where a path of it is.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// The heads of all requests so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Reads a request and answers it; ends when the client leaves.
async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    heads: &Mutex<Vec<String>>,
    acts: &(dyn Fn(&str) -> Vec<Act> + Send + Sync),
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    heads.lock().unwrap().push(head);
    for act in acts(&path) {
        match act {
            Act::Send(bytes) => stream.write_all(&bytes).await.ok()?,
            Act::Wait(time) => tokio::time::sleep(time).await,
            Act::Repeat(bytes) => loop {
                stream.write_all(&bytes).await.ok()?;
            },
            Act::Drip(bytes) => loop {
                stream.write_all(bytes).await.ok()?;
                stream.flush().await.ok()?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            },
            Act::Hang => std::future::pending().await,
        }
    }
    stream.shutdown().await.ok()
}
