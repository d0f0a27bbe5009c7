//! What was acknowledged survives a process that is killed in the middle of its work.
//!
//! A program and no list of tests, because it starts itself as the process that it kills.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use tessera_anyres::ImageSize;
use tessera_embedding::{Artifact, EncoderFingerprint, ImageKey, Origin, Provenance, TenantId};
use tessera_store::{Abandoned, DiskOptions, Kept, Store, StoreOptions};
use tessera_tensor::HostTensor;
use tokio::task::JoinSet;

/// Rounds; each kills one process.
const ROUNDS: u32 = 8;
/// What the process writes in front of a key that it has acknowledged.
const ACKNOWLEDGED: &str = "kept ";
/// The argument of the process that is killed; its round and folder follow.
const WRITER: &str = "write-until-killed";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    match &arguments[..] {
        [word, round, folder] if word == WRITER => {
            runtime.block_on(write_until_killed(round.parse().unwrap(), Path::new(folder)));
        }
        _ => runtime.block_on(what_was_acknowledged_survives_a_kill()),
    }
}

#[derive(Clone, Debug)]
struct Why;

impl From<Abandoned> for Why {
    fn from(_: Abandoned) -> Self {
        Self
    }
}

fn encoder() -> EncoderFingerprint {
    EncoderFingerprint::of(&[b"encoder"])
}

/// The artifact of a round's `n`-th key: a size and content of its own, of some hundred KiB.
fn artifact(round: u32, n: u32) -> (ImageKey, Artifact) {
    let key = ImageKey::of(&round.to_le_bytes(), &encoder(), &n.to_le_bytes());
    let channels = 20_000 + 7_000 * (n as usize % 9);
    let values = (0..channels).map(|at| (at as f32 + n as f32).sin()).collect();
    let features = HostTensor::from_f32(vec![1, channels], values).unwrap();
    let size = ImageSize::new(336, 336);
    let created = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
    let provenance =
        Provenance { encoder: encoder(), tenant: TenantId::of(b""), origin: Origin::Encoded, created, grid: size };
    (key, Artifact::seal(size, features, provenance))
}

async fn open(folder: &Path) -> Store<Why> {
    let options = StoreOptions {
        memory_bytes: 1 << 20,
        open_keys: 100,
        disk: Some(DiskOptions { folder: folder.to_owned(), bytes: 1 << 30 }),
        remote: None,
        pending_bytes: 0,
    };
    Store::open(options).await.unwrap().0
}

async fn write_until_killed(round: u32, folder: &Path) {
    let store = open(folder).await;
    let mut writers = JoinSet::new();
    for writer in 0..4u32 {
        let store = store.clone();
        writers.spawn(async move {
            for n in (writer..100_000).step_by(4) {
                let (key, artifact) = artifact(round, n);
                assert_eq!(store.put(&key, artifact).await, Kept::Durably);
                let line = format!("{ACKNOWLEDGED}{n}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    writers.join_all().await;
}

async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([WRITER, &round.to_string(), folder.path().to_str().unwrap()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut keys = Vec::new();
        // The child goes on writing while this counts, so it dies wherever it is just then.
        let enough = 3 + (round as usize * 7) % 23;
        while keys.len() < enough {
            let line = lines.next().expect("the child writes until it is killed").unwrap();
            keys.extend(line.split_once(ACKNOWLEDGED).map(|(_, n)| n.parse::<u32>().unwrap()));
        }
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        // What it had said before it died counts, too.
        for line in lines.map_while(Result::ok) {
            keys.extend(line.split_once(ACKNOWLEDGED).and_then(|(_, n)| n.parse::<u32>().ok()));
        }
        acknowledged.extend(keys.into_iter().map(|n| (round, n)));

        let store = open(folder.path()).await;
        let verified = store.verify(|_, _| {}).await;
        assert_eq!(verified.corrupt, 0, "round {round}: {verified:?}");
        assert!(verified.checked >= acknowledged.len() as u64, "round {round}: {verified:?}");
        for &(round, n) in &acknowledged {
            let (key, artifact) = artifact(round, n);
            assert_eq!(store.get(&key).await.as_deref(), Some(&artifact), "round {round}, key {n}");
        }
        let unfinished = walk(folder.path()).into_iter().filter(|name| name.ends_with(".tmp")).count();
        assert_eq!(unfinished, 0, "what was half written is gone");
    }
    eprintln!("{} acknowledged in {ROUNDS} rounds, all there", acknowledged.len());
}

/// The names of all files below a folder.
fn walk(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let name = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries.flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![name(&entry)] }).collect()
}
