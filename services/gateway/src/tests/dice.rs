//! Numbers that a seed decides: those of a schedule, and those that the gateway draws while it is simulated.

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

/// A small generator of numbers, the same ones each time.
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

thread_local! {
    static OF_THE_GATEWAY: RefCell<Option<Dice>> = const { RefCell::new(None) };
}

/// The gateway's next random number, in a thread that simulates it.
pub(crate) fn of_the_gateway() -> Option<u64> {
    OF_THE_GATEWAY.with_borrow_mut(|dice| dice.as_mut().map(Dice::roll))
}

/// Has the gateway of this thread draw from these; from its own again with nothing.
pub(crate) fn give_the_gateway(dice: Option<Dice>) {
    OF_THE_GATEWAY.set(dice);
}

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_97F4_A7C1);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Between 0 and 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.share() * limit as f64) as usize
    }

    /// Whether something happens that happens so often.
    pub(crate) fn chance(&mut self, share: f64) -> bool {
        self.share() < share
    }

    pub(crate) fn time(&mut self, range: &Range<Duration>) -> Duration {
        range.start + (range.end - range.start).mul_f64(self.share())
    }

    pub(crate) fn milliseconds(&mut self, range: Range<u64>) -> Duration {
        self.time(&(Duration::from_millis(range.start)..Duration::from_millis(range.end)))
    }

    pub(crate) fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    /// Another generator, whose numbers have nothing to do with those that follow here.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.roll())
    }
}
