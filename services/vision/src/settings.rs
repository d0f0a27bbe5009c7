//! Settings of the vision worker.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tessera_config::{ByteSize, Problems, Secret, Validate, duration};
use tessera_image::ImageSettings;
use tessera_rpc::{ServerSettings, TlsSettings};
use tessera_telemetry::LogSettings;
use tessera_tensor::{Compute, Devices};

/// Everything that can be set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Folder of the checkpoint.
    pub model: PathBuf,
    /// Where the model runs: one device.
    pub device: Devices,
    /// Type that the model computes in, and that features are stored in.
    pub compute: Compute,
    /// Bounds and routes of images.
    pub image: ImageSettings,
    /// How tiles share forward passes.
    pub batch: BatchSettings,
    /// Where features are kept.
    pub store: StoreSettings,
    /// Bounds of the server.
    pub server: ServerSettings,
    /// Who the worker is, and whom it lets in.
    pub tls: TlsSettings,
    /// Logs.
    pub log: LogSettings,
}

/// How tiles share forward passes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchSettings {
    /// Tiles in one forward pass; where it is not said, as many as suit the device.
    pub tiles: Option<usize>,
    /// Tiles that wait for decoding or for the device; more are refused.
    pub waiting_tiles: usize,
    /// Images decoded and resized at once.
    pub preprocess: usize,
    /// Memory of the images that are being decoded and resized: each takes as much as one of its size may need, and waits
    /// until there is so much.
    pub decoded: ByteSize,
}

/// Where features are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// Memory of the features.
    pub memory: ByteSize,
    /// Images that are being encoded or waited for at once.
    pub open_keys: usize,
    /// What is computed is kept as it is, or with a byte a number: half or a quarter of the room.
    pub rows: RowFormat,
    /// A folder that survives a restart.
    pub disk: DiskSettings,
    /// A server that all workers share.
    pub shared: SharedSettings,
}

/// How rows are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowFormat {
    /// As they were computed.
    #[default]
    Computed,
    /// A signed byte a number and a scale a row: an error of about 0.9 % of the length of a row.
    Int8,
}

/// A folder of features, one file each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskSettings {
    /// Whose only user this worker is. Empty: features are kept in memory only.
    pub folder: PathBuf,
    /// What its files may take; the least recently used go first.
    pub size: ByteSize,
}

/// A server of features: Redis, Valkey, or an object store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SharedSettings {
    /// `redis://HOST:PORT`, `rediss://…`, `s3://BUCKET/PREFIX` or `file:///PATH`. Empty: none.
    pub url: String,
    /// What the features there may take; the least recently used go first.
    pub size: ByteSize,
    /// How long an operation may take before it counts as failed.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Features that wait to be written there; more are not written.
    pub pending: ByteSize,
    /// Of an object store: its address, where that is not the provider's own.
    pub endpoint: String,
    /// Of an object store. Empty: `us-east-1`.
    pub region: String,
    /// Of an object store: who asks.
    pub access_key: Secret,
    /// Of an object store: the password of `access_key`; of Redis: the password, if the URL names none.
    pub secret_key: Secret,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 50052).into(),
            model: PathBuf::new(),
            device: Devices::default(),
            compute: Compute::default(),
            image: ImageSettings::default(),
            batch: BatchSettings::default(),
            store: StoreSettings::default(),
            server: ServerSettings::default(),
            tls: TlsSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self { tiles: None, waiting_tiles: 640, preprocess: 2, decoded: ByteSize::gib(2) }
    }
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            memory: ByteSize::gib(1),
            open_keys: 1024,
            rows: RowFormat::Computed,
            disk: DiskSettings::default(),
            shared: SharedSettings::default(),
        }
    }
}

impl Default for DiskSettings {
    fn default() -> Self {
        Self { folder: PathBuf::new(), size: ByteSize::gib(64) }
    }
}

impl Default for SharedSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            size: ByteSize::gib(64),
            timeout: Duration::from_secs(2),
            pending: ByteSize::mib(256),
            endpoint: String::new(),
            region: String::new(),
            access_key: Secret::default(),
            secret_key: Secret::default(),
        }
    }
}

impl Validate for Settings {
    fn validate(&self, problems: &mut Problems) {
        if self.model.as_os_str().is_empty() {
            problems.add("model", "must name the folder of a checkpoint");
        }
        if let Devices::Cuda(gpus) = &self.device
            && gpus.len() > 1
        {
            let gpus = gpus.len();
            problems.add("device", format!("names {gpus} GPUs, a vision worker runs on one: start a worker for each"));
        }
        problems.check("image", &self.image);
        problems.check("server", &self.server);
        problems.check("tls", &self.tls);
        let positive = [
            ("batch.tiles", self.batch.tiles != Some(0)),
            ("batch.waiting_tiles", self.batch.waiting_tiles > 0),
            ("batch.preprocess", self.batch.preprocess > 0),
            ("store.open_keys", self.store.open_keys > 0),
        ];
        for (key, _) in positive.iter().filter(|(_, fine)| !fine) {
            problems.add(key, "must be at least 1");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tessera_config::{ConfigErrors, EnvironmentSource, Sources, load};

    use super::*;

    fn read(key: &str, value: &str) -> Result<Settings, ConfigErrors> {
        let overrides = [("model", "/models/a"), (key, value)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let env = EnvironmentSource::Given(BTreeMap::new());
        load(&Sources { file: None, env_prefix: "TEST", env, overrides: overrides.to_vec() })
    }

    #[test]
    fn a_worker_runs_on_one_device() {
        assert_eq!(read("device", "cuda:1").unwrap().device, Devices::Cuda(vec![1]));
        let error = read("device", "cuda:0,cuda:1").unwrap_err().to_string();
        assert!(error.contains("device") && error.contains("start a worker for each"), "{error}");
    }

    #[test]
    fn the_tiles_of_a_pass_are_the_devices_to_choose_unless_they_are_given() {
        assert_eq!(read("device", "cpu").unwrap().batch.tiles, None);
        assert_eq!(read("batch.tiles", "7").unwrap().batch.tiles, Some(7));
        assert!(read("batch.tiles", "0").unwrap_err().to_string().contains("at least 1"));
    }
}
