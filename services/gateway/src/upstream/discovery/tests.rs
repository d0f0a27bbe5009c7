//! Lists of workers over a scripted world, with paused time.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use super::*;

/// What is found under a name or path; what is not here cannot be looked up.
#[derive(Clone, Debug, Default)]
struct World(Arc<Mutex<HashMap<String, Vec<String>>>>);

impl World {
    fn set(&self, name: &str, found: &[&str]) {
        self.0.lock().unwrap().insert(name.to_owned(), found.iter().map(|&url| url.to_owned()).collect());
    }

    fn fail(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }

    fn find(&self, name: &str) -> Result<Vec<String>, String> {
        self.0.lock().unwrap().get(name).cloned().ok_or_else(|| "no such name".to_owned())
    }
}

impl Look for World {
    async fn addresses(&self, name: &str, port: u16) -> Result<Vec<String>, String> {
        Ok(self.find(name)?.iter().map(|address| format!("{address}:{port}")).collect())
    }

    async fn services(&self, name: &str) -> Result<Vec<String>, String> {
        self.find(name)
    }

    async fn file(&self, path: &Path) -> Result<String, String> {
        Ok(self.find(path.to_str().unwrap())?.join("\n"))
    }
}

fn discovery(entries: &[&str], limit: usize) -> (Discovery<World>, World) {
    let world = World::default();
    let entries = entries.iter().map(|text| text.parse().unwrap()).collect();
    (Discovery::new("vision", entries, limit, world.clone()), world)
}

async fn found(discovery: &mut Discovery<World>) -> Vec<String> {
    discovery.refresh().await;
    discovery.urls().iter().map(|url| url.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_entry_is_looked_up_and_each_worker_counts_once() {
    let (mut all, world) = discovery(&["http://a:1", "dns://pool:1", "srv://_grpc._tcp.pool", "file:///list"], 9);
    assert!(!all.is_fixed() && discovery(&["http://a:1"], 9).0.is_fixed());
    assert_eq!(all.urls(), [Arc::from("http://a:1")], "known without a look");
    world.set("pool", &["a", "b"]);
    world.set("_grpc._tcp.pool", &["c:3"]);
    world.set("/list", &["# more", "http://d:4", "http://c:3"]);
    assert_eq!(found(&mut all).await, ["http://a:1", "http://b:1", "http://c:3", "http://d:4"]);
}

#[tokio::test(start_paused = true)]
async fn workers_that_speak_tls_are_called_by_it() {
    let (mut all, world) = discovery(&["dns+tls://pool:1", "srv+tls://_grpc._tcp.pool", "file:///list"], 9);
    world.set("pool", &["10.0.0.1"]);
    world.set("_grpc._tcp.pool", &["c:3"]);
    world.set("/list", &["https://d:4", "http://e:5"]);
    assert_eq!(found(&mut all).await, ["https://10.0.0.1:1", "https://c:3", "https://d:4", "http://e:5"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_looked_up_keeps_what_it_had() {
    let (mut all, world) = discovery(&["dns://pool:1", "file:///list"], 9);
    world.set("pool", &["a", "b"]);
    world.set("/list", &["http://c:3"]);
    assert_eq!(found(&mut all).await, ["http://a:1", "http://b:1", "http://c:3"]);
    world.fail("pool");
    world.fail("/list");
    assert_eq!(found(&mut all).await, ["http://a:1", "http://b:1", "http://c:3"]);
    assert!(all.entries.iter().all(|listed| listed.problem.as_deref() == Some("no such name")));
    world.set("pool", &["b"]);
    world.set("/list", &["http://c:3"]);
    assert_eq!(found(&mut all).await, ["http://b:1", "http://c:3"]);
    world.set("/list", &["http://c:3", "c:4"]);
    assert_eq!(
        found(&mut all).await,
        ["http://b:1", "http://c:3"],
        "a line that is none is no reason to lose the others"
    );
    assert!(all.entries[1].problem.as_deref().unwrap().starts_with("line 2"));
    world.set("/list", &[]);
    assert_eq!(found(&mut all).await, ["http://b:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_being_written_is_not_believed() {
    let (mut all, world) = discovery(&["file:///list"], 9);
    world.set("/list", &["http://a:10"]);
    assert_eq!(found(&mut all).await, ["http://a:10"]);
    world.set("/list", &["http://a:1"]);
    let writing = async {
        tokio::time::sleep(SETTLING / 2).await;
        world.set("/list", &["http://a:11", "http://b:2"]);
    };
    let (half, ()) = tokio::join!(found(&mut all), writing);
    assert_eq!(half, ["http://a:10"]);
    assert_eq!(found(&mut all).await, ["http://a:11", "http://b:2"]);
}

#[tokio::test(start_paused = true)]
async fn a_pool_has_a_bound() {
    let (mut all, world) = discovery(&["http://z:1", "file:///list"], 3);
    let many: Vec<String> = (0..50).map(|index| format!("http://w{index}:1")).collect();
    world.set("/list", &many.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(found(&mut all).await, ["http://z:1", "http://w0:1", "http://w1:1"]);
    assert_eq!(all.beyond, 48);
}
