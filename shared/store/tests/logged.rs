//! What a breaker logs. Alone in its program: `tracing` asks whoever reaches a log line first, on any thread, whether
//! anybody listens to it, and tests that listen to nothing would answer for this one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tessera_embedding::ImageKey;
use tessera_store::remote::{Breaker, BreakerOptions, Remote, RemoteError};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Counts what is logged at WARN and INFO.
#[derive(Default)]
struct Logged {
    warnings: AtomicUsize,
    infos: AtomicUsize,
}

impl Logged {
    /// How many warnings, and how many lines of INFO.
    fn so_far(&self) -> (usize, usize) {
        (self.warnings.load(Ordering::Relaxed), self.infos.load(Ordering::Relaxed))
    }
}

struct Ears(Arc<Logged>);

impl Subscriber for Ears {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tessera_store")
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        if level == Level::WARN {
            self.0.warnings.fetch_add(1, Ordering::Relaxed);
        } else if level == Level::INFO {
            self.0.infos.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// A server that is away for its first `fails` operations.
struct Away {
    fails: usize,
    asked: AtomicUsize,
}

impl Away {
    fn answer(&self) -> Result<(), RemoteError> {
        match self.asked.fetch_add(1, Ordering::Relaxed) {
            nth if nth < self.fails => Err(RemoteError::Away("no route".into())),
            _ => Ok(()),
        }
    }
}

impl Remote for Away {
    fn get<'a>(&'a self, _key: &'a ImageKey) -> BoxFuture<'a, Result<Option<Bytes>, RemoteError>> {
        async { self.answer().map(|()| None) }.boxed()
    }

    fn put<'a>(&'a self, _key: &'a ImageKey, _artifact: Bytes) -> BoxFuture<'a, Result<(), RemoteError>> {
        async { self.answer() }.boxed()
    }

    fn delete<'a>(&'a self, _key: &'a ImageKey) -> BoxFuture<'a, Result<bool, RemoteError>> {
        async { self.answer().map(|()| false) }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn it_warns_once_when_it_opens_and_tells_once_that_it_closed() {
    let logged = Arc::new(Logged::default());
    let _ears = tracing::subscriber::set_default(Ears(logged.clone()));
    let backoff = Duration::from_secs(1);
    let options = BreakerOptions {
        timeout: Duration::from_secs(2),
        operations: 2,
        failures: 3,
        backoff,
        backoff_limit: Duration::from_secs(3),
    };
    let server = Arc::new(Away { fails: 4, asked: AtomicUsize::new(0) });
    let breaker = Breaker::new(server.clone(), options);
    let key = ImageKey::try_from(&[7u8; 32][..]).unwrap();

    for _ in 0..8 {
        breaker.get(&key).await.unwrap_err();
    }
    tokio::time::advance(backoff).await;
    for _ in 0..2 {
        breaker.get(&key).await.unwrap_err();
    }
    assert_eq!((logged.so_far(), server.asked.load(Ordering::Relaxed)), ((1, 0), 4));
    tokio::time::advance(2 * backoff).await;
    for _ in 0..2 {
        assert!(breaker.get(&key).await.unwrap().is_none());
    }
    assert_eq!(logged.so_far(), (1, 1));
}
