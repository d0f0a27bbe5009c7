//! The shared tier on a real Redis server, and what its callers see when that is away, slow, full or wrong.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

#[path = "servers/process.rs"]
mod process;
#[path = "servers/proxy.rs"]
mod proxy;

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{ToRedisArgs, Value};
use tempfile::TempDir;
use tessera_store::remote::{Breaker, BreakerOptions, BreakerState, RemoteOptions, connect};
use tessera_store::{Remote, RemoteError};

use process::{Process, artifact, certificate, key};
use proxy::Proxy;

const INSTALL: &str = "apt-get install redis-server";
const USED: &str = "{tessera:1}:used";
const SIZES: &str = "{tessera:1}:sizes";

/// A server that a machine under load is given for what should work.
const LONG: Duration = Duration::from_secs(20);
/// And for what should not.
const SHORT: Duration = Duration::from_millis(300);

/// A Redis server on a port of its own that keeps nothing on disk.
struct Server {
    process: Option<Process>,
    port: u16,
    arguments: Vec<String>,
    _folder: TempDir,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        Self::start_on("--port", arguments)
    }

    /// Starts one that listens by this option. Somebody else may take the port first: then another one.
    fn start_on(port_option: &str, arguments: &[&str]) -> Self {
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().to_str().unwrap();
            let fixed = ["--bind", "127.0.0.1", "--save", "", "--dir", path, port_option, &port.to_string()];
            let arguments = fixed.iter().chain(arguments).map(|argument| (*argument).to_owned()).collect();
            let mut server = Self { process: None, port, arguments, _folder: folder };
            match server.try_start() {
                Ok(()) => return server,
                Err(said) => assert!(said.contains("Address already in use"), "redis-server ended: {said}"),
            }
        }
        panic!("no free port was found");
    }

    fn try_start(&mut self) -> Result<(), String> {
        let mut command = Command::new("redis-server");
        let started = Process::start(command.args(&self.arguments), "Ready to accept connections", INSTALL);
        self.process = Some(started?.0);
        Ok(())
    }

    fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    fn options(&self, bytes: u64) -> RemoteOptions {
        options(self.port, bytes)
    }

    fn tier(&self, bytes: u64) -> Arc<dyn Remote> {
        connect(&self.options(bytes)).unwrap()
    }

    /// What a human would do to it.
    async fn command<T: redis::FromRedisValue>(&self, name: &str, arguments: impl ToRedisArgs) -> T {
        let client = redis::Client::open(("127.0.0.1", self.port)).unwrap();
        let config = redis::AsyncConnectionConfig::new();
        let config = config.set_connection_timeout(Some(LONG)).set_response_timeout(Some(LONG));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
        redis::cmd(name).arg(arguments).query_async(&mut connection).await.unwrap()
    }

    /// Bytes by the books, and bytes of all values.
    async fn bytes(&self) -> (u64, u64) {
        let booked: Option<u64> = self.command("HGET", &[SIZES, "total"]).await;
        let values: Vec<String> = self.command("KEYS", value("*")).await;
        let mut held = 0;
        for value in values {
            held += self.command::<u64>("STRLEN", value).await;
        }
        (booked.unwrap_or(0), held)
    }
}

fn options(port: u16, bytes: u64) -> RemoteOptions {
    let mut options = RemoteOptions::new(format!("redis://127.0.0.1:{port}"), bytes);
    options.max_artifact_bytes = bytes.min(4 << 20);
    options.timeout = LONG;
    options
}

fn value(name: impl std::fmt::Display) -> String {
    format!("{{tessera:1}}:value:{name}")
}

/// A breaker that opens after two failures and probes soon.
fn breaker(tier: Arc<dyn Remote>, timeout: Duration) -> Breaker {
    let backoff = Duration::from_millis(50);
    let options = BreakerOptions { timeout, operations: 4, failures: 2, backoff, backoff_limit: 2 * backoff };
    Breaker::new(tier, options)
}

