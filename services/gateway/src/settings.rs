//! Settings of the gateway.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tessera_config::{ByteSize, Problems, Secret, Validate, duration};
use tessera_image::ImageSettings;
use tessera_rpc::{ServerSettings, TlsSettings, UpstreamTlsSettings};
use tessera_telemetry::LogSettings;

use crate::auth::AuthSettings;
use crate::http::HttpSettings;
use crate::tenant::NamedTenants;
use crate::upstream::Entry;
use crate::upstream::settings::{DiscoverySettings, EncodeSettings, HealthSettings, RetrySettings};
use crate::urls::UrlSettings;

/// Everything that can be set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Folder of the checkpoint: tokenizer, chat template and configuration; no weights are read.
    pub model: PathBuf,
    /// What clients call the model. Empty: as its folder is called.
    pub model_name: String,
    /// Vision workers: `http://HOST:PORT` or `https://HOST:PORT`, or `dns://NAME:PORT`, `srv://_SERVICE._tcp.NAME` (with
    /// `dns+tls` and `srv+tls` for those that speak TLS) or `file:///PATH`, which are looked up again and again. Language
    /// workers must be able to reach them as well, under the same URLs: they pull features.
    pub vision: Vec<String>,
    /// Language workers, in the same ways.
    pub language: Vec<String>,
    /// How workers are looked up.
    pub discovery: DiscoverySettings,
    /// When a worker gets no work.
    pub health: HealthSettings,
    /// How images are given to vision workers.
    pub encode: EncodeSettings,
    /// Calls that are made again on another worker.
    pub retry: RetrySettings,
    /// Bounds and routes of images; must be those of the vision workers.
    pub image: ImageSettings,
    /// Part of every image key: gateways with different salts never share an image, whatever they store it in.
    pub tenant_salt: Secret,
    /// Tenants that are told apart, by name.
    pub tenants: NamedTenants,
    /// Images that requests name by URL.
    pub urls: UrlSettings,
    /// What is served over HTTP, at the same address.
    pub http: HttpSettings,
    /// Bounds of requests.
    pub limits: LimitSettings,
    /// Bounds of the server.
    pub server: ServerSettings,
    /// Who the gateway is, and whom it lets in.
    pub tls: TlsSettings,
    /// Which workers it believes, and who it is to them.
    pub upstream_tls: UpstreamTlsSettings,
    /// Who may ask.
    pub auth: AuthSettings,
    /// Logs.
    pub log: LogSettings,
}

/// Bounds of requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Longest request: all messages and images together.
    pub request: ByteSize,
    /// Images in one request.
    pub images: usize,
    /// Requests in progress, those that wait included.
    pub requests: usize,
    /// Requests that wait until the pools can take them. Of more, those are refused whose tenant has most waiting for its weight.
    pub waiting: usize,
    /// Longest time that a request waits for the pools; one that would wait longer is refused at once.
    #[serde(with = "duration")]
    pub queue_time: Duration,
    /// Tokens that requests may ask for at once, as a multiple of the positions in the language workers' KV caches: most
    /// answers end before their limit.
    pub overcommit: f64,
    /// Longest time that a request may take, whatever its caller grants.
    #[serde(with = "duration")]
    pub time: Duration,
    /// Images of one batch that are encoded at once.
    pub batch: usize,
    /// Requests of one stream of the Open Inference Protocol that are answered at once; of more none is read.
    pub stream: usize,
    /// How often an answer goes on on another language worker after one was lost. 0: it fails with the first.
    pub continuations: usize,
    /// New tokens at most when neither request nor checkpoint says.
    pub default_max_tokens: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 50051).into(),
            model: PathBuf::new(),
            model_name: String::new(),
            vision: vec!["http://127.0.0.1:50052".into()],
            language: vec!["http://127.0.0.1:50053".into()],
            discovery: DiscoverySettings::default(),
            health: HealthSettings::default(),
            encode: EncodeSettings::default(),
            retry: RetrySettings::default(),
            image: ImageSettings::default(),
            tenant_salt: Secret::default(),
            tenants: NamedTenants::new(),
            urls: UrlSettings::default(),
            http: HttpSettings::default(),
            limits: LimitSettings::default(),
            server: ServerSettings::default(),
            tls: TlsSettings::default(),
            upstream_tls: UpstreamTlsSettings::default(),
            auth: AuthSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            request: ByteSize::mib(128),
            images: 16,
            requests: 1024,
            waiting: 512,
            queue_time: Duration::from_secs(30),
            overcommit: 2.0,
            time: Duration::from_secs(600),
            batch: 32,
            stream: 32,
            continuations: 8,
            default_max_tokens: 256,
        }
    }
}

impl Validate for Settings {
    fn validate(&self, problems: &mut Problems) {
        if self.model.as_os_str().is_empty() {
            problems.add("model", "must name the folder of a checkpoint");
        }
        if self.model_name.chars().any(char::is_control) {
            problems.add("model_name", "must be a name without control characters, such as llava-v1.6-mistral-7b");
        }
        for (key, entries) in [("vision", &self.vision), ("language", &self.language)] {
            if entries.is_empty() {
                problems.add(key, "must name at least one worker, as http://HOST:PORT");
            }
            for error in entries.iter().filter_map(|entry| entry.parse::<Entry>().err()) {
                problems.add(key, error.to_string());
            }
        }
        problems.check("discovery", &self.discovery);
        problems.check("health", &self.health);
        problems.check("retry", &self.retry);
        problems.check("image", &self.image);
        problems.check("urls", &self.urls);
        problems.check("server", &self.server);
        problems.check("tls", &self.tls);
        problems.check("upstream_tls", &self.upstream_tls);
        problems.check("auth", &self.auth);
        let positive = [
            ("limits.request", self.limits.request.as_u64() > 0),
            ("limits.requests", self.limits.requests > 0),
            ("limits.waiting", self.limits.waiting > 0),
            ("limits.batch", self.limits.batch > 0),
            ("limits.stream", self.limits.stream > 0),
            ("limits.default_max_tokens", self.limits.default_max_tokens > 0),
        ];
        for (key, _) in positive.iter().filter(|(_, fine)| !fine) {
            problems.add(key, "must be at least 1");
        }
        if !(0.1..=1e6).contains(&self.limits.overcommit) {
            problems.add("limits.overcommit", "must be a number from 0.1 to 1000000: write one such as 2.0");
        }
    }
}
