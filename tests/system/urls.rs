//! Images that a request names by URL, from a server on a loopback port, through all three services.

use std::net::SocketAddr;

use bytes::Bytes;
use tessera_api::ErrorKind;
use tessera_api::gateway::{GenerateRequest, ImageSource, Part};
use tessera_config::ByteSize;
use tessera_embedding::ImageKey;
use tessera_gateway::{Scheme, UrlSettings};
use tessera_rpc::Tasks;
use tessera_testkit::picture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::client::assert_reference;
use crate::cluster::{Cluster, limited};
use crate::conversation::{question, request};

/// Serves the picture of a case, whatever is asked for.
async fn serve(file: Bytes) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Tasks::default().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let status = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len());
            stream.write_all(&[status.as_bytes(), &file].concat()).await.unwrap();
        }
    });
    address
}

/// What lets a gateway fetch from a port of this machine.
fn loopback(address: SocketAddr) -> UrlSettings {
    UrlSettings {
        enabled: true,
        allow: vec![format!("http://{address}").parse().unwrap()],
        schemes: vec![Scheme::Http],
        private: vec!["127.0.0.1/32".parse().unwrap()],
        ..UrlSettings::default()
    }
}

/// The conversation of a case about a picture at a URL.
fn about(url: &str) -> GenerateRequest {
    let mut asked = request("one_image", 0);
    let part = asked.input.parts_mut().find(|part| matches!(part, Part::Image(_))).unwrap();
    *part = Part::Image(ImageSource::Url(url.parse().unwrap()));
    asked
}

#[test]
fn an_image_at_a_url_is_the_image_of_its_bytes() {
    limited(async {
        let file = Bytes::from(picture("one_image", 0));
        let address = serve(file.clone()).await;
        let cluster = Cluster::start("mistral", |settings| settings.gateway.urls = loopback(address)).await;
        let reply = cluster.ask(about(&format!("http://{address}/a.png?signature=1"))).await.unwrap();
        assert_reference(&reply, "mistral", "one_image");
        let key = ImageKey::of(b"", &cluster.fingerprint().await, &file);
        assert_eq!(reply.started.images[0].key, key);
        // Wherever it comes from, it is stored by now.
        for asked in [about(&format!("http://{address}/b.png?signature=2")), request("one_image", 0)] {
            let reply = cluster.ask(asked).await.unwrap();
            assert_reference(&reply, "mistral", "one_image");
            assert_eq!(reply.finished.timings.images_stored_before, 1);
        }
        let error = cluster.ask(about("http://another.test/a.png")).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "URL_NOT_ALLOWED"));
        assert_eq!(error.fields[0].field, "messages[0].parts[0].image.url");
    });
}

#[test]
fn nothing_is_fetched_unless_the_settings_say_so() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let error = cluster.ask(about("https://example.com/a.png")).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Precondition, "URLS_DISABLED"));
        assert!(error.message.contains("send the file"), "{error}");
    });
}

#[test]
fn a_fetched_file_counts_as_if_it_had_been_sent() {
    limited(async {
        let file = Bytes::from(picture("one_image", 0));
        let address = serve(file.clone()).await;
        let cluster = Cluster::start("mistral", |settings| {
            settings.gateway.urls = loopback(address);
            settings.gateway.limits.request = ByteSize::bytes(file.len() as u64);
        })
        .await;
        // The file alone is as long as a request may be, and the question has words, too.
        let error = cluster.ask(about(&format!("http://{address}/a.png"))).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "MESSAGE_TOO_LARGE"));
        let one = about("https://example.com/a.png").input.parts().next().cloned();
        let many = question(vec![one.unwrap(); 17]);
        let error = cluster.ask(many).await.unwrap_err();
        assert_eq!(error.reason, "TOO_MANY_IMAGES", "before anything is fetched");
    });
}
