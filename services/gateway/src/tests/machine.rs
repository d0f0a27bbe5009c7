//! The machines of a simulated cluster: their workers start, drain and crash.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tessera_api::{Error, ErrorKind, explain};
use tessera_embedding::ImageKey;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tower::util::MapResponseLayer;

use super::world::World;
use super::{language, vision};

const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// What a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Vision,
    Language,
    /// A language worker of another model.
    Stranger,
}

/// One machine, whether its worker runs or not.
pub(crate) struct Machine {
    pub(crate) role: Role,
    /// Host and port.
    pub(crate) authority: String,
    /// How long a step takes: a token, or an image.
    pub(crate) step: Range<Duration>,
    mood: Mutex<Mood>,
    life: Mutex<Option<Arc<Life>>>,
    /// What outlives a crash, if this machine keeps anything.
    disk: Option<Mutex<HashSet<ImageKey>>>,
}

/// What a machine is like now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mood {
    /// How many times longer a step takes.
    pub(crate) slow: u32,
    /// It has no room.
    pub(crate) full: bool,
    /// Its model fails.
    pub(crate) sick: bool,
    /// Calls to it break.
    pub(crate) sour: bool,
    /// The share of its streams that break somewhere.
    pub(crate) breaks: f64,
    /// When it was taken from the list, if it is not on it.
    pub(crate) unlisted: Option<Instant>,
}

/// A worker while it runs.
pub(crate) struct Life {
    server: Mutex<Option<JoinHandle<()>>>,
    health: HealthReporter,
    /// It takes no more work.
    pub(crate) draining: CancellationToken,
    /// Others go on with what it has.
    pub(crate) handing_over: CancellationToken,
    /// It runs no more.
    pub(crate) gone: CancellationToken,
    /// Images that it has; tells of new ones.
    pub(crate) images: watch::Sender<HashSet<ImageKey>>,
}

impl Machine {
    pub(crate) fn new(role: Role, number: usize, step: Range<Duration>, keeps: bool) -> Arc<Self> {
        let kind = if role == Role::Vision { "vision" } else { "language" };
        let mood = Mood { slow: 1, full: false, sick: false, sour: false, breaks: 0.0, unlisted: None };
        Arc::new(Self {
            role,
            authority: format!("{kind}-{number}:1"),
            step,
            mood: Mutex::new(mood),
            life: Mutex::default(),
            disk: keeps.then(Mutex::default),
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    pub(crate) fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.mood.lock().unwrap());
    }

    pub(crate) fn life(&self) -> Option<Arc<Life>> {
        self.life.lock().unwrap().clone()
    }

    /// Keeps an image.
    pub(crate) fn keep(&self, life: &Life, key: ImageKey) {
        life.images.send_modify(|images| _ = images.insert(key));
        if let Some(disk) = &self.disk {
            disk.lock().unwrap().insert(key);
        }
    }

    /// Whether what it keeps outlives a crash.
    pub(crate) fn is_durable(&self) -> bool {
        self.disk.is_some()
    }

    /// Starts the worker, with what its disk has.
    pub(crate) fn start(self: &Arc<Self>, world: &Arc<World>) {
        let (health, health_service) = health_reporter();
        let kept = self.disk.as_ref().map(|disk| disk.lock().unwrap().clone());
        let life = Arc::new(Life {
            server: Mutex::default(),
            health,
            draining: CancellationToken::new(),
            handing_over: CancellationToken::new(),
            gone: CancellationToken::new(),
            images: watch::Sender::new(kept.unwrap_or_default()),
        });
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .layer(MapResponseLayer::new(explain))
            .add_service(health_service);
        let server = match self.role {
            Role::Vision => {
                let worker = vision::Worker { world: world.clone(), machine: self.clone(), life: life.clone() };
                server.add_service(worker.clone().encoder()).add_service(worker.store())
            }
            Role::Language | Role::Stranger => {
                let worker = language::Worker { world: world.clone(), machine: self.clone(), life: life.clone() };
                server.add_service(worker.service())
            }
        };
        let doors = world.network.listen(&self.authority);
        let serving = server.serve_with_incoming_shutdown(doors, life.draining.clone().cancelled_owned());
        let serving = world.tasks.spawn(async move { _ = serving.await });
        *life.server.lock().unwrap() = Some(serving);
        *self.life.lock().unwrap() = Some(life);
    }

    /// The worker is gone from one moment to the next.
    pub(crate) fn crash(&self, world: &World) {
        world.network.close(&self.authority);
        let Some(life) = self.life.lock().unwrap().take() else { return };
        life.gone.cancel();
        if let Some(server) = life.server.lock().unwrap().take() {
            server.abort();
        }
    }

    /// The worker takes no more work, lets what it has go on for `finish`, hands the rest over, and ends.
    pub(crate) async fn drain(&self, world: &World, finish: Duration) {
        let Some(life) = self.life() else { return };
        let mut health = life.health.clone();
        life.draining.cancel();
        health.set_service_status("", ServingStatus::NotServing).await;
        tokio::task::yield_now().await;
        health.clear_service_status("").await;
        tokio::time::sleep(finish).await;
        life.handing_over.cancel();
        tokio::time::sleep(finish).await;
        self.crash(world);
    }
}

/// What the transport says of a call that broke.
pub(crate) fn broken() -> Error {
    Error::new(ErrorKind::Unavailable, "UNREACHABLE", "connection reset")
}

/// The error of a worker that has no room.
pub(crate) fn full() -> Error {
    Error::exhausted("QUEUE_FULL", "there is no room", Duration::from_millis(500))
}
