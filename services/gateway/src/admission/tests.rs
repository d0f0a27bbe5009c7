use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use tessera_anyres::ImageSize;
use tessera_api::vision::EncodeTimings;
use tessera_embedding::Salt;

use super::*;
use crate::tenant::TenantSettings;

const SECOND: Duration = Duration::from_secs(1);

/// A language pool that runs so many sequences, and as many as a test says from then on.
struct Bench {
    admission: Arc<Admission>,
    sequences: Arc<AtomicUsize>,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        let sequences = Arc::new(AtomicUsize::new(1));
        let runs = Arc::clone(&sequences);
        let room = move || Room { vision_workers: 1, sequences: Some(runs.load(Ordering::Relaxed)), positions: None };
        Self { admission: Admission::new(&settings, room), sequences }
    }

    async fn ask(&self, tenant: &Arc<Tenant>, cost: Cost, deadline: Deadline) -> Result<Admitted> {
        self.admission.enter(tenant, Class::Interactive, cost, deadline)?.admit(cost, deadline).await
    }

    fn waits(&self) -> bool {
        self.admission.gate().has_line()
    }
}

fn tenant(set: impl FnOnce(&mut TenantSettings)) -> Arc<Tenant> {
    let mut settings = TenantSettings::default();
    set(&mut settings);
    Arc::new(Tenant::new(&Salt::default(), "a", &settings))
}

fn tokens(tokens: usize) -> Cost {
    Cost { tiles: 0, tokens }
}

fn encoded(stored_before: bool) -> Encoded {
    let image_size = ImageSize { height: 1, width: 1 };
    Encoded { image_size, image_tokens: 1, stored_before, durable: false, timings: EncodeTimings::default() }
}

