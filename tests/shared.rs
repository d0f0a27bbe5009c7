//! A tier that workers share, with real services and a real Redis: what one worker encoded the next one has, and when the
//! server goes nobody stops.
//!
//! Not among the tests that a Rust toolchain is enough for: `.ci/run` installs Redis and runs it. By hand:
//! `cargo test -p tessera-tests --test shared`, with `redis-server` on PATH.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

#[path = "system/client.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod client;
#[path = "system/cluster.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod cluster;
#[path = "system/conversation.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod conversation;
#[path = "system/running.rs"]
mod running;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tessera_api::embedding::StoredImage;
use tessera_embedding::ImageKey;
use tessera_testkit::picture;
use tessera_vision::SharedSettings;

use client::{Client, assert_reference, by_handles};
use cluster::{Cluster, limited};

/// A Redis server that keeps nothing on disk. Killed when it is dropped.
struct Redis(Child);

impl Redis {
    fn start(port: u16, folder: &Path) -> Self {
        let port = port.to_string();
        let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let server = Command::new("redis-server").args(arguments).current_dir(folder).stdout(Stdio::null()).spawn();
        Self(server.expect("there is a redis-server on PATH: apt-get install redis-server"))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn worker(port: u16) -> Cluster {
    let url = format!("redis://127.0.0.1:{port}");
    Cluster::start("mistral", |settings| settings.vision.store.shared = SharedSettings { url, ..Default::default() })
        .await
}

/// Waits until a worker has seen an image in the shared tier, which is written behind.
async fn shared(client: &Client, key: ImageKey) -> StoredImage {
    loop {
        if let Some(stored) = client.stat(key).await.filter(|stored| stored.tiers.shared) {
            return stored;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn what_one_worker_encoded_the_next_one_has_and_a_lost_server_stops_nobody() {
    limited(async {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let redis = Redis::start(port, folder.path());
        let first = worker(port).await;
        let client = Client::of(&first.gateway);
        // The breaker may have seen the server away while it was starting: until it closes, nothing is written there.
        let key = loop {
            client.encode(picture("one_image", 0)).await.unwrap();
            let encoded = client.encode(picture("portrait", 0)).await.unwrap();
            if tokio::time::timeout(Duration::from_secs(3), shared(&client, encoded.image.key)).await.is_ok() {
                break encoded.image.key;
            }
            client.forget(encoded.image.key).await;
        };

        let second = worker(port).await;
        let reply = second.ask(by_handles("portrait", &[key])).await.unwrap();
        assert_reference(&reply, "mistral", "portrait");
        // By its file it is known, too: a hit of the shared tier is no encoding.
        let third = worker(port).await;
        assert!(Client::of(&third.gateway).encode(picture("portrait", 0)).await.unwrap().stored_before);

        drop(redis);
        // What is in memory is served, what is not is encoded.
        let reply = second.ask(by_handles("portrait", &[key])).await.unwrap();
        assert_reference(&reply, "mistral", "portrait");
        second.answers_as_the_reference("mistral", "two_images").await;

        // It comes back empty, and is written to again without anybody's doing.
        let _redis = Redis::start(port, folder.path());
        let client = Client::of(&second.gateway);
        let mut number = 0_u32;
        loop {
            // What follows the end of a PNG file is not read, but it makes another image of it.
            let image = [picture("one_image", 0), number.to_le_bytes().to_vec()].concat();
            let key = client.encode(image).await.unwrap().image.key;
            if tokio::time::timeout(Duration::from_secs(2), shared(&client, key)).await.is_ok() {
                break;
            }
            number += 1;
        }
    });
}
