//! Pools of scripted workers, with paused time.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::*;
use crate::upstream::discovery::Entry;

/// Workers whose model is a letter.
#[derive(Debug)]
struct Letters;

impl Kind for Letters {
    const POOL: &'static str = "letters";
    type Description = char;
    type Model = char;
    type Notes = ();
    type Load = ();

    fn model(description: &char) -> char {
        *description
    }

    fn version(_: &char) -> &'static str {
        "test"
    }

    fn load((): &()) -> Option<()> {
        None
    }
}

/// What one scripted worker is just now.
#[derive(Clone, Debug, Default)]
struct Script {
    /// What it runs; nothing when it cannot be reached.
    model: Option<char>,
    /// It takes no work.
    refuses: bool,
    /// How long an answer takes.
    delay: Duration,
    /// It says nothing any more.
    is_silent: bool,
}

/// Scripted workers, by URL.
#[derive(Debug, Default)]
struct Scripts {
    workers: Mutex<HashMap<String, Script>>,
    changed: watch::Sender<()>,
    described: AtomicUsize,
}

impl Scripts {
    fn of(&self, url: &str) -> Script {
        self.workers.lock().unwrap().get(url).cloned().unwrap_or_default()
    }

    fn change(&self, url: &str, change: impl FnOnce(&mut Script)) {
        change(self.workers.lock().unwrap().entry(url.to_owned()).or_default());
        self.changed.send_replace(());
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "UNREACHABLE", "connection refused")
}

impl Probe<Letters> for Scripts {
    async fn describe(&self, member: &Member<Letters>) -> Result<char> {
        self.described.fetch_add(1, Ordering::Relaxed);
        let Script { model, delay, is_silent, .. } = self.of(&member.url);
        tokio::time::sleep(delay).await;
        if is_silent {
            member.fall_silent();
            return Err(gone());
        }
        model.ok_or_else(gone)
    }

    async fn follow(&self, member: &Member<Letters>, tell: &(dyn Fn(bool) + Send + Sync)) -> Error {
        let mut changed = self.changed.subscribe();
        let began = self.of(&member.url).model;
        loop {
            changed.borrow_and_update();
            let Script { model, refuses, is_silent, .. } = self.of(&member.url);
            if is_silent {
                member.fall_silent();
                return gone();
            }
            if model != began {
                return gone();
            }
            tell(!refuses);
            changed.changed().await.unwrap();
        }
    }
}

/// A pool of scripted workers, and the service that it is part of.
struct Cast {
    pool: Arc<Pool<Letters>>,
    scripts: Arc<Scripts>,
    tasks: Tasks,
}

const URLS: [&str; 4] = ["http://w0:1", "http://w1:1", "http://w2:1", "http://w3:1"];

/// Lists that a test changes.
struct Listed(tokio::sync::Mutex<mpsc::Receiver<Vec<String>>>);

impl Look for Listed {
    async fn addresses(&self, _: &str, _: u16) -> Result<Vec<String>, String> {
        self.0.lock().await.recv().await.ok_or_else(|| "no more".to_owned())
    }

    async fn services(&self, _: &str) -> Result<Vec<String>, String> {
        Err("not in this test".to_owned())
    }

    async fn file(&self, _: &std::path::Path) -> Result<String, String> {
        Err("not in this test".to_owned())
    }
}

impl Cast {
    /// A pool of the first workers, which run these models.
    fn of(models: &str) -> Self {
        let entries = URLS[..models.len()].iter().map(|url| url.parse().unwrap()).collect();
        Self::listed(models, entries, mpsc::channel(1).1)
    }

    fn listed(models: &str, entries: Vec<Entry>, lists: mpsc::Receiver<Vec<String>>) -> Self {
        let (scripts, tasks) = (Arc::new(Scripts::default()), Tasks::default());
        for (url, model) in URLS.iter().zip(models.chars()) {
            scripts.change(url, |script| script.model = Some(model).filter(|model| *model != '-'));
        }
        let pool = Pool::new(HealthSettings::default(), ClientTls::default());
        let discovery = Discovery::new("letters", entries, 100, Listed(lists.into()));
        pool.start(discovery, Duration::from_secs(5), &scripts, &tasks);
        Self { pool, scripts, tasks }
    }

    /// The numbers of those who may be given work.
    fn available(&self) -> Vec<usize> {
        let number = |member: &Arc<Member<Letters>>| URLS.iter().position(|url| **url == *member.url).unwrap();
        self.pool.available().iter().map(number).collect()
    }

    async fn members(&self) -> Result<usize> {
        Ok(self.pool.members(Deadline::default().within(Duration::from_secs(60))).await?.len())
    }

    fn member(&self, number: usize) -> Arc<Member<Letters>> {
        let listed = self.pool.listed();
        Arc::clone(listed.iter().find(|member| *member.url == *URLS[number]).unwrap())
    }

