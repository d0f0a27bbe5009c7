//! The wall clocks of the vision workers, each of which can be set: by `libfaketime`, loaded in front of the worker's C library,
//! which reads from a file how far off its clock is. The clock that measures spans of time is left alone, as it is when
//! somebody sets a machine's date.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

use bytes::Bytes;
use tessera_api::embedding::{KeyStatus, key_bytes};
use tessera_api::proto::embedding::v1::StatRequest;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::proto::vision::v1 as proto;
use tessera_api::proto::vision::v1::vision_worker_client::VisionWorkerClient;
use tessera_api::vision::Description;
use tessera_embedding::ImageKey;
use tessera_rpc::client;

use crate::questions::file;

/// Where distributions keep the library; the name that is read is the one for programs of several threads.
const PLACES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
];

/// The clocks.
#[derive(Debug)]
pub(crate) struct Clocks {
    library: Option<PathBuf>,
    folder: PathBuf,
    ids: Mutex<Vec<u32>>,
}

impl Clocks {
    /// Clocks that are right so far; their files are in this folder.
    pub(crate) fn new(folder: &Path) -> Self {
        let library = PLACES.into_iter().map(PathBuf::from).find(|place| place.exists());
        Self { library, folder: folder.to_owned(), ids: Mutex::default() }
    }

    pub(crate) fn can_be_set(&self) -> bool {
        self.library.is_some()
    }

    /// Sets the clock of a worker, running or not, so many days off.
    pub(crate) fn set(&self, number: usize, days: i32) {
        let file = self.file(number);
        // Beside its name and renamed: nobody reads half of it.
        let written = file.with_extension("new");
        std::fs::write(&written, format!("{days:+}d\n")).unwrap();
        std::fs::rename(&written, &file).unwrap();
    }

    /// Has a command run with the clock of a worker.
    pub(crate) fn give(&self, number: usize, command: &mut Command) {
        let Some(library) = &self.library else { return };
        if !self.file(number).exists() {
            self.set(number, 0);
        }
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", self.file(number));
        // It looks at the file once a second. What files say of their time is true; only the worker's clock is not.
        let once_a_second = ("FAKETIME_CACHE_DURATION", "1");
        let flags = ["FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT"].map(|flag| (flag, "1"));
        command.envs(flags.into_iter().chain([once_a_second]));
    }

    /// Notes under which number a worker runs: the library keeps something for it that a worker that is killed leaves behind.
    pub(crate) fn note(&self, id: u32) {
        self.ids.lock().unwrap().push(id);
    }

    fn file(&self, number: usize) -> PathBuf {
        self.folder.join(format!("clock-{number}"))
    }
}

/// The time of day at a vision worker, by what it says of an image that it has just encoded.
pub(crate) async fn time_at(url: &str) -> anyhow::Result<SystemTime> {
    let channel = client::channel(url)?;
    let mut worker = VisionWorkerClient::new(channel.clone());
    let described = Description::try_from(worker.describe(proto::DescribeRequest {}).await?.into_inner())?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    // Nobody has encoded this one.
    let image = file("one_image", 0, u64::try_from(now.as_nanos())?);
    let key = ImageKey::of(&[], &described.fingerprint, &image);
    let asked = proto::EncodeRequest { image, key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
    worker.encode(asked).await?;
    let stat = EmbeddingStoreClient::new(channel).stat(StatRequest { keys: key_bytes(&[key]) }).await?.into_inner();
    let stored = stat.keys.into_iter().next().map(KeyStatus::try_from).transpose()?.and_then(|status| status.stored);
    Ok(stored.ok_or_else(|| anyhow::anyhow!("{url} has not what it has just encoded"))?.created)
}

impl Drop for Clocks {
    fn drop(&mut self) {
        for id in self.ids.lock().unwrap().drain(..) {
            for name in ["faketime_shm_", "sem.faketime_sem_"] {
                // It is there only for those who were killed.
                let _ = std::fs::remove_file(format!("/dev/shm/{name}{id}"));
            }
        }
    }
}
