//! Where images go in a pool of scripted workers, with paused time.

use bytes::Bytes;
use tessera_anyres::Shape;
use tessera_api::{Error, ErrorKind};
use tessera_embedding::Salt;
use tessera_rpc::Tasks;

use super::*;
use crate::upstream::discovery::{Discovery, System};
use crate::upstream::pool::Probe;

/// Workers that all encode alike.
struct Alike;

impl Probe<Vision> for Alike {
    async fn describe(&self, _: &Member<Vision>) -> Result<Description> {
        let fingerprint = EncoderFingerprint::of(&[]);
        Ok(Description { fingerprint, version: "test".into(), busy: std::time::Duration::ZERO })
    }

    async fn follow(&self, _: &Member<Vision>, tell: &(dyn Fn(bool) + Send + Sync)) -> Error {
        tell(true);
        std::future::pending().await
    }
}

/// A pool of so many, all of whom take work, and the tasks that observe them.
async fn pool(count: usize) -> (Arc<VisionPool>, Tasks) {
    let pool = VisionPool::new(
        HealthSettings::default(),
        RetrySettings::default(),
        EncodeSettings::default(),
        ClientTls::default(),
    );
    let entries = (0..count).map(|index| format!("http://vision-{index}:1").parse().unwrap()).collect();
    let discovery = Discovery::new("vision", entries, 100, System::default());
    let tasks = Tasks::default();
    pool.pool.start(discovery, std::time::Duration::from_secs(5), &Arc::new(Alike), &tasks);
    assert_eq!(pool.pool.members(Deadline::default()).await.unwrap().len(), count);
    (Arc::new(pool), tasks)
}

fn key(number: u64) -> ImageKey {
    ImageKey::of(b"", &EncoderFingerprint::of(&[]), &number.to_le_bytes())
}

fn request(number: u64) -> EncodeRequest {
    EncodeRequest {
        image: Bytes::from_static(b"file"),
        key: key(number),
        tenant_salt: Salt::default(),
        shape: Shape::Own,
    }
}

fn urls(members: &[Arc<Member<Vision>>]) -> Vec<Arc<str>> {
    members.iter().map(|member| Arc::clone(&member.url)).collect()
}

impl VisionPool {
    /// How many images somebody is concerned with.
    pub(in crate::upstream) fn concern_count(&self) -> usize {
        self.concerns().len()
    }
}

#[tokio::test(start_paused = true)]
async fn the_store_that_is_named_is_the_worker_that_is_asked_first() {
    let (pool, _tasks) = pool(5).await;
    let mut busy = Vec::new();
    for number in 0..200 {
        let named = pool.store_of(&key(number)).unwrap();
        // Others come in between, and load changes.
        let home = pool.pool.available().iter().find(|member| member.url == named).cloned().unwrap();
        busy.extend([home.call(), home.call(), home.call()]);
        assert_eq!(pool.order(&pool.pool.available(), &key(number))[0].url, named);
        assert_eq!(pool.last_store_of(&key(number)), Some(named));
    }
    let most = pool.pool.available().iter().map(|member| member.in_flight()).max().unwrap();
    assert!(most <= 600 / 5 * 5 / 4 + 3, "{most} of 600");
}

#[tokio::test(start_paused = true)]
async fn the_images_of_a_lost_worker_go_to_the_next_and_are_looked_for_there() {
    let (pool, _tasks) = pool(5).await;
    let members = pool.pool.available();
    let order = pool.candidates(&members, &key(1));
    assert_eq!(order.len(), 1 + NEXT);
    assert_eq!(pool.store_of(&key(1)), Some(Arc::clone(&order[0].url)));
    let gone = Error::new(ErrorKind::Unavailable, "UNREACHABLE", "connection refused");
    pool.pool.hear::<()>(&order[0], Err(gone)).unwrap_err();
    assert_eq!(pool.last_store_of(&key(1)), Some(Arc::clone(&order[1].url)));
    assert_eq!(urls(&pool.candidates(&pool.pool.available(), &key(1)))[..3], urls(&order[1..]));
    // It is back, and the image stays where it went.
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(pool.pool.available().len(), 5);
    assert_eq!(pool.last_store_of(&key(1)), Some(Arc::clone(&order[1].url)));
    assert_eq!(
        urls(&pool.candidates(&pool.pool.available(), &key(1)))[..2],
        urls(&[order[1].clone(), order[0].clone()])
    );
    // The next time that it is encoded it goes home.
    assert_eq!(pool.store_of(&key(1)), Some(Arc::clone(&order[0].url)));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_being_encoded_is_where_it_is_being_encoded() {
    let (pool, _tasks) = pool(5).await;
    let elsewhere = Arc::clone(&pool.candidates(&pool.pool.available(), &key(1))[2].url);
    let under_way = pool.begin(&request(1));
    pool.places.note(key(1), &elsewhere);
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(pool.store_of(&key(1)), Some(elsewhere));
    drop(under_way);
    assert!(!pool.is_under_way(&key(1)));
}

#[tokio::test(start_paused = true)]
async fn files_are_kept_for_as_long_as_somebody_is_concerned() {
    let (pool, _tasks) = pool(1).await;
    let held = [pool.hold(vec![key(1), key(2)]), pool.hold(vec![key(1)])];
    drop(pool.begin(&request(1)));
    let kept = |number| pool.concerns().get(&key(number)).is_some_and(|concern| concern.request.is_some());
    assert!(kept(1) && !kept(2), "a handle stands for the second one");
    let [one, other] = held;
    drop(one);
    assert!(kept(1) && pool.concerns().len() == 1);
    drop(other);
    assert!(pool.concerns().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_named_where_nobody_is() {
    let pool = VisionPool::new(
        HealthSettings::default(),
        RetrySettings::default(),
        EncodeSettings::default(),
        ClientTls::default(),
    );
    assert_eq!((pool.store_of(&key(1)), pool.last_store_of(&key(1))), (None, None));
}
