//! When a worker is left out, and for how long: no clock, no network, only what was seen.

use std::time::Duration;

use super::settings::HealthSettings;

/// What is known of one worker's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// Calls that failed in the transport since one that did not.
    failures: usize,
    /// How often it was left out in a row.
    outs: u32,
}

impl Health {
    /// The worker answered a call, be it with an error of its own.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// The worker stayed for a while: the next time that it is left out is a first time again.
    pub(super) fn steady(&mut self) {
        self.outs = 0;
    }

    /// A call failed in the transport; tells whether there were enough of them in a row to eject the worker. From then
    /// on, until it answers one, every further failure is enough.
    pub(super) fn failed(&mut self, settings: &HealthSettings) -> bool {
        self.failures = (self.failures + 1).min(settings.failures);
        self.failures == settings.failures
    }

    /// The time for which the worker is left out now: twice as long as the last time, and between half and all of that,
    /// so that gateways do not come back together. `random` is any number.
    pub(super) fn pause(&mut self, settings: &HealthSettings, random: u64) -> Duration {
        let doubled = settings.first_pause.saturating_mul(1_u32.checked_shl(self.outs).unwrap_or(u32::MAX));
        self.outs = (self.outs + 1).min(31);
        let share = 0.5 + (random % 1024) as f64 / 2048.0;
        doubled.min(settings.longest_pause).mul_f64(share)
    }
}

/// Whether one more of `members` may be ejected for failed calls when `ejected` of them are.
pub(super) fn may_eject(ejected: usize, members: usize, settings: &HealthSettings) -> bool {
    (ejected + 1) as f64 <= settings.ejected * members as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_eject_and_one_answer_makes_up_for_them() {
        let settings = HealthSettings::default();
        let mut health = Health::default();
        for _ in 0..5 {
            assert!(!health.failed(&settings) && !health.failed(&settings));
            health.answered();
        }
        assert!(!health.failed(&settings) && !health.failed(&settings) && health.failed(&settings));
        assert!(health.failed(&settings), "it did not answer since");
        health.answered();
        assert_eq!(health, Health::default());
    }

    #[test]
    fn a_pause_doubles_up_to_a_bound_and_is_never_quite_the_same() {
        let settings = HealthSettings::default();
        let longest = |random| {
            let mut health = Health::default();
            [(); 7].map(|()| health.pause(&settings, random).as_millis())
        };
        assert_eq!(longest(0), [500, 1000, 2000, 4000, 8000, 15000, 15000]);
        let most = longest(1023);
        assert!(
            most.iter()
                .zip([1000, 2000, 4000, 8000, 16000, 30000, 30000])
                .all(|(&pause, limit)| { pause <= limit && pause > limit * 99 / 100 })
        );
        let mut health = Health::default();
        for _ in 0..100 {
            assert!(health.pause(&settings, 512) <= settings.longest_pause);
        }
        health.answered();
        assert!(health.pause(&settings, 1023) <= settings.first_pause);
    }

    #[test]
    fn a_share_of_the_pool_always_stays() {
        let settings = HealthSettings::default();
        let most = |members| (0..members).take_while(|&ejected| may_eject(ejected, members, &settings)).count();
        assert_eq!([1, 2, 3, 4, 100].map(most), [0, 1, 1, 2, 50]);
        let none = HealthSettings { ejected: 0.0, ..settings };
        assert!(!may_eject(0, 100, &none));
    }
}
