//! A server with TLS on a loopback port, and clients that are believed or not.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tessera_api::{Error, ErrorKind};
use tessera_config::{Problems, Validate};
use tessera_testkit::{Authority, Identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::{Server, ServerSettings, Tasks, client};

const REFRESH: Duration = Duration::from_millis(5);

/// A folder of certificates, and an authority that signs them.
struct World {
    folder: TempDir,
    authority: Authority,
    ca: PathBuf,
    tasks: Tasks,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("ours");
        let ca = authority.write(&folder.path().join("ca.crt"));
        Self { folder, authority, ca, tasks: Tasks::default() }
    }

    fn issue(&self, name: &str, hosts: &[&str]) -> Identity {
        self.authority.issue(self.folder.path(), name, hosts)
    }

    /// Serves health with this certificate; who is let in is decided by `client_ca`.
    async fn serve(&self, identity: &Identity, client_ca: &Path) -> SocketAddr {
        self.serve_by(Server::new(ServerSettings::default()), identity, client_ca).await
    }

    async fn serve_by(&self, server: Server, identity: &Identity, client_ca: &Path) -> SocketAddr {
        let Identity { certificate, key } = identity.clone();
        let settings = TlsSettings { certificate, key, client_ca: client_ca.to_owned(), refresh: REFRESH };
        let tls = ServerTls::start(&settings, &self.tasks).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.tasks.spawn(server.secure(tls).serve(listener, self.tasks.stop().clone()));
        address
    }

    /// What somebody gets who speaks HTTP/1.1: the protocol that was agreed on, and the response.
    async fn get(&self, address: SocketAddr, path: &str) -> io::Result<(Option<Vec<u8>>, String)> {
        let roots = authorities("ca", &std::fs::read(&self.ca)?).unwrap();
        let builder = versions(ClientConfig::builder_with_provider(provider())).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![HTTP1.to_vec()];
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok((agreed, response))
    }

    /// What believes our authority, and shows this.
    fn client(&self, own: Option<&Identity>) -> UpstreamTlsSettings {
        let (certificate, key) =
            own.map(|identity| (identity.certificate.clone(), identity.key.clone())).unwrap_or_default();
        UpstreamTlsSettings { ca: self.ca.clone(), certificate, key, refresh: REFRESH, ..Default::default() }
    }

    fn channel(&self, url: &str, settings: &UpstreamTlsSettings) -> Channel {
        client::channel_with(url, &ClientTls::start(settings, &self.tasks).unwrap()).unwrap()
    }

    async fn check(&self, url: &str, settings: &UpstreamTlsSettings) -> Result<(), Error> {
        check(&self.channel(url, settings)).await
    }
}

async fn check(channel: &Channel) -> Result<(), Error> {
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.map(|_| ()).map_err(Error::from)
}

fn assert_unreachable(outcome: Result<(), Error>, why: &str) {
    let error = outcome.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "UNREACHABLE"), "{error}");
    assert!(error.message.contains(why), "{error}");
}

#[tokio::test]
async fn a_server_is_believed_by_its_authority_and_name() {
    let world = World::new();
    let address = world.serve(&world.issue("server", &["127.0.0.1"]), Path::new("")).await;
    let (url, settings) = (format!("https://{address}"), world.client(None));
    world.check(&url, &settings).await.unwrap();

    let stranger = Authority::new("another's").write(&world.folder.path().join("other.crt"));
    assert_unreachable(
        world.check(&url, &UpstreamTlsSettings { ca: stranger, ..settings.clone() }).await,
        "UnknownIssuer",
    );
    let local = format!("https://localhost:{}", address.port());
    assert_unreachable(world.check(&local, &settings).await, "not valid for name");

    let named = world.serve(&world.issue("named", &["workers.pool"]), Path::new("")).await;
    let url = format!("https://{named}");
    assert_unreachable(world.check(&url, &settings).await, "not valid for name");
    let settings = UpstreamTlsSettings { server_name: "workers.pool".into(), ..settings };
    world.check(&url, &settings).await.unwrap();
    // Who is called by a name must have that name.
    let local = format!("https://localhost:{}", named.port());
    assert_unreachable(world.check(&local, &settings).await, "not valid for name");
}

