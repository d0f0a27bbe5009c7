//! The time of a file: when its artifact was used last, or until when it is leased.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the end of a lease from a use: leases end at half a second, uses are cut to whole ones. So a clock that was set back
/// does not make a lease of every file.
const LEASE: Duration = Duration::from_millis(500);

/// A modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(SystemTime);

impl Mark {
    /// Of an artifact that was used last then, and is leased until a whole second, or not.
    pub(crate) fn of(last_use: SystemTime, leased_until: Option<SystemTime>) -> Self {
        Self(leased_until.map_or(whole_second(last_use), |until| whole_second(until) + LEASE))
    }

    /// Of a file that is there.
    pub(crate) fn read(time: SystemTime) -> Self {
        Self(time)
    }

    pub(crate) fn time(self) -> SystemTime {
        self.0
    }

    /// The last use that is known of, now that it is `now`.
    pub(crate) fn last_use(self, now: SystemTime) -> SystemTime {
        whole_second(self.0).min(now)
    }

    /// The end of the lease, unless it is over.
    pub(crate) fn leased_until(self, now: SystemTime) -> Option<SystemTime> {
        let until = whole_second(self.0);
        (self.0 == until + LEASE && until > now).then_some(until)
    }
}

fn whole_second(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{noon, seconds};

    #[test]
    fn a_lease_and_a_use_are_told_apart_whatever_the_clock_says() {
        let use_ = noon() + LEASE;
        let used = Mark::read(Mark::of(use_, None).time());
        for now in [noon() - seconds(1000), noon(), noon() + seconds(1000)] {
            assert_eq!((used.leased_until(now), used.last_use(now)), (None, noon().min(now)));
        }
        let leased = Mark::read(Mark::of(use_, Some(noon() + seconds(60))).time());
        assert_eq!(leased.leased_until(noon()), Some(noon() + seconds(60)));
        assert_eq!(leased.leased_until(noon() - seconds(1000)), Some(noon() + seconds(60)));
        assert_eq!(leased.leased_until(noon() + seconds(60)), None);
        assert_eq!(leased.last_use(noon() + seconds(100)), noon() + seconds(60));
    }
}
