//! How busy the engine is: what its thread counts, and what callers make of it.

use std::time::Instant;

use tessera_api::language::Load;
use tokio::sync::watch;

/// What the engine's thread counts, as of its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks of the KV cache.
    pub total_blocks: usize,
    /// Those that a sequence could have now.
    pub free_blocks: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Sequences that run.
    pub running: usize,
    /// New tokens since the start.
    pub new_tokens: u64,
    /// Prompt positions of the sequences that were started.
    pub prompt_positions: u64,
    /// Those of them whose blocks were here already.
    pub reused_positions: u64,
}

/// Turns counters into reports; each is about the time since the one before.
#[derive(Debug)]
pub struct Meter {
    counters: watch::Receiver<Counters>,
    last: (Instant, u64),
}

impl Meter {
    pub(super) fn new(counters: watch::Receiver<Counters>) -> Self {
        let new_tokens = counters.borrow().new_tokens;
        Self { counters, last: (Instant::now(), new_tokens) }
    }

    /// Returns the load now.
    pub fn read(&mut self) -> Load {
        let (counters, now) = (*self.counters.borrow(), Instant::now());
        let (then, tokens_then) = std::mem::replace(&mut self.last, (now, counters.new_tokens));
        let (seconds, tokens) = (now.duration_since(then).as_secs_f32(), counters.new_tokens - tokens_then);
        Load {
            total_blocks: counters.total_blocks,
            free_blocks: counters.free_blocks,
            waiting: counters.waiting,
            running: counters.running,
            tokens_per_second: if seconds > 0.0 { tokens as f32 / seconds } else { 0.0 },
            prefix_hit_rate: counters.reused_positions as f32 / counters.prompt_positions.max(1) as f32,
            new_tokens: counters.new_tokens,
        }
    }
}
