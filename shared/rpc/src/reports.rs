//! How often a worker reports its load.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};

/// Time between two load reports, unless the caller says another; and what callers may say.
const DEFAULT: Duration = Duration::from_secs(1);
const LEAST: Duration = Duration::from_millis(20);
const MOST: Duration = Duration::from_secs(3600);

/// The clock of load reports that a caller wants every so many milliseconds; 0 leaves it to us.
pub fn report_interval(milliseconds: u64) -> Interval {
    let period = if milliseconds == 0 { DEFAULT } else { Duration::from_millis(milliseconds).clamp(LEAST, MOST) };
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn callers_may_choose_within_bounds() {
        let periods = [0, 1, 200, u64::MAX].map(|milliseconds| report_interval(milliseconds).period());
        assert_eq!(periods, [DEFAULT, LEAST, Duration::from_millis(200), MOST]);
    }
}
