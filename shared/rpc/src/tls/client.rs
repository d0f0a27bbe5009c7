//! The client's side: whose certificates are believed, and the one that is shown.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Uri;

use super::server::unfit;
use super::{HTTP2, UpstreamTlsSettings, authorities, certificates, key, provider, versions};
use crate::files::{FileError, Files, Watched};
use crate::tasks::Tasks;

/// The port of `https://` URLs that name none.
const PORT: u16 = 443;

/// Which servers a client believes, and who it is itself. By default it believes those that the system does, and shows
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct ClientTls {
    config: Config,
    /// Of servers that are known by their address alone.
    server_name: Option<ServerName<'static>>,
}

#[derive(Clone, Debug)]
enum Config {
    /// The system's authorities, read when they are first needed.
    System(Arc<OnceLock<Result<Arc<ClientConfig>, String>>>),
    Files(Watched<ClientConfig>),
}

impl Default for Config {
    fn default() -> Self {
        Self::System(Arc::default())
    }
}

impl ClientTls {
    /// Reads authorities, certificate and key, and again when their files change.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what it should.
    pub fn start(settings: &UpstreamTlsSettings, tasks: &Tasks) -> Result<Self, FileError> {
        // What is no name was reported with the settings.
        let server_name = ServerName::try_from(settings.server_name.clone()).ok();
        let (has_ca, has_certificate) = (!settings.ca.as_os_str().is_empty(), settings.has_certificate());
        if !has_ca && !has_certificate {
            return Ok(Self { config: Config::default(), server_name });
        }
        let UpstreamTlsSettings { ca, certificate, key, refresh, .. } = settings.clone();
        let own = if has_certificate { vec![certificate, key] } else { Vec::new() };
        let paths = if has_ca { [vec![ca], own].concat() } else { own };
        let read = move |files: &[Vec<u8>]| {
            let (ca, own) = files.split_at(usize::from(has_ca));
            config(ca.first().map(Vec::as_slice), own)
        };
        let files = Files { what: "upstream_tls", paths, refresh };
        Ok(Self { config: Config::Files(Watched::start(files, read, tasks)?), server_name })
    }

    /// Connects to the server of an `https://` URL, which must prove that it is the one.
    pub(crate) async fn connect(&self, uri: Uri) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let host = uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = uri.port_u16().unwrap_or(PORT);
        let (name, config) = (self.name(host)?, self.config().map_err(io::Error::other)?);
        let stream = TcpStream::connect((host, port)).await?;
        // Nagle's algorithm would hold every small message back for tens of milliseconds.
        stream.set_nodelay(true)?;
        let connecting = TlsConnector::from(config).connect(name, stream).await;
        connecting.map(TokioIo::new).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{host}:{port} is not trusted, or does not trust this client: {error}"),
            )
        })
    }

    /// The name that a server's certificate must have.
    fn name(&self, host: &str) -> io::Result<ServerName<'static>> {
        match &self.server_name {
            Some(name) if host.parse::<IpAddr>().is_ok() => Ok(name.clone()),
            _ => ServerName::try_from(host.to_owned())
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is no name of a server"))),
        }
    }

    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        match &self.config {
            Config::Files(config) => Ok(config.current()),
            Config::System(config) => config.get_or_init(|| self::config(None, &[]).map(Arc::new)).clone(),
        }
    }
}

/// Of the files of authorities, or the system's, and of certificate and key, if there are any.
fn config(ca: Option<&[u8]>, own: &[Vec<u8>]) -> Result<ClientConfig, String> {
    let roots = match ca {
        Some(pem) => authorities("the file of `ca`", pem)?,
        None => system_authorities()?,
    };
    let builder = versions(ClientConfig::builder_with_provider(provider()))?.with_root_certificates(roots);
    let mut config = match own {
        [certificate, own_key] => {
            let chain = certificates("the file of `certificate`", certificate)?;
            let own_key = key("the file of `key`", own_key)?;
            builder.with_client_auth_cert(chain, own_key).map_err(|error| unfit(&error))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn system_authorities() -> Result<Arc<RootCertStore>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Of a system's hundreds, some are of kinds that the library does not read.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!(
            "the system has no authorities that certificates could be signed by{why}: name a file of some"
        ));
    }
    Ok(Arc::new(roots))
}