#[tokio::test]
async fn who_does_not_speak_tls_is_not_let_in() {
    let world = World::new();
    let address = world.serve(&world.issue("server", &["127.0.0.1"]), Path::new("")).await;
    let plain = client::channel(&format!("http://{address}")).unwrap();
    assert_eq!(check(&plain).await.unwrap_err().kind, ErrorKind::Unavailable);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = listener.local_addr().unwrap();
    let server = Server::new(ServerSettings::default());
    world.tasks.spawn(server.serve(listener, world.tasks.stop().clone()));
    assert_unreachable(world.check(&format!("https://{plain}"), &world.client(None)).await, "not trusted");
}

#[tokio::test]
async fn http_is_spoken_beside_grpc_where_it_is_served() {
    let world = World::new();
    let identity = world.issue("server", &["127.0.0.1"]);
    let page = axum::Router::new().route("/page", axum::routing::get(async || "a page"));
    let server = Server::new(ServerSettings::default()).with_http(page);
    let both = world.serve_by(server, &identity, Path::new("")).await;
    let (agreed, response) = world.get(both, "/page").await.unwrap();
    assert_eq!(agreed.as_deref(), Some(HTTP1));
    assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with("a page"), "{response}");
    let (_, response) = world.get(both, "/elsewhere").await.unwrap();
    assert!(
        response.starts_with("HTTP/1.1 404 ") && response.contains("nothing is served at /elsewhere"),
        "{response}"
    );
    world.check(&format!("https://{both}"), &world.client(None)).await.unwrap();

    let grpc_only = world.serve(&identity, Path::new("")).await;
    let refused = world.get(grpc_only, "/page").await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
}

#[tokio::test]
async fn where_clients_need_a_certificate_only_those_of_the_authority_are_let_in() {
    let world = World::new();
    let address = world.serve(&world.issue("server", &["127.0.0.1"]), &world.ca).await;
    let url = format!("https://{address}");
    world.check(&url, &world.client(Some(&world.issue("client", &["gateway"])))).await.unwrap();
    let without = world.check(&url, &world.client(None)).await.unwrap_err();
    assert_eq!((without.kind, without.reason.as_ref()), (ErrorKind::Unavailable, "UNREACHABLE"), "{without}");
    let forged = Authority::new("ours").issue(world.folder.path(), "forged", &["gateway"]);
    let forged = world.check(&url, &world.client(Some(&forged))).await.unwrap_err();
    assert_eq!((forged.kind, forged.reason.as_ref()), (ErrorKind::Unavailable, "UNREACHABLE"), "{forged}");
}

#[tokio::test]
async fn probes_need_no_certificate_at_an_address_of_their_own() {
    let world = World::new();
    let Identity { certificate, key } = world.issue("server", &["127.0.0.1"]);
    let settings = TlsSettings { certificate, key, client_ca: world.ca.clone(), refresh: REFRESH };
    let tls = ServerTls::start(&settings, &world.tasks).unwrap();
    // A port that was free a moment ago.
    let probes = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = ServerSettings { health_listen: Some(probes), ..ServerSettings::default() };
    let server = Server::new(settings).secure(tls);
    world.tasks.spawn(server.serve(listener, world.tasks.stop().clone()));
    let plain = client::channel(&format!("http://{probes}")).unwrap();
    let answered = async {
        while check(&plain).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), answered).await.unwrap();
    let reflection = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(plain)
        .server_reflection_info(futures::stream::empty())
        .await;
    assert_eq!(Error::from(reflection.unwrap_err()).kind, ErrorKind::Unsupported, "nothing but health is there");
}

