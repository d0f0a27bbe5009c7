//! One read for everybody who asks for the same key at the same time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tessera_embedding::{Artifact, ImageKey};

/// What a read finds.
type Read = BoxFuture<'static, Option<Arc<Artifact>>>;
type Flights = Mutex<HashMap<ImageKey, (u64, WeakShared<Read>)>>;

/// The reads under way. Each is carried on by whoever waits for it, and ends when nobody does.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    flights: Arc<Flights>,
    sequence: AtomicU64,
}

/// Takes a read off the list when it is over, or given up.
struct Landing {
    flights: Arc<Flights>,
    key: ImageKey,
    id: u64,
}

impl Reads {
    /// Joins the read of a key, or begins it.
    pub(crate) fn join(&self, key: &ImageKey, begin: impl FnOnce() -> Read) -> Shared<Read> {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(key).and_then(|(_, flight)| flight.upgrade()) {
            return flight;
        }
        let id = self.sequence.fetch_add(1, Ordering::Relaxed);
        let landing = Landing { flights: self.flights.clone(), key: *key, id };
        let read = begin();
        let flight = async move {
            let _landing = landing;
            read.await
        };
        let flight = flight.boxed().shared();
        flights.extend(flight.downgrade().map(|weak| (*key, (id, weak))));
        flight
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = lock(&self.flights);
        // Another read of the key may have begun since this one was given up.
        if flights.get(&self.key).is_some_and(|(id, _)| *id == self.id) {
            flights.remove(&self.key);
        }
    }
}

/// The map is only ever changed by whole operations, so a panic elsewhere leaves it usable.
fn lock(flights: &Flights) -> MutexGuard<'_, HashMap<ImageKey, (u64, WeakShared<Read>)>> {
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}
