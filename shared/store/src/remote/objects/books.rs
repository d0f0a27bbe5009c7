//! The count of a tier's objects: listed from time to time, and carried on in between with what this process does.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use futures::stream::BoxStream;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tessera_embedding::ImageKey;
use tokio::time::{Instant, timeout_at};

use super::ledger::{Ledger, Room, Used};
use crate::remote::RemoteError;

/// Names that are kept: of the objects that are next to go, and of those that were read here lately.
const NAMES: usize = 1 << 16;

/// An object, as a listing shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) key: ImageKey,
    pub(super) bytes: u64,
    pub(super) written: Used,
}

/// A listing of all objects, page by page as it is polled.
pub(super) type Listing = BoxStream<'static, Result<Listed, RemoteError>>;

/// The count of a tier's objects.
pub(super) struct Books {
    budget: u64,
    sweep_every: Duration,
    state: Mutex<State>,
    /// What was read here, which no listing tells.
    read: Cache<ImageKey, Used>,
}

struct State {
    /// Nothing until the objects were counted once.
    known: Option<Ledger>,
    counted: Option<Instant>,
    /// Something may have been written that is not known of, or booked that was not written.
    doubt: bool,
    sweep: Option<Sweep>,
}

/// A count in progress.
struct Sweep {
    /// Nothing while somebody drives it.
    listing: Option<Listing>,
    ledger: Ledger,
}

/// Whoever drives the count. It goes on with the next one if this one is broken off.
struct Driver<'a> {
    books: &'a Books,
    listing: Option<Listing>,
}

/// A write whose outcome is open. Dropped as such, it makes the objects be counted again.
pub(super) struct Doubt<'a> {
    books: &'a Books,
    settled: bool,
}

impl Books {
    pub(super) fn new(budget: u64, sweep_every: Duration) -> Self {
        let read = Cache::builder().max_capacity(NAMES as u64).eviction_policy(EvictionPolicy::lru()).build();
        let state = State { known: None, counted: None, doubt: false, sweep: None };
        Self { budget, sweep_every, state: Mutex::new(state), read }
    }

    /// Counts the objects if that is due, for at most `patience`; the next call goes on from there. Returns whether the
    /// count is of now.
    pub(super) async fn count(&self, list: impl FnOnce() -> Listing, patience: Duration) -> Result<bool, RemoteError> {
        let Some(mut driver) = self.drive(list) else { return Ok(self.state().sweep.is_none()) };
        let deadline = Instant::now() + patience;
        while let Some(listing) = driver.listing.as_mut() {
            match timeout_at(deadline, listing.next()).await {
                Ok(Some(Ok(listed))) => self.list(listed),
                Ok(Some(Err(error))) => {
                    driver.listing = None;
                    self.state().sweep = None;
                    return Err(error);
                }
                Ok(None) => {
                    driver.listing = None;
                    self.finish();
                }
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// What must go so that an artifact fits; nothing before the objects were counted once.
    pub(super) fn room(&self, key: &ImageKey, bytes: u64) -> Option<Room> {
        self.state().known.as_ref().map(|known| known.room(bytes, self.budget, key))
    }

    /// Bytes of all objects, as far as is known.
    pub(super) fn total(&self) -> Option<u64> {
        self.state().known.as_ref().map(Ledger::total)
    }

    /// An artifact is about to be written.
    pub(super) fn write(&self, key: &ImageKey, bytes: u64) -> Doubt<'_> {
        let used = now();
        self.state().ledgers(|ledger| ledger.insert(*key, bytes, used));
        Doubt { books: self, settled: false }
    }

    /// An artifact was read.
    pub(super) fn touch(&self, key: &ImageKey) {
        let used = now();
        self.read.insert(*key, used);
        self.state().ledgers(|ledger| ledger.touch(key, used));
    }

    /// An object is gone.
    pub(super) fn remove(&self, key: &ImageKey) {
        self.state().ledgers(|ledger| ledger.remove(key));
    }

    /// Makes the objects be counted again.
    pub(super) fn doubt(&self) {
        self.state().doubt = true;
    }

    /// Takes over a count that is due or in progress, unless somebody drives it.
    fn drive(&self, list: impl FnOnce() -> Listing) -> Option<Driver<'_>> {
        let mut state = self.state();
        if state.sweep.is_none() {
            let is_old = state.counted.is_none_or(|counted| counted.elapsed() >= self.sweep_every);
            if !is_old && !state.doubt {
                return None;
            }
            // What is doubted from here on may not be in the listing: it makes for another one.
            state.doubt = false;
            state.sweep = Some(Sweep { listing: Some(list()), ledger: Ledger::new(NAMES) });
        }
        let listing = state.sweep.as_mut()?.listing.take()?;
        Some(Driver { books: self, listing: Some(listing) })
    }

    fn list(&self, listed: Listed) {
        let used = self.read.get(&listed.key).map_or(listed.written, |read| read.max(listed.written));
        if let Some(sweep) = &mut self.state().sweep {
            sweep.ledger.insert(listed.key, listed.bytes, used);
        }
    }

    fn finish(&self) {
        let mut state = self.state();
        if let Some(sweep) = state.sweep.take() {
            state.known = Some(sweep.ledger);
            state.counted = Some(Instant::now());
        }
    }

    /// The state is only ever changed by whole operations, so a panic elsewhere leaves it usable.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What happens is true of what is known and of what is being counted.
    fn ledgers(&mut self, mut change: impl FnMut(&mut Ledger)) {
        self.known.iter_mut().for_each(&mut change);
        self.sweep.iter_mut().for_each(|sweep| change(&mut sweep.ledger));
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        if let Some(listing) = self.listing.take()
            && let Some(sweep) = &mut self.books.state().sweep
        {
            sweep.listing = Some(listing);
        }
    }
}

impl Doubt<'_> {
    /// It was written.
    pub(super) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.books.doubt();
        }
    }
}