#[tokio::test]
async fn new_connections_go_by_new_certificates_and_broken_files_change_nothing() {
    let world = World::new();
    let identity = world.issue("server", &["127.0.0.1"]);
    let address = world.serve(&identity, Path::new("")).await;
    let (url, settings) = (format!("https://{address}"), world.client(None));
    let old = world.channel(&url, &settings);
    check(&old).await.unwrap();

    // Another authority's certificate takes the place of the first one, key first.
    let next = Authority::new("next");
    let next_ca = next.write(&world.folder.path().join("next.crt"));
    let renewed = next.issue(world.folder.path(), "renewed", &["127.0.0.1"]);
    std::fs::rename(&renewed.key, &identity.key).unwrap();
    tokio::time::sleep(REFRESH * 4).await;
    world.check(&url, &settings).await.unwrap();
    std::fs::rename(&renewed.certificate, &identity.certificate).unwrap();
    let next = UpstreamTlsSettings { ca: next_ca, ..settings.clone() };
    let renewed = async {
        while world.check(&url, &next).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.unwrap();
    assert_unreachable(world.check(&url, &settings).await, "UnknownIssuer");
    check(&old).await.unwrap();

    std::fs::write(&identity.certificate, "-----BEGIN CERTIFICATE-----\nhalf of it").unwrap();
    tokio::time::sleep(REFRESH * 4).await;
    world.check(&url, &next).await.unwrap();
}

#[tokio::test]
async fn a_client_follows_its_own_files() {
    let world = World::new();
    let address = world.serve(&world.issue("server", &["127.0.0.1"]), &world.ca).await;
    let url = format!("https://{address}");
    let own = Authority::new("nobody's").issue(world.folder.path(), "client", &["gateway"]);
    let tls = ClientTls::start(&world.client(Some(&own)), &world.tasks).unwrap();
    let channel = client::channel_with(&url, &tls).unwrap();
    assert_eq!(check(&channel).await.unwrap_err().kind, ErrorKind::Unavailable);
    world.issue("client", &["gateway"]);
    let believed = async {
        while check(&channel).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), believed).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_told_without_its_key() {
    let world = World::new();
    let (one, other) = (world.issue("one", &["a"]), world.issue("other", &["a"]));
    let secret = std::fs::read_to_string(&one.key).unwrap();
    let start = |certificate: &Path, key: &Path, client_ca: &Path| {
        let (certificate, key, client_ca) = (certificate.to_owned(), key.to_owned(), client_ca.to_owned());
        let settings = TlsSettings { certificate, key, client_ca, refresh: REFRESH };
        ServerTls::start(&settings, &world.tasks).unwrap_err().to_string()
    };
    let broken = world.folder.path().join("broken");
    std::fs::write(&broken, secret.replace("-----END", "----END")).unwrap();
    let none = Path::new("");
    for (error, why) in [
        (start(&one.certificate, &other.key, none), "certificate and key do not fit"),
        (start(&one.certificate, &broken, none), "`key` holds no private key"),
        (start(&one.key, &one.key, none), "`certificate` holds no certificate"),
        (start(&one.certificate, Path::new("/nowhere"), none), "/nowhere: "),
        (start(&one.certificate, &one.key, &one.key), "`client_ca` holds no certificate"),
    ] {
        assert!(error.starts_with("tls cannot be used: ") && error.contains(why), "{error}");
        assert!(secret.lines().all(|line| line.contains("PRIVATE KEY") || !error.contains(line)), "{error}");
    }
}

#[test]
fn a_certificate_goes_with_its_key() {
    let path = PathBuf::from("file");
    let server = |certificate: &PathBuf, key: &PathBuf, client_ca: &PathBuf| TlsSettings {
        certificate: certificate.clone(),
        key: key.clone(),
        client_ca: client_ca.clone(),
        ..Default::default()
    };
    let none = PathBuf::new();
    let mistakes = |settings: &dyn Fn(&mut Problems)| {
        let mut problems = Problems::default();
        settings(&mut problems);
        format!("{problems:?}").matches("key: ").count()
    };
    for (settings, wrong) in [
        (server(&none, &none, &none), 0),
        (server(&path, &path, &path), 0),
        (server(&path, &none, &none), 1),
        (server(&none, &path, &none), 1),
        (server(&none, &none, &path), 1),
    ] {
        assert_eq!(mistakes(&|problems| settings.validate(problems)), wrong, "{settings:?}");
    }
    let named = |name: &str| UpstreamTlsSettings { server_name: name.into(), ..Default::default() };
    assert_eq!(mistakes(&|problems| named("vision.pool").validate(problems)), 0);
    assert_eq!(mistakes(&|problems| named("no name").validate(problems)), 1);
}
