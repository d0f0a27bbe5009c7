//! How long a second worker is waited with: what encodings took lately.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::settings::{EncodeSettings, Hedge};

/// Encodings that count.
const KEPT: usize = 256;
/// Fewer say nothing.
const LEAST: usize = 16;

/// What the last encodings took.
#[derive(Debug)]
pub(super) struct Patience {
    settings: EncodeSettings,
    times: Mutex<Times>,
}

/// The last ones, the oldest of which is replaced next.
#[derive(Debug, Default)]
struct Times {
    kept: Vec<Duration>,
    next: usize,
}

impl Patience {
    /// Starts with nothing known.
    pub(super) fn new(settings: EncodeSettings) -> Self {
        Self { settings, times: Mutex::default() }
    }

    /// Takes note of an encoding; those of images that were stored before say nothing.
    pub(super) fn took(&self, time: Duration) {
        if self.settings.hedge == Hedge::Off {
            return;
        }
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let Times { kept, next } = &mut *times;
        if kept.len() < KEPT {
            kept.push(time);
        } else {
            kept[*next] = time;
            *next = (*next + 1) % KEPT;
        }
    }

    /// After which time a second worker is asked, if ever.
    pub(super) fn hedge(&self) -> Option<Duration> {
        let Hedge::Percentile(percent) = self.settings.hedge else { return None };
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner).kept.clone();
        if times.len() < LEAST {
            return None;
        }
        let rank = (times.len() * usize::from(percent)).div_ceil(100) - 1;
        let (_, time, _) = times.select_nth_unstable(rank);
        Some((*time).max(self.settings.hedge_floor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience(hedge: Hedge) -> Patience {
        Patience::new(EncodeSettings { hedge, hedge_floor: Duration::from_millis(10) })
    }

    #[test]
    fn it_is_a_percentile_of_the_last_times_with_a_floor() {
        let patience = patience(Hedge::Percentile(95));
        for millis in 1..LEAST as u64 {
            patience.took(Duration::from_millis(millis));
            assert_eq!(patience.hedge(), None, "too little is known");
        }
        patience.took(Duration::from_millis(7));
        assert_eq!(patience.hedge(), Some(Duration::from_millis(15)));
        for _ in 0..3 {
            (1..=100).for_each(|millis| patience.took(Duration::from_millis(millis)));
        }
        assert!((94..=97).contains(&patience.hedge().unwrap().as_millis()));
        (0..1000).for_each(|_| patience.took(Duration::from_millis(2)));
        assert_eq!(patience.hedge(), Some(Duration::from_millis(10)));
        assert_eq!(patience.times.lock().unwrap().kept.len(), KEPT);
    }

    #[test]
    fn nothing_is_kept_where_nobody_asks() {
        let patience = patience(Hedge::Off);
        (0..1000).for_each(|_| patience.took(Duration::from_millis(2)));
        assert_eq!((patience.hedge(), patience.times.lock().unwrap().kept.len()), (None, 0));
    }
}
