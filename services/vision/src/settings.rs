//! Settings of the vision worker.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tessera_config::{ByteSize, Problems, Validate};
use tessera_image::ImageSettings;
use tessera_rpc::ServerSettings;
use tessera_telemetry::LogSettings;
use tessera_tensor::DType;

/// Everything that can be set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Folder of the checkpoint.
    pub model: PathBuf,
    /// Type that the model computes in, and that features are stored in.
    pub compute: DType,
    /// Bounds and routes of images.
    pub image: ImageSettings,
    /// How tiles share forward passes.
    pub batch: BatchSettings,
    /// Where features are kept.
    pub store: StoreSettings,
    /// Bounds of the server.
    pub server: ServerSettings,
    /// Logs.
    pub log: LogSettings,
}

/// How tiles share forward passes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchSettings {
    /// Tiles in one forward pass.
    pub tiles: usize,
    /// Tiles that wait for decoding or for the device; more are refused.
    pub waiting_tiles: usize,
    /// Images decoded and resized at once.
    pub preprocess: usize,
}

/// Where features are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// Memory of the features.
    pub memory: ByteSize,
    /// Images that are being encoded or waited for at once.
    pub open_keys: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 50052).into(),
            model: PathBuf::new(),
            compute: DType::F32,
            image: ImageSettings::default(),
            batch: BatchSettings::default(),
            store: StoreSettings::default(),
            server: ServerSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self { tiles: 10, waiting_tiles: 640, preprocess: 2 }
    }
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { memory: ByteSize::gib(1), open_keys: 1024 }
    }
}

impl Validate for Settings {
    fn validate(&self, problems: &mut Problems) {
        if self.model.as_os_str().is_empty() {
            problems.add("model", "must name the folder of a checkpoint");
        }
        problems.check("image", &self.image);
        problems.check("server", &self.server);
        let positive = [
            ("batch.tiles", self.batch.tiles > 0),
            ("batch.waiting_tiles", self.batch.waiting_tiles > 0),
            ("batch.preprocess", self.batch.preprocess > 0),
            ("store.open_keys", self.store.open_keys > 0),
        ];
        for (key, _) in positive.iter().filter(|(_, fine)| !fine) {
            problems.add(key, "must be at least 1");
        }
    }
}