#[tokio::test(start_paused = true)]
async fn requests_wait_until_there_is_room() {
    let (bench, tenant) = (Bench::new(|_| {}), tenant(|_| {}));
    let first = bench.ask(&tenant, tokens(10), Deadline::default()).await.unwrap();
    let second = bench.ask(&tenant, tokens(10), Deadline::default());
    tokio::pin!(second);
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    second.now_or_never().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn room_that_a_worker_reports_is_seen_though_nothing_ends_here() {
    let (bench, tenant) = (Bench::new(|_| {}), tenant(|_| {}));
    let watching = bench.admission.clone().watch();
    let _first = bench.ask(&tenant, tokens(10), Deadline::default()).await.unwrap();
    let second = async {
        let asked = bench.ask(&tenant, tokens(10), Deadline::default());
        let more = async {
            tokio::time::sleep(SECOND).await;
            bench.sequences.store(2, Ordering::Relaxed);
        };
        tokio::join!(asked, more).0
    };
    tokio::select! {
        () = watching => unreachable!("it never ends"),
        second = second => drop(second.unwrap()),
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_the_line_or_comes_to_its_deadline_keeps_no_place() {
    let (bench, tenant) = (Bench::new(|_| {}), tenant(|_| {}));
    let first = bench.ask(&tenant, tokens(10), Deadline::default()).await.unwrap();
    {
        let left = bench.ask(&tenant, tokens(10), Deadline::default());
        tokio::pin!(left);
        assert!(left.as_mut().now_or_never().is_none());
        assert!(bench.waits());
    }
    assert!(!bench.waits());
    let late = bench.ask(&tenant, tokens(10), Deadline::default().within(SECOND)).await.unwrap_err();
    assert_eq!(late.kind, ErrorKind::Deadline);
    assert!(!bench.waits());
    assert_eq!(tenant.quota.open(), 1);
    drop(first);
    assert_eq!(tenant.quota.open(), 0);
    bench.ask(&tenant, tokens(10), Deadline::default()).now_or_never().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_in_the_moment_of_its_turn_leaves_the_room_to_the_next() {
    let (bench, tenant) = (Bench::new(|_| {}), tenant(|_| {}));
    let first = bench.ask(&tenant, tokens(10), Deadline::default()).await.unwrap();
    let mut second = Box::pin(bench.ask(&tenant, tokens(10), Deadline::default()));
    let mut third = Box::pin(bench.ask(&tenant, tokens(10), Deadline::default()));
    assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
    // Its turn has come, and it never learns of it.
    drop(first);
    assert!(third.as_mut().now_or_never().is_none());
    drop(second);
    third.now_or_never().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_settings_allow() {
    let (bench, tenant) = (Bench::new(|settings| settings.limits.queue_time = SECOND), tenant(|_| {}));
    let _first = bench.ask(&tenant, tokens(10), Deadline::default()).await.unwrap();
    let began = Instant::now();
    let error = bench.ask(&tenant, tokens(10), Deadline::default()).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Exhausted, "QUEUE_TOO_LONG"));
    assert!(error.retry_after.unwrap() >= Duration::from_millis(200), "{error:?}");
    assert_eq!(began.elapsed(), SECOND);
    assert!(!bench.waits());
    // An image of a batch waits as long as it must.
    let entry = bench.admission.enter(&tenant, Class::Batch, tokens(1), Deadline::default()).unwrap();
    let batch = entry.admit(tokens(1), Deadline::default());
    assert!(tokio::time::timeout(SECOND * 100, batch).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn too_many_are_told_so_at_once() {
    let full = |settings: &mut Settings| (settings.limits.requests, settings.limits.waiting) = (4, 2);
    let (bench, tenant) = (Bench::new(full), tenant(|_| {}));
    let _first = bench.ask(&tenant, tokens(10), Deadline::default()).await.unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(bench.ask(&tenant, tokens(10), Deadline::default()))).collect();
    let outcomes: Vec<_> = waiting.iter_mut().map(|waiting| waiting.as_mut().now_or_never()).collect();
    assert!(matches!(outcomes[..], [None, None, Some(Err(_))]), "{outcomes:?}");
    let error = outcomes.into_iter().flatten().next().unwrap().unwrap_err();
    assert_eq!((error.reason.as_ref(), error.message.as_str()), ("QUEUE_FULL", "2 requests wait already"));
    // Requests that are only being prepared count as well.
    let _entry = bench.admission.enter(&tenant, Class::Interactive, tokens(1), Deadline::default()).unwrap();
    let error = bench.admission.enter(&tenant, Class::Interactive, tokens(1), Deadline::default()).unwrap_err();
    assert_eq!(error.message, "4 requests are in progress already");
    assert!(error.retry_after.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_last_places_are_for_those_who_have_few() {
    let bench = Bench::new(|settings| {
        settings.limits.requests = 16;
        settings.auth.tokens = "a-file".into();
    });
    let named = |name| Arc::new(Tenant::new(&Salt::default(), name, &TenantSettings::default()));
    let (flood, quiet) = (named("flood"), named("quiet"));
    let enter =
        |tenant: &Arc<Tenant>| bench.admission.enter(tenant, Class::Interactive, tokens(1), Deadline::default());
    let flooding: Vec<Entry> = std::iter::from_fn(|| enter(&flood).ok()).collect();
    assert_eq!(flooding.len(), 13);
    let quietly: Vec<Entry> = std::iter::from_fn(|| enter(&quiet).ok()).collect();
    assert_eq!(quietly.len(), 3);
    drop((flooding, quietly));
    assert_eq!(bench.admission.share_of(&flood), 0);
    assert!(bench.admission.shares.as_ref().unwrap().lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_charged_for_what_was_used_only() {
    let bench = Bench::new(|settings| settings.limits.queue_time = SECOND);
    let tenant = tenant(|settings| {
        settings.tokens_per_minute = Some(600.try_into().unwrap());
        settings.tiles_per_minute = Some(60.try_into().unwrap());
        settings.requests_per_minute = Some(6.try_into().unwrap());
    });
    let left = |cost: Cost| tenant.quota.take(cost).map(|()| tenant.quota.give_back(cost)).is_ok();
    let all = Cost { tiles: 60, tokens: 600 };
    // Whoever is refused for lack of room is charged nothing, nor is one who left.
    let first = bench.ask(&tenant, tokens(100), Deadline::default()).await.unwrap();
    for _ in 0..3 {
        bench.ask(&tenant, Cost { tiles: 5, tokens: 500 }, Deadline::default()).await.unwrap_err();
    }
    let mut leaving = Box::pin(bench.ask(&tenant, Cost { tiles: 5, tokens: 500 }, Deadline::default()));
    assert!(leaving.as_mut().now_or_never().is_none());
    drop(leaving);
    drop(first);
    tokio::time::advance(SECOND * 60).await;
    assert!(left(all));

    let image = bench.ask(&tenant, Cost { tiles: 10, tokens: 500 }, Deadline::default()).await.unwrap();
    assert!(!left(tokens(200)), "all that it may need is reserved");
    image.used_tokens(100);
    image.encoding(5, async { Ok(encoded(false)) }).await.unwrap();
    image.encoding(5, async { Ok(encoded(true)) }).await.unwrap();
    image.used_tokens(150);
    drop(image);
    assert!(left(Cost { tiles: 55, tokens: 450 }) && !left(tokens(455)));
    assert!(!left(Cost { tiles: 56, tokens: 0 }), "what was stored before is free, what was encoded is not");

    let error = bench.ask(&tenant, tokens(500), Deadline::default()).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Exhausted, "QUOTA_EXCEEDED"));
    tokio::time::advance(error.retry_after.unwrap()).await;
    bench.ask(&tenant, tokens(500), Deadline::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn tiles_are_free_for_others_once_they_are_encoded() {
    let (bench, tenant) = (Bench::new(|_| {}), tenant(|_| {}));
    let image = Cost { tiles: 40, tokens: 0 };
    let first = bench.ask(&tenant, image, Deadline::default()).await.unwrap();
    let mut second = Box::pin(bench.ask(&tenant, image, Deadline::default()));
    assert!(second.as_mut().now_or_never().is_none());
    first.encoding(40, async { Ok(encoded(false)) }).await.unwrap();
    second.now_or_never().unwrap().unwrap();
    // Whatever is said twice of the same image frees nothing more.
    first.encoding(40, async { Ok(encoded(false)) }).await.unwrap();
    drop(first);
    assert!(!bench.waits());
}