/// Asks for artifact 1 until there is an answer.
async fn comes_back(tier: &dyn Remote) -> Option<Bytes> {
    let begun = Instant::now();
    loop {
        match tier.get(&key(1)).await {
            Ok(found) => return found,
            Err(error) => assert!(begun.elapsed() < LONG, "it comes back by itself: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_artifact_is_kept_for_all_workers_until_it_is_deleted() {
    let server = Server::start(&[]);
    let (one, other) = (server.tier(10 << 20), server.tier(10 << 20));
    assert_eq!(one.get(&key(1)).await.unwrap(), None);
    one.put(&key(1), artifact(1, 3 << 20)).await.unwrap();
    assert_eq!(other.get(&key(1)).await.unwrap(), Some(artifact(1, 3 << 20)));
    assert_eq!(other.get(&key(2)).await.unwrap(), None);
    assert!(other.delete(&key(1)).await.unwrap());
    assert_eq!(server.bytes().await, (0, 0));
    assert!(!other.delete(&key(1)).await.unwrap());
    assert_eq!(one.get(&key(1)).await.unwrap(), None);
}

#[tokio::test]
async fn the_least_recently_used_by_anybody_goes_first() {
    let server = Server::start(&[]);
    let (one, other) = (server.tier(100_000), server.tier(100_000));
    for number in 1..=3 {
        one.put(&key(number), artifact(number, 30_000)).await.unwrap();
    }
    assert!(other.get(&key(1)).await.unwrap().is_some());
    one.put(&key(4), artifact(4, 30_000)).await.unwrap();
    for (number, is_there) in [(1, true), (2, false), (3, true), (4, true)] {
        assert_eq!(one.get(&key(number)).await.unwrap().is_some(), is_there, "{number}");
    }
}

#[tokio::test]
async fn the_budget_holds_and_the_books_agree_after_every_change() {
    let server = Server::start(&[]);
    let tier = server.tier(50_000);
    for step in 0_usize..60 {
        let number = (step * 7 % 13) as u8;
        match step % 5 {
            4 => assert!(tier.delete(&key(number)).await.is_ok()),
            3 => assert!(tier.get(&key(number)).await.is_ok()),
            _ => tier.put(&key(number), artifact(number, 1 + step * 7919 % 20_000)).await.unwrap(),
        }
        let (booked, held) = server.bytes().await;
        assert!(booked == held && held <= 50_000, "step {step}: {booked} booked, {held} held");
    }
}

#[tokio::test]
async fn a_value_that_the_server_dropped_leaves_the_books() {
    let server = Server::start(&[]);
    let tier = server.tier(100_000);
    for number in 1..=3 {
        tier.put(&key(number), artifact(number, 30_000)).await.unwrap();
    }
    let _: i64 = server.command("DEL", [value(key(1)), value(key(2))].as_slice()).await;
    assert_eq!(server.bytes().await, (90_000, 30_000));
    // One leaves when it is read, the other when it is its turn: before any that is there.
    assert_eq!(tier.get(&key(2)).await.unwrap(), None);
    assert_eq!(server.bytes().await, (60_000, 30_000));
    tier.put(&key(4), artifact(4, 60_000)).await.unwrap();
    assert_eq!(server.bytes().await, (90_000, 90_000));
}

#[tokio::test]
async fn books_that_were_lost_heal() {
    let server = Server::start(&[]);
    let tier = server.tier(100_000);
    for lost in [USED, SIZES] {
        for number in 1..=3 {
            tier.put(&key(number), artifact(number, 30_000)).await.unwrap();
        }
        let _: i64 = server.command("DEL", lost).await;
        tier.put(&key(4), artifact(4, 10_000)).await.unwrap();
        assert_eq!(server.bytes().await, (10_000, 10_000), "without {lost} the other one tells what to delete");
    }
    // Without both, a value comes back when it is read; until then only its expiry bounds it.
    let _: i64 = server.command("DEL", &[USED, SIZES]).await;
    assert_eq!(server.bytes().await, (0, 10_000));
    let expires: i64 = server.command("PTTL", value(key(4))).await;
    assert!(expires > 0, "{expires}");
    assert!(tier.get(&key(4)).await.unwrap().is_some());
    assert_eq!(server.bytes().await, (10_000, 10_000));
    // And one that is something else is taken over.
    let _: Value = server.command("SET", &[USED, "something else"]).await;
    tier.put(&key(5), artifact(5, 20_000)).await.unwrap();
    assert_eq!(server.bytes().await, (20_000, 20_000));
}

#[tokio::test]
async fn one_that_is_used_does_not_expire() {
    let server = Server::start(&[]);
    let tier = server.tier(100_000);
    tier.put(&key(1), artifact(1, 1000)).await.unwrap();
    let _: i64 = server.command("PEXPIRE", &[value(key(1)), "60000".into()]).await;
    assert!(tier.get(&key(1)).await.unwrap().is_some());
    let left: i64 = server.command("PTTL", value(key(1))).await;
    assert!(left > 60_000, "{left}");
}

#[tokio::test]
async fn one_that_nobody_uses_expires() {
    let server = Server::start(&[]);
    let mut options = server.options(100_000);
    options.idle = Duration::from_millis(50);
    let tier = connect(&options).unwrap();
    tier.put(&key(1), artifact(1, 30_000)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(tier.get(&key(1)).await.unwrap(), None);
    assert_eq!(server.bytes().await, (0, 0));
}

#[tokio::test]
async fn wrong_data_is_told_from_an_artifact_or_left_to_the_caller() {
    let server = Server::start(&[]);
    let tier = breaker(server.tier(10 << 20), LONG);
    let _: i64 = server.command("LPUSH", &[value(key(1)), "a list".into()]).await;
    for _ in 0..3 {
        assert!(matches!(tier.get(&key(1)).await, Err(RemoteError::Foreign(_))));
    }
    tier.put(&key(1), artifact(1, 1000)).await.unwrap();
    assert_eq!(tier.get(&key(1)).await.unwrap(), Some(artifact(1, 1000)));
    let _: i64 = server.command("SETRANGE", &[value(key(1)), "10".into(), "changed".into()]).await;
    assert_eq!(&tier.get(&key(1)).await.unwrap().unwrap()[10..17], b"changed");
    let status = tier.status();
    assert_eq!((status.state, status.refused, status.hits, status.failures), (BreakerState::Closed, 3, 2, 0));
}

#[tokio::test]
async fn a_value_larger_than_an_artifact_is_neither_written_nor_read() {
    let server = Server::start(&[]);
    let mut options = server.options(100 << 20);
    options.max_artifact_bytes = 100_000;
    let tier = connect(&options).unwrap();
    for bytes in [0, 100_001] {
        assert!(matches!(tier.put(&key(1), artifact(1, bytes)).await, Err(RemoteError::Size { .. })), "{bytes}");
    }
    let _: i64 = server.command("SETRANGE", &[value(key(1)), (50 << 20).to_string(), "end".into()]).await;
    let before = sent(&server).await;
    let error = tier.get(&key(1)).await.unwrap_err();
    assert!(matches!(error, RemoteError::Size { bytes: 100_001, limit: 100_000 }), "{error}");
    let sent = sent(&server).await - before;
    assert!(sent < 200_000, "{sent} bytes of 50 MB were sent");
}

/// Bytes that the server sent so far.
async fn sent(server: &Server) -> u64 {
    let info: String = server.command("INFO", "stats").await;
    let line = info.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
    line.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_server_with_less_memory_than_the_budget_holds_what_fits() {
    let server = Server::start(&["--maxmemory", "12mb", "--maxmemory-policy", "noeviction"]);
    let tier = breaker(server.tier(100 << 20), LONG);
    for number in 1..=30 {
        tier.put(&key(number), artifact(number, 1 << 20)).await.unwrap();
        assert!(tier.get(&key(number)).await.unwrap().is_some(), "{number}");
    }
    let (booked, held) = server.bytes().await;
    assert!(booked == held && held >= 3 << 20, "{booked} booked, {held} held");
    assert_eq!((tier.status().failures, tier.status().refused), (0, 0));
}

#[tokio::test]
async fn a_server_that_others_filled_is_full_and_still_read() {
    let server = Server::start(&["--maxmemory", "12mb", "--maxmemory-policy", "noeviction"]);
    let tier = breaker(server.tier(100 << 20), LONG);
    tier.put(&key(1), artifact(1, 1000)).await.unwrap();
    let _: i64 = server.command("SETRANGE", &["theirs".to_owned(), (10 << 20).to_string(), "end".into()]).await;
    for number in 2..5 {
        let error = tier.put(&key(number), artifact(number, 2 << 20)).await.unwrap_err();
        assert!(matches!(error, RemoteError::Full(_)), "{error}");
    }
    assert_eq!(tier.get(&key(2)).await.unwrap(), None);
    let status = tier.status();
    assert_eq!((status.state, status.refused, status.failures), (BreakerState::Closed, 3, 0));
    let (booked, held) = server.bytes().await;
    assert_eq!(booked, held);
}

#[tokio::test]
async fn a_transfer_that_breaks_off_is_an_error_and_leaves_the_books_right() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port);
    let tier = connect(&options(proxy.port, 10 << 20)).unwrap();
    server.tier(10 << 20).put(&key(1), artifact(1, 1 << 20)).await.unwrap();

    proxy.cut_down(Some(100_000));
    let error = tier.get(&key(1)).await.unwrap_err();
    assert!(matches!(error, RemoteError::Away(_)), "{error}");
    proxy.cut_down(None);
    assert_eq!(tier.get(&key(1)).await.unwrap(), Some(artifact(1, 1 << 20)));

    proxy.cut_up(Some(100_000));
    let tier = connect(&options(proxy.port, 10 << 20)).unwrap();
    let error = tier.put(&key(2), artifact(2, 1 << 20)).await.unwrap_err();
    assert!(matches!(error, RemoteError::Away(_)), "{error}");
    proxy.cut_up(None);
    assert_eq!(tier.get(&key(2)).await.unwrap(), None);
    assert_eq!(server.bytes().await, (1 << 20, 1 << 20));
}

#[tokio::test]
async fn a_killed_server_opens_the_breaker_and_its_return_closes_it() {
    let mut server = Server::start(&[]);
    let tier = breaker(server.tier(10 << 20), LONG);
    let artifacts = (1..=4).map(|number| (key(number), artifact(number, 1000)));
    for (key, artifact) in artifacts {
        tier.put(&key, artifact).await.unwrap();
    }
    server.kill();
    for _ in 0..2 {
        let error = tier.get(&key(1)).await.unwrap_err();
        assert!(matches!(error, RemoteError::Away(_)), "{error}");
    }
    assert!(matches!(tier.get(&key(1)).await, Err(RemoteError::Open(_))));
    let status = tier.status();
    assert_eq!((status.state, status.failures, status.rejected, status.opened), (BreakerState::Open, 2, 1, 1));
    server.try_start().unwrap();
    assert_eq!(comes_back(&tier).await, None);
    assert_eq!(tier.status().state, BreakerState::Closed);
    tier.put(&key(1), artifact(1, 1000)).await.unwrap();
}

#[tokio::test]
async fn a_restart_between_two_operations_is_not_noticed() {
    let mut server = Server::start(&[]);
    let tier = breaker(server.tier(10 << 20), LONG);
    let keys = [key(1), key(2), key(3)];
    futures::future::join_all(keys.iter().map(|key| tier.get(key))).await;
    server.kill();
    server.try_start().unwrap();
    assert_eq!(tier.get(&key(1)).await.unwrap(), None);
    assert_eq!(tier.status().failures, 0);
}

#[tokio::test]
async fn a_silent_server_costs_its_time_limit_and_then_nothing() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port);
    let tier = breaker(connect(&options(proxy.port, 10 << 20)).unwrap(), SHORT);
    server.tier(10 << 20).put(&key(1), artifact(1, 1000)).await.unwrap();
    proxy.hold(true);
    for _ in 0..2 {
        let begun = Instant::now();
        assert!(matches!(tier.get(&key(1)).await, Err(RemoteError::Slow(SHORT))));
        assert!(begun.elapsed() >= SHORT && begun.elapsed() < LONG);
    }
    assert!(matches!(tier.get(&key(1)).await, Err(RemoteError::Open(_))));
    proxy.hold(false);
    assert_eq!(comes_back(&tier).await, Some(artifact(1, 1000)));
    assert_eq!(tier.status().state, BreakerState::Closed);
}

#[tokio::test]
async fn a_server_that_stands_still_is_slow_without_a_breaker_too() {
    let server = Server::start(&[]);
    let mut options = server.options(10 << 20);
    options.timeout = SHORT;
    let tier = connect(&options).unwrap();
    server.tier(10 << 20).put(&key(1), artifact(1, 1000)).await.unwrap();
    let process = server.process.as_ref().unwrap();
    process.signal("-STOP");
    for _ in 0..2 {
        let error = tier.get(&key(1)).await.unwrap_err();
        assert!(matches!(error, RemoteError::Slow(SHORT)), "{error}");
    }
    process.signal("-CONT");
    assert_eq!(comes_back(&*tier).await, Some(artifact(1, 1000)));
}

#[tokio::test]
async fn a_server_need_not_be_there_to_begin_with() {
    let mut server = Server::start(&[]);
    server.kill();
    let tier = server.tier(10 << 20);
    let error = tier.get(&key(1)).await.unwrap_err();
    assert!(matches!(error, RemoteError::Away(_)), "{error}");
    server.try_start().unwrap();
    tier.put(&key(1), artifact(1, 1000)).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_a_right_one_is_taken_at_once() {
    let server = Server::start(&["--requirepass", "right"]);
    let mut options = server.options(10 << 20);
    for password in [None, Some("sesame")] {
        options.password = password.map(tessera_config::Secret::new);
        let error = connect(&options).unwrap().get(&key(1)).await.unwrap_err();
        assert!(matches!(error, RemoteError::Refused(_)), "{error}");
        assert!(!error.to_string().contains("sesame"), "{error}");
    }
    options.password = Some(tessera_config::Secret::new("right"));
    assert_eq!(connect(&options).unwrap().get(&key(1)).await.unwrap(), None);
    options.password = None;
    options.url = format!("redis://:right@127.0.0.1:{}/3", server.port);
    assert_eq!(connect(&options).unwrap().get(&key(1)).await.unwrap(), None);
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
    let tls = ["--tls-cert-file", &cert, "--tls-key-file", &private, "--tls-auth-clients", "no", "--port", "0"];
    let server = Server::start_on("--tls-port", &[&tls[..], &["--tls-ca-cert-file", &cert]].concat());
    let mut options = server.options(10 << 20);
    options.url = format!("rediss://localhost:{}", server.port);
    let error = connect(&options).unwrap().get(&key(1)).await.unwrap_err();
    assert!(matches!(error, RemoteError::Away(_)), "{error}");
    options.authorities = Some(certificate.into_bytes());
    let tier = connect(&options).unwrap();
    tier.put(&key(1), artifact(1, 1 << 20)).await.unwrap();
    assert_eq!(tier.get(&key(1)).await.unwrap(), Some(artifact(1, 1 << 20)));
}

#[tokio::test]
async fn no_more_connections_are_opened_than_operations_may_run() {
    let server = Server::start(&[]);
    let tier = breaker(server.tier(10 << 20), LONG);
    let keys: Vec<_> = (0..64).map(key).collect();
    let outcomes = futures::future::join_all(keys.iter().map(|key| tier.put(key, artifact(9, 10_000)))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let info: String = server.command("INFO", "stats").await;
    let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    let connections: u64 = line.unwrap().trim().parse().unwrap();
    assert!(connections <= 4 + 1, "{connections} connections, one of them the test's own");
}
