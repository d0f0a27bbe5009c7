//! The shared tier on an S3 server and in a folder, and what its callers see when that is away, slow, full or wrong.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

#[path = "servers/process.rs"]
mod process;
#[path = "servers/proxy.rs"]
mod proxy;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tessera_config::Secret;
use tessera_store::remote::{Breaker, BreakerOptions, BreakerState, Credentials, RemoteOptions, connect};
use tessera_store::{Remote, RemoteError};

use process::{Process, artifact, certificate, key};
use proxy::Proxy;

const INSTALL: &str = "python3 -m venv FOLDER && FOLDER/bin/pip install 'moto[server]', and put FOLDER/bin on PATH";

/// A time limit for what should work, on a machine under load.
const LONG: Duration = Duration::from_secs(20);
/// And for what should not.
const SHORT: Duration = Duration::from_millis(500);

/// The server that the tests share: it takes seconds to start. It ends with the last test that uses it.
static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// An S3 server that keeps its buckets in memory.
struct Server {
    process: Process,
    port: u16,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new("moto_server");
        let started = Process::start(command.args(["-H", "127.0.0.1"]).args(arguments), "Running on http", INSTALL);
        let (process, line) = started.unwrap_or_else(|said| panic!("moto_server ended: {said}"));
        let port = line.rsplit(':').next().and_then(|port| port.trim_end().parse().ok());
        Self { process, port: port.unwrap_or_else(|| panic!("there is a port in {line:?}")) }
    }

    fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap();
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start(&["-p", "0"]));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// A new bucket, and options for it.
    fn bucket(&self, name: &str, bytes: u64) -> RemoteOptions {
        make_bucket(self.port, name);
        options(self.port, name, bytes)
    }
}

fn options(port: u16, bucket: &str, bytes: u64) -> RemoteOptions {
    let mut options = RemoteOptions::new(format!("s3://{bucket}/a/prefix"), bytes);
    options.max_artifact_bytes = bytes.min(4 << 20);
    options.timeout = LONG;
    options.endpoint = Some(format!("http://127.0.0.1:{port}"));
    let secret_key = Secret::new("test-secret");
    options.credentials = Some(Credentials { key_id: "test".into(), secret_key, session_token: None });
    options
}

fn make_bucket(port: u16, name: &str) {
    let answer = request(port, &format!("PUT /{name} HTTP/1.1"), b"");
    assert!(answer.contains(" 200 "), "{answer}");
}

/// What a human would do to it. Returns head and body of the answer.
fn request(port: u16, line: &str, body: &[u8]) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    let head = format!(
        "{line}\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\nConnection: close\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n\r\n"
    );
    connection.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn object(bucket: &str, number: u8) -> String {
    let name = key(number).to_string();
    format!("/{bucket}/a/prefix/{}/{name}.safetensors", &name[..2])
}

/// Bytes of all objects in a bucket.
fn held(port: u16, bucket: &str) -> u64 {
    let listing = request(port, &format!("GET /{bucket}?list-type=2 HTTP/1.1"), b"");
    let sizes = listing.split("<Size>").skip(1).map(|rest| rest.split('<').next().unwrap().parse::<u64>().unwrap());
    sizes.sum()
}

/// A breaker that opens after two failures and probes soon.
fn breaker(tier: Arc<dyn Remote>, timeout: Duration) -> Breaker {
    let backoff = Duration::from_millis(50);
    let options = BreakerOptions { timeout, operations: 4, failures: 2, backoff, backoff_limit: 2 * backoff };
    Breaker::new(tier, options)
}

/// Which of these keys a worker that never read them finds.
async fn there(options: &RemoteOptions, numbers: std::ops::RangeInclusive<u8>) -> Vec<u8> {
    let tier = connect(options).unwrap();
    let mut there = Vec::new();
    for number in numbers {
        if tier.get(&key(number)).await.unwrap().is_some() {
            there.push(number);
        }
    }
    there
}

