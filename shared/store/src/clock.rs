//! The time of day, which never goes back while the program runs.

use std::time::SystemTime;

use tokio::time::Instant;

/// Tells the time. Somebody may set the machine's clock back, or stop the machine for a while: of the clock's time and the
/// time that has passed since the start, the later one counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: SystemTime,
    instant: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { began: SystemTime::now(), instant: Instant::now() }
    }

    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::now().max(self.began + self.instant.elapsed())
    }
}