    fn fail(&self, number: usize) -> Error {
        self.pool.hear::<()>(&self.member(number), Err(gone())).unwrap_err()
    }

    fn change(&self, number: usize, change: impl FnOnce(&mut Script)) {
        self.scripts.change(URLS[number], change);
    }
}

/// Lets tasks run for so long.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

const MOMENT: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_worker_is_asked_what_it_is_before_it_gets_work() {
    let cast = Cast::of("aa");
    assert_eq!(cast.available(), [0; 0]);
    cast.change(1, |script| script.delay = SECOND / 2);
    assert_eq!(cast.members().await, Ok(2), "the second one is waited for");
    assert_eq!((cast.available(), cast.pool.model()), (vec![0, 1], Some('a')));
    // One that does not answer is not waited for long.
    let cast = Cast::of("aa");
    cast.change(1, |script| script.delay = SECOND * 60);
    let began = Instant::now();
    assert_eq!(cast.members().await, Ok(1));
    assert!(began.elapsed() <= SETTLING + MOMENT);
}

#[tokio::test(start_paused = true)]
async fn a_worker_of_another_model_is_kept_out_and_asked_again_later() {
    let cast = Cast::of("baa");
    assert_eq!(cast.members().await, Ok(2));
    assert_eq!((cast.available(), cast.pool.model()), (vec![1, 2], Some('a')));
    // It starts anew with the right one.
    cast.change(0, |script| script.model = Some('a'));
    pass(SECOND * 2).await;
    assert_eq!(cast.available(), [0, 1, 2]);
    // And with the wrong one again: from now on it is asked every half a minute.
    cast.change(0, |script| script.model = Some('b'));
    pass(SECOND * 2).await;
    let described = cast.scripts.described.load(Ordering::Relaxed);
    assert_eq!(cast.available(), [1, 2]);
    pass(SECOND * 31).await;
    assert_eq!(cast.scripts.described.load(Ordering::Relaxed), described + 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_not_there_yet_decides_between_two_who_do_not_run_the_same() {
    let cast = Cast::of("ba-");
    let (members, comes) = tokio::join!(cast.members(), async {
        pass(SECOND * 3).await;
        cast.change(2, |script| script.model = Some('a'));
        cast.pool.available().len()
    });
    assert_eq!((members, comes, cast.pool.model()), (Ok(2), 1, Some('a')));
    // But it is not waited for much longer than that.
    let cast = Cast::of("ba-");
    let began = Instant::now();
    assert_eq!((cast.members().await, cast.pool.model()), (Ok(1), Some('b')));
    assert!(began.elapsed() <= DISPUTE + SECOND * 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_new_model_takes_over_once_most_run_it() {
    let cast = Cast::of("aaab");
    assert_eq!(cast.members().await, Ok(3));
    cast.change(2, |script| script.model = Some('b'));
    pass(SECOND * 2).await;
    assert_eq!((cast.available(), cast.pool.model()), (vec![0, 1], Some('a')), "a tie changes nothing");
    cast.change(1, |script| script.model = Some('b'));
    pass(SECOND * 2).await;
    assert_eq!((cast.available(), cast.pool.model()), (vec![1, 2, 3], Some('b')));
}

#[tokio::test(start_paused = true)]
async fn another_model_does_not_take_over_because_all_others_are_lost_for_a_while() {
    let cast = Cast::of("aab");
    assert_eq!(cast.members().await, Ok(2));
    pass(SECOND * 2).await;
    (0..2).for_each(|number| cast.change(number, |script| script.model = None));
    pass(SECOND * 20).await;
    assert_eq!((cast.available(), cast.pool.model()), (Vec::new(), Some('a')));
    assert_eq!(cast.members().await.unwrap_err().reason, "UNREACHABLE");
    cast.change(1, |script| script.model = Some('a'));
    assert_eq!(cast.members().await, Ok(1));
    assert_eq!((cast.available(), cast.pool.model()), (vec![1], Some('a')));
    // They are gone for good.
    cast.change(1, |script| script.model = None);
    pass(SECOND * 100).await;
    assert_eq!((cast.available(), cast.pool.model()), (vec![2], Some('b')));
}

#[tokio::test(start_paused = true)]
async fn a_lost_worker_gets_nothing_until_it_is_back() {
    let cast = Cast::of("aa");
    assert_eq!(cast.members().await, Ok(2));
    pass(SECOND * 2).await;
    cast.change(0, |script| script.model = None);
    pass(MOMENT).await;
    assert_eq!(cast.available(), [1]);
    assert_eq!(cast.members().await, Ok(1), "nobody waits for it");
    // It is tried less and less often, but at least every thirty seconds.
    let before = cast.scripts.described.load(Ordering::Relaxed);
    pass(SECOND * 300).await;
    let attempts = cast.scripts.described.load(Ordering::Relaxed) - before;
    assert!((11..=26).contains(&attempts), "{attempts} attempts in five minutes");
    cast.change(0, |script| script.model = Some('a'));
    pass(SECOND * 31).await;
    assert_eq!(cast.available(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_refuses_is_left_alone_and_so_may_all() {
    let cast = Cast::of("aa");
    assert_eq!(cast.members().await, Ok(2));
    for number in 0..2 {
        cast.change(number, |script| script.refuses = true);
    }
    pass(MOMENT).await;
    let error = cast.members().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "UNREACHABLE"));
    assert_eq!(error.message, "letters worker http://w0:1 cannot be reached: it takes no work");
    cast.change(1, |script| script.refuses = false);
    pass(MOMENT).await;
    assert_eq!(cast.available(), [1]);
}

#[tokio::test(start_paused = true)]
async fn when_nobody_is_left_all_are_tried_at_once() {
    let cast = Cast::of("--");
    let error = cast.members().await.unwrap_err();
    assert_eq!(error.message, "letters worker http://w0:1 cannot be reached: connection refused");
    assert_eq!(error.metadata, [("worker".into(), "http://w0:1".to_owned())]);
    pass(SECOND * 100).await;
    // They are in a pause of half a minute, which nobody waits for now.
    cast.change(1, |script| script.model = Some('a'));
    let began = Instant::now();
    assert_eq!(cast.members().await, Ok(1));
    assert!(began.elapsed() < SECOND / 10);
    // However many ask: each worker is tried no more often than every fiftieth of a second.
    cast.change(1, |script| script.model = None);
    pass(MOMENT).await;
    let before = cast.scripts.described.load(Ordering::Relaxed);
    let began = Instant::now();
    for _ in 0..100 {
        let all = futures::future::join_all((0..50).map(|_| cast.members())).await;
        assert!(all.iter().all(Result::is_err));
    }
    let (attempts, time) = (cast.scripts.described.load(Ordering::Relaxed) - before, began.elapsed());
    assert!(attempts as f64 <= 2.0 * (time.as_secs_f64() / 0.05 + 1.0), "{attempts} in {time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_in_the_transport_takes_its_worker_out_until_it_has_said_what_it_is() {
    let cast = Cast::of("aa");
    assert_eq!(cast.members().await, Ok(2));
    let error = cast.fail(0);
    assert_eq!(error.message, "letters worker http://w0:1 cannot be reached: connection refused");
    assert_eq!(cast.available(), [1], "from this moment on");
    pass(GAP).await;
    assert_eq!((cast.available(), cast.pool.figures.ejections()), (vec![0, 1], 0));
    // What a worker says itself is no fault of the transport, nor is what it says of another one.
    for error in [Error::field("A_REASON", "a", "wrong"), gone().with("store", "http://elsewhere:1")] {
        assert_eq!(cast.pool.hear::<()>(&cast.member(0), Err(error.clone())), Err(error));
    }
    assert_eq!(cast.available(), [0, 1]);
}

/// Longer than the least time between two attempts.
const GAP: Duration = Duration::from_millis(60);

#[tokio::test(start_paused = true)]
async fn a_worker_that_falls_silent_ends_the_calls_that_wait_for_it() {
    let cast = Cast::of("aaa");
    assert_eq!(cast.members().await, Ok(3));
    pass(SECOND * 2).await;
    let [silent, gone] = [0, 1].map(|number| cast.member(number));
    let mut between_two_events = silent.silence();
    let waiting = [&silent, &gone].map(|member| member.answer(std::future::pending::<Result<(), tonic::Status>>()));
    let [mut waits_in_vain, mut goes_on] = waiting.map(Box::pin);
    assert!(futures::poll!(&mut waits_in_vain).is_pending() && futures::poll!(&mut goes_on).is_pending());
    cast.change(0, |script| script.is_silent = true);
    // This one ends, and may still hand over what it has.
    cast.change(1, |script| script.model = None);
    pass(MOMENT).await;
    assert_eq!(cast.available(), [2]);
    assert_eq!(waits_in_vain.await.unwrap_err().reason, "UNREACHABLE");
    assert_eq!(
        between_two_events.unless(std::future::pending::<Result<(), _>>()).await.unwrap_err().reason,
        "UNREACHABLE"
    );
    assert!(futures::poll!(&mut goes_on).is_pending());
}

#[tokio::test(start_paused = true)]
async fn calls_that_fail_in_a_row_eject_a_worker_for_longer_each_time() {
    let cast = Cast::of("aaa");
    assert_eq!(cast.members().await, Ok(3));
    for _ in 0..3 {
        assert_eq!(cast.available(), [0, 1, 2]);
        cast.fail(0);
        pass(GAP).await;
    }
    assert_eq!((cast.available(), cast.pool.figures.ejections()), (vec![1, 2], 1));
    // After a success it is back; one more failure is enough now.
    pass(SECOND).await;
    assert_eq!(cast.available(), [0, 1, 2]);
    cast.fail(0);
    pass(SECOND * 9 / 10).await;
    assert_eq!((cast.available(), cast.pool.figures.ejections()), (vec![1, 2], 2), "for at least a second");
    pass(SECOND * 12 / 10).await;
    assert_eq!(cast.available(), [0, 1, 2]);
    // A call that it answers makes up for all.
    cast.pool.hear(&cast.member(0), Ok(())).unwrap();
    cast.fail(0);
    pass(GAP).await;
    assert_eq!((cast.available(), cast.pool.figures.ejections()), (vec![0, 1, 2], 2));
}

#[tokio::test(start_paused = true)]
async fn a_bad_network_of_the_gateway_ejects_no_more_than_a_share() {
    let cast = Cast::of("aaaa");
    assert_eq!(cast.members().await, Ok(4));
    for _ in 0..3 {
        (0..4).for_each(|number| _ = cast.fail(number));
        pass(GAP).await;
    }
    assert_eq!((cast.available(), cast.pool.figures.ejections()), (vec![2, 3], 2));
}

#[tokio::test(start_paused = true)]
async fn workers_come_and_go_while_what_they_do_goes_on() {
    let (lists, receiver) = mpsc::channel(1);
    let cast = Cast::listed("aaaa", vec!["dns://pool:1".parse().unwrap()], receiver);
    let found = |&number: &usize| URLS[number].trim_start_matches("http://").to_owned();
    let list = |numbers: &[usize]| numbers.iter().map(found).collect::<Vec<String>>();
    assert!(cast.pool.members(Deadline::default().within(SECOND)).await.is_err(), "the list is waited for");
    lists.send(list(&[0, 1])).await.unwrap();
    cast.members().await.unwrap();
    pass(MOMENT).await;
    assert_eq!(cast.available(), [0, 1]);
    let call = cast.member(0).call();
    assert_eq!(cast.member(0).in_flight(), 1);
    lists.send(list(&[1, 2])).await.unwrap();
    pass(SECOND * 6).await;
    assert_eq!(cast.available(), [1, 2]);
    assert!(call.0.gone.is_cancelled() && call.0.in_flight() == 1, "its call goes on");
    drop(call);
    lists.send(Vec::new()).await.unwrap();
    pass(SECOND * 6).await;
    assert_eq!(cast.members().await.unwrap_err().reason, "POOL_EMPTY");
    lists.send(list(&[3])).await.unwrap();
    pass(SECOND * 6).await;
    assert_eq!(cast.members().await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_observed_once_the_gateway_takes_no_more_work() {
    let cast = Cast::of("aa-");
    assert_eq!(cast.members().await, Ok(2));
    cast.tasks.draining().cancel();
    assert!(cast.tasks.finish(SECOND).await);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_says_nothing_is_unreachable_for_whoever_has_time() {
    let cast = Cast::of("a");
    assert_eq!(cast.members().await.unwrap(), 1);
    cast.change(0, |script| (script.model, script.delay) = (Some('b'), SECOND * 3600));
    tokio::time::sleep(SECOND).await;
    let error = cast.members().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "UNREACHABLE"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn whoever_looks_sees_how_each_worker_is_and_why() {
    let cast = Cast::of("aab-");
    let standings = || {
        let workers = cast.pool.snapshot().workers;
        workers.into_iter().map(|worker| (worker.standing, worker.why)).collect::<Vec<_>>()
    };
    assert_eq!(standings(), [(); 4].map(|()| (Standing::New, None)));
    cast.members().await.unwrap();
    let lost = (Standing::Lost, Some("connection refused".to_owned()));
    let other = (Standing::KeptOut, Some("it runs another model: b".to_owned()));
    assert_eq!(standings(), [(Standing::Ready, None), (Standing::Ready, None), other.clone(), lost.clone()]);
    cast.change(1, |script| script.refuses = true);
    pass(MOMENT).await;
    assert_eq!(standings()[1], (Standing::Refusing, Some("it says that it takes no work".to_owned())));
    for _ in 0..3 {
        cast.fail(0);
        pass(GAP).await;
    }
    assert_eq!(standings()[0], (Standing::Ejected, lost.1));
    let snapshot = cast.pool.snapshot();
    assert_eq!((snapshot.model.as_deref(), snapshot.ejections), (Some("a"), 1));
    let call = cast.member(0).call();
    let worker = &cast.pool.snapshot().workers[0];
    assert_eq!((&*worker.url, worker.version.as_deref(), worker.in_flight), (URLS[0], Some("test"), 1));
    drop(call);
}