#[tokio::test]
async fn an_artifact_is_kept_for_all_workers_until_it_is_deleted() {
    let server = Server::shared();
    let options = server.bucket("kept", 10 << 20);
    let (one, other) = (connect(&options).unwrap(), connect(&options).unwrap());
    assert_eq!(one.get(&key(1)).await.unwrap(), None);
    one.put(&key(1), artifact(1, 3 << 20)).await.unwrap();
    assert!(request(server.port, &format!("HEAD {} HTTP/1.1", object("kept", 1)), b"").contains(" 200 "));
    assert_eq!(other.get(&key(1)).await.unwrap(), Some(artifact(1, 3 << 20)));
    assert_eq!(other.get(&key(2)).await.unwrap(), None);
    assert!(other.delete(&key(1)).await.unwrap());
    assert!(!other.delete(&key(1)).await.unwrap());
    assert_eq!(one.get(&key(1)).await.unwrap(), None);
}

#[tokio::test]
async fn the_budget_holds_and_what_was_neither_written_nor_read_lately_goes_first() {
    let server = Server::shared();
    let options = server.bucket("budget", 100_000);
    request(server.port, "PUT /budget/a/prefix/notes.txt HTTP/1.1", b"not an artifact");
    let tier = connect(&options).unwrap();
    for number in 1..=3 {
        tier.put(&key(number), artifact(number, 30_000)).await.unwrap();
    }
    assert!(tier.get(&key(1)).await.unwrap().is_some());
    for number in 4..=5 {
        tier.put(&key(number), artifact(number, 30_000)).await.unwrap();
        assert!(held(server.port, "budget") <= 100_000);
    }
    assert_eq!(there(&options, 1..=5).await, [1, 4, 5]);
    // Written again it counts once, and nothing has to go.
    tier.put(&key(1), artifact(1, 30_000)).await.unwrap();
    assert_eq!(there(&options, 1..=5).await, [1, 4, 5]);
    assert!(request(server.port, "GET /budget/a/prefix/notes.txt HTTP/1.1", b"").contains("not an artifact"));
}

#[tokio::test]
async fn what_is_there_already_is_counted_before_anything_is_written() {
    let server = Server::shared();
    let mut options = server.bucket("counted", 200_000);
    let before = connect(&options).unwrap();
    for number in 1..=6 {
        before.put(&key(number), artifact(number, 30_000)).await.unwrap();
    }
    // The budget was made smaller meanwhile.
    options.bytes = 100_000;
    options.max_artifact_bytes = 100_000;
    connect(&options).unwrap().put(&key(7), artifact(7, 30_000)).await.unwrap();
    assert_eq!(there(&options, 1..=7).await, [5, 6, 7]);
}

#[tokio::test]
async fn two_writers_exceed_the_budget_by_no_more_than_the_other_wrote_since_a_count() {
    let server = Server::shared();
    let mut options = server.bucket("writers", 100_000);
    let (one, other) = (connect(&options).unwrap(), connect(&options).unwrap());
    for number in 1..=2 {
        one.put(&key(number), artifact(number, 20_000)).await.unwrap();
    }
    let mut most = 0;
    for number in 3..=10 {
        other.put(&key(number), artifact(number, 20_000)).await.unwrap();
        one.put(&key(number + 10), artifact(number, 20_000)).await.unwrap();
        most = most.max(held(server.port, "writers"));
    }
    assert!(most > 100_000 && most <= 200_000, "{most}");
    // One that counts before every write sees what the others did.
    options.sweep_every = Duration::ZERO;
    connect(&options).unwrap().put(&key(99), artifact(99, 20_000)).await.unwrap();
    assert!(held(server.port, "writers") <= 100_000);
}

#[tokio::test]
async fn wrong_data_is_refused_or_left_to_the_caller() {
    let server = Server::shared();
    let options = server.bucket("wrong", 1 << 20);
    let tier = breaker(connect(&options).unwrap(), LONG);
    for bytes in [0, (1 << 20) + 1] {
        assert!(matches!(tier.put(&key(1), artifact(1, bytes)).await, Err(RemoteError::Size { .. })), "{bytes}");
    }
    for (number, bytes) in [(2, 0), (3, (1 << 20) + 1), (4, 1000)] {
        request(server.port, &format!("PUT {} HTTP/1.1", object("wrong", number)), &vec![b'x'; bytes]);
    }
    assert!(matches!(tier.get(&key(2)).await, Err(RemoteError::Size { bytes: 0, .. })));
    assert!(matches!(tier.get(&key(3)).await, Err(RemoteError::Size { bytes: 1_048_577, limit: 1_048_576 })));
    assert_eq!(tier.get(&key(4)).await.unwrap().unwrap(), vec![b'x'; 1000]);
    let status = tier.status();
    assert_eq!((status.state, status.refused, status.hits, status.failures), (BreakerState::Closed, 4, 1, 0));
}

