use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::AtomicUsize;

use super::*;

/// What the server does with its next operation.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Hit,
    Miss,
    Fail,
    Full,
    Hang,
}

/// A server that does what it is told, and counts how often it was asked.
#[derive(Default)]
struct Scripted {
    acts: Mutex<VecDeque<Act>>,
    asked: AtomicUsize,
}

impl Scripted {
    async fn act(&self) -> Result<bool, RemoteError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let act = self.acts.lock().unwrap().pop_front().expect("the server is not asked more often than planned");
        match act {
            Act::Hit => Ok(true),
            Act::Miss => Ok(false),
            Act::Fail => Err(RemoteError::Away("no route".into())),
            Act::Full => Err(RemoteError::Full("out of memory".into())),
            Act::Hang => pending().await,
        }
    }
}

impl Remote for Scripted {
    fn get<'a>(&'a self, _key: &'a ImageKey) -> BoxFuture<'a, Result<Option<Bytes>, RemoteError>> {
        async { Ok(self.act().await?.then(|| Bytes::from_static(b"artifact"))) }.boxed()
    }

    fn put<'a>(&'a self, _key: &'a ImageKey, _artifact: Bytes) -> BoxFuture<'a, Result<(), RemoteError>> {
        async { self.act().await.map(|_| ()) }.boxed()
    }

    fn delete<'a>(&'a self, _key: &'a ImageKey) -> BoxFuture<'a, Result<bool, RemoteError>> {
        self.act().boxed()
    }
}

const OPTIONS: BreakerOptions = BreakerOptions {
    timeout: Duration::from_secs(2),
    operations: 2,
    failures: 3,
    backoff: Duration::from_secs(1),
    backoff_limit: Duration::from_secs(3),
};

fn key() -> ImageKey {
    ImageKey::try_from(&[7u8; 32][..]).unwrap()
}

fn breaker(acts: &[Act]) -> (Arc<Scripted>, Breaker) {
    let server = Arc::new(Scripted { acts: Mutex::new(acts.iter().copied().collect()), ..Scripted::default() });
    (server.clone(), Breaker::new(server, OPTIONS))
}

async fn fail(breaker: &Breaker, times: usize) {
    for _ in 0..times {
        breaker.get(&key()).await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_answers_at_once_and_asks_nobody() {
    let (server, breaker) = breaker(&[Act::Fail, Act::Fail, Act::Fail]);
    fail(&breaker, 3).await;
    let before = Instant::now();
    for _ in 0..10 {
        let error = breaker.get(&key()).await.unwrap_err();
        assert!(matches!(error, RemoteError::Open(wait) if wait <= OPTIONS.backoff), "{error}");
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(server.asked.load(Ordering::Relaxed), 3);
    let status = breaker.status();
    assert_eq!((status.state, status.failures, status.rejected, status.opened), (BreakerState::Open, 3, 10, 1));
}

#[tokio::test(start_paused = true)]
async fn only_failures_in_a_row_open_it() {
    let (_, breaker) = breaker(&[Act::Fail, Act::Fail, Act::Hit, Act::Fail, Act::Fail, Act::Miss]);
    fail(&breaker, 2).await;
    assert!(breaker.get(&key()).await.unwrap().is_some());
    fail(&breaker, 2).await;
    assert!(breaker.get(&key()).await.unwrap().is_none());
    let status = breaker.status();
    assert_eq!(
        (status.state, status.hits, status.misses, status.failures, status.opened),
        (BreakerState::Closed, 1, 1, 4, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_full_is_not_away() {
    let (_, breaker) = breaker(&[Act::Full; 5]);
    for _ in 0..5 {
        let error = breaker.put(&key(), Bytes::from_static(b"artifact")).await.unwrap_err();
        assert!(matches!(error, RemoteError::Full(_)), "{error}");
    }
    let status = breaker.status();
    assert_eq!((status.state, status.refused, status.failures), (BreakerState::Closed, 5, 0));
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_counts_as_failing() {
    let (_, breaker) = breaker(&[Act::Hang; 3]);
    let before = Instant::now();
    for _ in 0..3 {
        let error = breaker.get(&key()).await.unwrap_err();
        assert!(matches!(error, RemoteError::Slow(wait) if wait == OPTIONS.timeout), "{error}");
    }
    assert_eq!(before.elapsed(), 3 * OPTIONS.timeout);
    assert_eq!(breaker.status().state, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn the_back_off_doubles_up_to_its_limit_and_a_probe_closes_it() {
    let (server, breaker) = breaker(&[Act::Fail, Act::Fail, Act::Fail, Act::Fail, Act::Fail, Act::Fail, Act::Miss]);
    fail(&breaker, 3).await;
    for wait in [1, 2, 3] {
        let wait = Duration::from_secs(wait);
        tokio::time::advance(wait - Duration::from_millis(1)).await;
        assert!(matches!(breaker.get(&key()).await, Err(RemoteError::Open(_))));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(breaker.status().state, BreakerState::Probing);
        assert!(matches!(breaker.get(&key()).await, Err(RemoteError::Away(_))));
    }
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(breaker.get(&key()).await.unwrap().is_none());
    assert_eq!((breaker.status().state, server.asked.load(Ordering::Relaxed)), (BreakerState::Closed, 7));
}

#[tokio::test(start_paused = true)]
async fn one_operation_probes_and_the_others_are_rejected() {
    let (server, breaker) = breaker(&[Act::Fail, Act::Fail, Act::Fail, Act::Hang, Act::Hit]);
    fail(&breaker, 3).await;
    tokio::time::advance(OPTIONS.backoff).await;
    let key = key();
    let mut probe = breaker.get(&key);
    assert!(futures::poll!(&mut probe).is_pending());
    assert!(matches!(breaker.get(&key).await, Err(RemoteError::Open(_))));
    assert_eq!(server.asked.load(Ordering::Relaxed), 4);

    // Its caller gives it up: the next one may probe.
    drop(probe);
    assert_eq!(breaker.status().state, BreakerState::Probing);
    assert!(breaker.get(&key).await.unwrap().is_some());
    assert_eq!(breaker.status().state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_operation_begun_before_it_opened_does_not_close_it() {
    let (_, breaker) = breaker(&[Act::Hang, Act::Fail, Act::Fail, Act::Fail]);
    let key = key();
    let mut early = breaker.get(&key);
    assert!(futures::poll!(&mut early).is_pending());
    fail(&breaker, 3).await;
    let state = breaker.status().state;
    assert!(matches!(early.await, Err(RemoteError::Slow(_))));
    assert_eq!((state, breaker.status().opened), (BreakerState::Open, 1));
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_place_is_rejected_and_the_server_is_not_blamed() {
    let (_, breaker) = breaker(&[Act::Hang, Act::Hang, Act::Hang]);
    let key = key();
    let late = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        breaker.delete(&key).await
    };
    let (first, second, third) = futures::join!(breaker.get(&key), breaker.get(&key), late);
    assert!(matches!((first, second), (Err(RemoteError::Slow(_)), Err(RemoteError::Slow(_)))));
    assert!(matches!(third, Err(RemoteError::Busy(2))), "{third:?}");
    assert_eq!((breaker.status().failures, breaker.status().rejected), (2, 1));
}
