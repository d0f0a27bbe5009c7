//! Settings of the language worker.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tessera_config::{ByteSize, MemoryBudget, Problems, Validate, duration};
use tessera_rpc::{ServerSettings, TlsSettings, UpstreamTlsSettings};
use tessera_telemetry::LogSettings;
use tessera_tensor::{Compute, Devices};

use crate::features::StorePattern;

/// Everything that can be set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Folder of the checkpoint.
    pub model: PathBuf,
    /// Where the model runs. Its layers are dealt out to several GPUs.
    pub device: Devices,
    /// Type that the model computes in.
    pub compute: Compute,
    /// The engine's bounds.
    pub engine: EngineSettings,
    /// How features are pulled.
    pub features: FeatureSettings,
    /// How the worker ends.
    pub drain: DrainSettings,
    /// Bounds of the server.
    pub server: ServerSettings,
    /// Who the worker is, and whom it lets in.
    pub tls: TlsSettings,
    /// Which stores it believes, and who it is to them.
    pub upstream_tls: UpstreamTlsSettings,
    /// Logs.
    pub log: LogSettings,
}

/// Bounds of the engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Memory of the KV cache: a size, or a share of what is free on the model's device once it is loaded.
    pub kv_cache: MemoryBudget,
    /// Sequences that run at once.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Rows a step: a long prompt never holds others up for longer than these take.
    pub step_rows: usize,
}

/// How features are pulled.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureSettings {
    /// How long to wait for an image that is still being encoded.
    #[serde(with = "duration")]
    pub wait: Duration,
    /// Images pulled at once.
    pub fetches: usize,
    /// Memory for features that were pulled lately: another question about an image does not pull them again.
    pub cache: ByteSize,
    /// Stores to keep connections to.
    pub stores: usize,
    /// Stores that features may be pulled from, as `https://vision-*.pool.svc:50052`. Empty: whatever a caller names.
    pub allowed_stores: Vec<StorePattern>,
}

/// How the worker ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainSettings {
    /// The part of `server.drain` for which sequences go on; those that are left are then handed over to other workers.
    pub finish: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 50053).into(),
            model: PathBuf::new(),
            device: Devices::default(),
            compute: Compute::default(),
            engine: EngineSettings::default(),
            features: FeatureSettings::default(),
            drain: DrainSettings::default(),
            server: ServerSettings::default(),
            tls: TlsSettings::default(),
            upstream_tls: UpstreamTlsSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self { kv_cache: ByteSize::gib(2).into(), running: 32, waiting: 128, step_rows: 512 }
    }
}

impl Default for FeatureSettings {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(120),
            fetches: 16,
            cache: ByteSize::mib(256),
            stores: 64,
            allowed_stores: Vec::new(),
        }
    }
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self { finish: 0.8 }
    }
}

impl Validate for Settings {
    fn validate(&self, problems: &mut Problems) {
        if self.model.as_os_str().is_empty() {
            problems.add("model", "must name the folder of a checkpoint");
        }
        problems.check("server", &self.server);
        problems.check("tls", &self.tls);
        problems.check("upstream_tls", &self.upstream_tls);
        if !(0.0..=1.0).contains(&self.drain.finish) {
            problems.add("drain.finish", "must be a part of the whole, from 0 to 1");
        }
        let positive = [
            ("engine.running", self.engine.running > 0),
            ("engine.step_rows", self.engine.step_rows > 0),
            ("features.fetches", self.features.fetches > 0),
            ("features.stores", self.features.stores > 0),
        ];
        for (key, _) in positive.iter().filter(|(_, fine)| !fine) {
            problems.add(key, "must be at least 1");
        }
    }
}