#[tokio::test]
async fn without_its_bucket_nothing_is_found_and_writing_is_refused() {
    let server = Server::shared();
    let tier = connect(&options(server.port, "nowhere", 1 << 20)).unwrap();
    assert_eq!(tier.get(&key(1)).await.unwrap(), None);
    let error = tier.put(&key(1), artifact(1, 1000)).await.unwrap_err();
    assert!(matches!(error, RemoteError::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_transfer_that_breaks_off_is_an_error_and_the_objects_are_counted_again() {
    let server = Server::shared();
    let proxy = Proxy::before(server.port);
    let direct = server.bucket("broken", 3 << 20);
    let through = options(proxy.port, "broken", 3 << 20);
    connect(&direct).unwrap().put(&key(1), artifact(1, 1 << 20)).await.unwrap();

    proxy.cut_down(Some(100_000));
    let tier = connect(&through).unwrap();
    let error = tier.get(&key(1)).await.unwrap_err();
    assert!(matches!(error, RemoteError::Away(_)), "{error}");

    // The count gets through, the artifact does not: it was booked and never came.
    proxy.cut_down(None);
    proxy.cut_up(Some(100_000));
    for _ in 0..3 {
        let error = tier.put(&key(2), artifact(2, 2 << 20)).await.unwrap_err();
        assert!(matches!(error, RemoteError::Away(_)), "{error}");
    }
    proxy.cut_up(None);
    assert_eq!(tier.get(&key(2)).await.unwrap(), None);
    tier.put(&key(2), artifact(2, 2 << 20)).await.unwrap();
    assert_eq!(there(&direct, 1..=2).await, [1, 2]);
}

#[tokio::test]
async fn a_silent_server_costs_its_time_limit_and_then_nothing() {
    let server = Server::shared();
    let proxy = Proxy::before(server.port);
    make_bucket(server.port, "silent");
    let tier = breaker(connect(&options(proxy.port, "silent", 1 << 20)).unwrap(), SHORT);
    proxy.hold(true);
    for _ in 0..2 {
        let begun = Instant::now();
        assert!(matches!(tier.get(&key(1)).await, Err(RemoteError::Slow(SHORT))));
        assert!(begun.elapsed() >= SHORT && begun.elapsed() < LONG);
    }
    assert!(matches!(tier.get(&key(1)).await, Err(RemoteError::Open(_))));
    proxy.hold(false);
    comes_back(&tier).await;
}

/// Asks until the breaker has closed by itself.
async fn comes_back(breaker: &Breaker) {
    let begun = Instant::now();
    while breaker.get(&key(1)).await.is_err() {
        assert!(begun.elapsed() < LONG, "the breaker closes by itself: {:?}", breaker.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(breaker.status().state, BreakerState::Closed);
}

#[tokio::test]
async fn a_server_that_stands_still_or_is_killed_fails_until_it_is_back() {
    let server = Server::start(&["-p", "0"]);
    let mut hasty = server.bucket("back", 1 << 20);
    hasty.timeout = SHORT;
    let bare = connect(&hasty).unwrap();
    server.process.signal("-STOP");
    let error = bare.get(&key(1)).await.unwrap_err();
    assert!(matches!(error, RemoteError::Slow(SHORT)), "{error}");
    server.process.signal("-CONT");

    let tier = breaker(connect(&options(server.port, "back", 1 << 20)).unwrap(), LONG);
    tier.put(&key(1), artifact(1, 1000)).await.unwrap();
    let port = server.port;
    server.process.kill();
    for _ in 0..2 {
        let error = tier.get(&key(1)).await.unwrap_err();
        assert!(matches!(error, RemoteError::Away(_)), "{error}");
    }
    assert_eq!(tier.status().state, BreakerState::Open);
    let _server = Server::start(&["-p", &port.to_string()]);
    make_bucket(port, "back");
    comes_back(&tier).await;
    tier.put(&key(1), artifact(1, 1000)).await.unwrap();
}

#[tokio::test]
async fn tls_is_spoken_and_an_authority_that_is_not_trusted_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, private_key) = certificate();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (cert, private) = (file("cert.pem", &certificate), file("key.pem", &private_key));
    let server = Server::start(&["-p", "0", "-s", "-c", &cert, "-k", &private]);
    let mut options = options(server.port, "tls", 1 << 20);
    options.endpoint = Some(format!("https://localhost:{}", server.port));
    let error = connect(&options).unwrap().get(&key(1)).await.unwrap_err();
    assert!(matches!(error, RemoteError::Away(_)), "{error}");
    options.authorities = Some(certificate.into_bytes());
    assert_eq!(connect(&options).unwrap().get(&key(1)).await.unwrap(), None);
}

/// A server that gives every connection the same answer, whatever it is asked. Returns its port.
fn answers(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            // A client that has left does not mind.
            let _ = connection.read(&mut [0; 1 << 14]);
            let _ = connection.write_all(answer.as_bytes());
            let _ = connection.read(&mut [0; 1]);
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_announces_ten_gigabytes_is_not_listened_to() {
    let port = answers(concat!(
        "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\nETag: \"1\"\r\n",
        "Last-Modified: Tue, 24 Nov 2026 08:00:00 GMT\r\n\r\nnever more"
    ));
    let error = connect(&options(port, "large", 1 << 20)).unwrap().get(&key(1)).await.unwrap_err();
    assert!(matches!(error, RemoteError::Size { bytes: 10_000_000_000, .. }), "{error}");
}

#[tokio::test]
async fn a_server_without_room_is_full_and_not_away() {
    let port = answers("HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\n\r\n");
    let error = connect(&options(port, "full", 1 << 20)).unwrap().get(&key(1)).await.unwrap_err();
    assert!(matches!(error, RemoteError::Full(_)), "{error}");
}

#[tokio::test]
async fn a_folder_is_made_when_it_is_needed_and_keeps_to_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("not yet there");
    let mut options = RemoteOptions::new(url::Url::from_file_path(&path).unwrap(), 100_000);
    options.max_artifact_bytes = 50_000;
    options.timeout = LONG;
    let tier = connect(&options).unwrap();
    assert_eq!(tier.get(&key(1)).await.unwrap(), None);
    assert!(!tier.delete(&key(1)).await.unwrap());
    for number in 1..=5 {
        tier.put(&key(number), artifact(number, 30_000)).await.unwrap();
    }
    assert_eq!(there(&options, 1..=5).await, [3, 4, 5]);
    assert_eq!(tier.get(&key(5)).await.unwrap(), Some(artifact(5, 30_000)));
    let name = key(5).to_string();
    let file = path.join(&name[..2]).join(format!("{name}.safetensors"));
    std::fs::write(&file, vec![0; 50_001]).unwrap();
    assert!(matches!(tier.get(&key(5)).await, Err(RemoteError::Size { bytes: 50_001, .. })));
    assert!(tier.delete(&key(5)).await.unwrap() && !file.exists());
}

#[tokio::test]
async fn more_objects_than_one_page_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0_u16..2500 {
        let name = format!("{number:04x}").repeat(16);
        std::fs::create_dir_all(folder.path().join(&name[..2])).unwrap();
        std::fs::write(folder.path().join(&name[..2]).join(format!("{name}.safetensors")), b"ten bytes.").unwrap();
    }
    let mut options = RemoteOptions::new(url::Url::from_directory_path(folder.path()).unwrap(), 20_000);
    options.max_artifact_bytes = 1000;
    options.timeout = LONG;
    connect(&options).unwrap().put(&key(1), artifact(1, 1000)).await.unwrap();
    let files =
        std::fs::read_dir(folder.path()).unwrap().map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
    assert_eq!(files.map(Iterator::count).sum::<usize>(), 1 + 1900);
}
