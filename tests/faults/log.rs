//! What happens, as it happens.

use std::time::Instant;

/// Writes to standard output, with the time since the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log(Instant);

impl Log {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn say(self, what: &str) {
        println!("{:8.3} {what}", self.0.elapsed().as_secs_f64());
    }

    pub(crate) fn print(self, text: &str) {
        println!("{text}");
    }
}
