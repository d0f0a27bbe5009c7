//! How a gateway is reached: over real connections where it matters.

use std::fs;
use std::time::Duration;

use tessera_client::{Client, Encode, ErrorKind, Health};
use tessera_rpc::{Server, ServerSettings, ServerTls, Tasks, TlsSettings};
use tessera_testkit::Authority;

use crate::stand_in::{Plan, key, listen};

#[tokio::test]
async fn a_gateway_is_there_or_not() {
    let plan = Plan::new();
    let url = format!("http://{}", listen(plan.server()).await);
    let client = Client::connect(&url).await.unwrap();
    assert_eq!((client.health().await, client.url()), (Ok(Health::Serving), url.as_str()));
    assert_eq!(client.generate("What?").await.unwrap().text().await.unwrap(), "a bar");

    let worker = listen(Server::new(ServerSettings::default())).await;
    let error = Client::connect(format!("http://{worker}")).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::NotFound, "NO_GATEWAY"));

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Client::connect(format!("http://{free}")).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "UNREACHABLE"));
    assert!(error.message.contains(&format!("no gateway at http://{free}")), "{error}");
}

#[tokio::test]
async fn a_gateway_with_a_certificate_is_believed_and_sees_ours() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
    let ca = authority.write(&folder.path().join("ca.crt"));
    let theirs = authority.issue(folder.path(), "gateway", &["127.0.0.1"]);
    let ours = authority.issue(folder.path(), "client", &["client.test"]);
    let tls = TlsSettings {
        certificate: theirs.certificate,
        key: theirs.key,
        client_ca: ca.clone(),
        ..TlsSettings::default()
    };
    let tls = ServerTls::start(&tls, &Tasks::default()).unwrap();
    let url = format!("https://{}", listen(Plan::new().server().secure(tls)).await);

    let builder = Client::builder(&url).ca(&ca);
    let client = builder.clone().certificate(&ours.certificate, &ours.key).connect().await.unwrap();
    assert_eq!(client.encode(b"one".to_vec()).await.unwrap().image.key, key(b"one"));
    // Who shows nothing is not let in, and strangers are not believed.
    for stranger in [builder, Client::builder(&url).certificate(&ours.certificate, &ours.key)] {
        assert_eq!(stranger.connect().await.unwrap_err().kind, ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_said_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    fs::write(&empty, "").unwrap();
    let url = "http://127.0.0.1:9";
    let cases = [
        (Client::builder("127.0.0.1:9"), "URL_INVALID", "http://HOST:PORT"),
        (Client::builder("ftp://a"), "URL_INVALID", "http://HOST:PORT"),
        (Client::builder(url).token("two words"), "TOKEN_MALFORMED", "one word"),
        (Client::builder(url).token_file("/nowhere/token"), "FILE_UNUSABLE", "/nowhere/token"),
        (Client::builder(url).token_file(&empty), "FILE_UNUSABLE", "one word"),
        (Client::builder(url).ca(&empty), "FILE_UNUSABLE", "no certificate"),
        (Client::builder(url).certificate("/nowhere/c", "/nowhere/k"), "FILE_UNUSABLE", "/nowhere/c"),
    ];
    for (builder, reason, word) in cases {
        let error = builder.build().unwrap_err();
        assert!(error.reason == reason && error.message.contains(word), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_said_with_every_call_and_large_ones_may_be_compressed() {
    let plan = Plan::new();
    let client = plan.client_of(Client::builder("http://gateway").token("open-sesame").compress());
    client.generate("What?").await.unwrap().text().await.unwrap();
    client.encode(Encode::new("one").lease(Duration::from_secs(5))).await.unwrap();
    client.store().stat(&[key(b"one")]).await.unwrap();
    let heard = plan.heard.lock().unwrap();
    let said = |name| heard.iter().map(move |heard| heard.metadata.get(name).map(|value| value.to_str().unwrap()));
    assert!(said("authorization").all(|value| value == Some("Bearer open-sesame")));
    assert_eq!(said("grpc-encoding").collect::<Vec<_>>(), [Some("gzip"), Some("gzip"), None]);
    assert!(!format!("{client:?}").contains("sesame"));
}
