//! Where images went lately.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tessera_embedding::ImageKey;
use tokio::sync::watch;
use tokio::time::Instant;

use super::recent::Recent;

/// Images whose place is remembered, at least.
const IMAGES: usize = 32 << 10;
/// For so long after it was decided where an image goes, it goes there again: somebody was told to fetch it from there.
const FRESH: Duration = Duration::from_secs(10);

/// The worker that each of the last images went to.
#[derive(Debug)]
pub(super) struct Places {
    recent: Mutex<Recent<ImageKey, Place>>,
    /// Tells that an image went elsewhere than before.
    moved: watch::Sender<()>,
}

#[derive(Clone, Debug)]
struct Place {
    url: Arc<str>,
    /// When that was decided.
    noted: Instant,
}

impl Places {
    /// Starts with nothing.
    pub(super) fn new() -> Self {
        Self { recent: Mutex::new(Recent::new(IMAGES)), moved: watch::Sender::new(()) }
    }

    /// Notes where an image goes, or was found.
    pub(super) fn note(&self, key: ImageKey, url: &Arc<str>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let before = recent.get(&key);
        let moves = before.is_some_and(|before| before.url != *url);
        let stays = before.filter(|before| !moves && before.noted.elapsed() < FRESH);
        let noted = stays.map_or_else(Instant::now, |before| before.noted);
        recent.note(key, Place { url: Arc::clone(url), noted });
        drop(recent);
        if moves {
            self.moved.send_replace(());
        }
    }

    /// Where an image went last.
    pub(super) fn of(&self, key: &ImageKey) -> Option<Arc<str>> {
        self.place(key).map(|place| place.url)
    }

    /// Where an image went so lately that it goes there again.
    pub(super) fn fresh(&self, key: &ImageKey) -> Option<Arc<str>> {
        self.place(key).filter(|place| place.noted.elapsed() < FRESH).map(|place| place.url)
    }

    /// Tells of images that go elsewhere from now on.
    pub(super) fn moves(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    fn place(&self, key: &ImageKey) -> Option<Place> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use tessera_embedding::EncoderFingerprint;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_image_goes_where_it_went_for_a_while_and_moves_are_told() {
        let places = Places::new();
        let key = ImageKey::of(b"", &EncoderFingerprint::of(&[]), b"image");
        let (one, other) = (Arc::from("http://one:1"), Arc::from("http://other:1"));
        let moves = places.moves();
        assert_eq!((places.of(&key), places.fresh(&key)), (None, None));
        places.note(key, &one);
        tokio::time::advance(FRESH / 2).await;
        places.note(key, &one);
        assert!(!moves.has_changed().unwrap(), "it stays");
        assert_eq!(places.fresh(&key), Some(Arc::clone(&one)));
        tokio::time::advance(FRESH / 2).await;
        assert_eq!((places.fresh(&key), places.of(&key)), (None, Some(Arc::clone(&one))), "it is decided anew");
        places.note(key, &one);
        assert_eq!(places.fresh(&key), Some(one));
        places.note(key, &other);
        assert!(moves.has_changed().unwrap());
    }
}