fn now() -> Used {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Used(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::stream;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    fn key(number: u8) -> ImageKey {
        ImageKey::try_from(&[number; 32][..]).unwrap()
    }

    fn listed(number: u8) -> Result<Listed, RemoteError> {
        Ok(Listed { key: key(number), bytes: 10, written: Used(i64::from(number)) })
    }

    fn books() -> Books {
        Books::new(100, Duration::from_mins(10))
    }

    async fn count(books: &Books, numbers: std::ops::Range<u8>) -> bool {
        books.count(|| stream::iter(numbers.map(listed)).boxed(), PATIENCE).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn objects_are_counted_at_first_and_then_every_so_often() {
        let books = books();
        assert_eq!(books.room(&key(9), 1), None);
        assert!(count(&books, 1..6).await);
        assert_eq!(books.total(), Some(50));
        books.write(&key(9), 20).settle();
        books.remove(&key(1));
        assert!(count(&books, 1..2).await, "nothing is due");
        assert_eq!(books.total(), Some(60));
        tokio::time::advance(Duration::from_mins(10)).await;
        assert!(count(&books, 1..2).await);
        assert_eq!(books.total(), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_failed_or_was_given_up_makes_them_be_counted_again() {
        let books = books();
        count(&books, 1..2).await;
        drop(books.write(&key(9), 20));
        assert_eq!(books.total(), Some(30));
        count(&books, 1..3).await;
        assert_eq!(books.total(), Some(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_count_goes_on_where_it_was_broken_off() {
        let books = books();
        let pages = Arc::new(AtomicUsize::new(0));
        let list = || {
            let pages = pages.clone();
            let page = move |number| {
                let pages = pages.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(60)).await;
                    pages.fetch_add(1, Ordering::Relaxed);
                    listed(number)
                }
            };
            stream::iter(1..5).then(page).boxed()
        };
        assert!(!books.count(list, PATIENCE).await.unwrap());
        // One is given up in the middle of a page, by its caller.
        assert!(futures::poll!(std::pin::pin!(books.count(list, PATIENCE))).is_pending());
        let mut turns = 0;
        while !books.count(list, PATIENCE).await.unwrap() {
            turns += 1;
        }
        assert!(turns >= 1);
        assert_eq!((books.total(), pages.load(Ordering::Relaxed)), (Some(40), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_during_a_count_counts() {
        let books = books();
        let slow = || {
            stream::iter(1..3).then(|number| async move {
                tokio::time::sleep(Duration::from_millis(60)).await;
                listed(number)
            })
        };
        assert!(!books.count(|| slow().boxed(), PATIENCE).await.unwrap());
        books.write(&key(7), 30).settle();
        books.write(&key(2), 10).settle();
        assert!(books.count(|| slow().boxed(), PATIENCE).await.unwrap());
        assert_eq!(books.total(), Some(50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_that_fails_starts_over() {
        let books = books();
        let broken = || stream::iter([listed(1), Err(RemoteError::Counting), listed(2)]).boxed();
        assert!(books.count(broken, PATIENCE).await.is_err());
        assert_eq!(books.total(), None);
        count(&books, 1..4).await;
        assert_eq!(books.total(), Some(30));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_read_here_goes_after_those_that_were_only_written() {
        let books = books();
        books.touch(&key(1));
        count(&books, 1..11).await;
        assert_eq!(books.room(&key(99), 20), Some(Room::After(vec![key(2), key(3)])));
    }
}
