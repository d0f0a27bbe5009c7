//! Where the time of a step goes, for whoever asks: moments are noted where its phases begin, on a GPU by itself.

use std::time::{Duration, Instant};

use super::{Device, cuda::Event};
use crate::ModelError;

/// A part of a step, by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// What is known of the rows goes to the device, and what was found comes back.
    Copies,
    /// Rows of tokens and of images are gathered.
    Embedding,
    /// Norms, and gates of the feed-forward network.
    Pointwise,
    /// Matrix products of the layers, with what is added to their results.
    Products,
    /// Queries and keys are turned, keys and values written, and rows attend.
    Attention,
    /// The product that gives scores, and the norm in front of it.
    Head,
    /// What is wished for is found in the scores.
    Choice,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 7] =
        [Self::Copies, Self::Embedding, Self::Pointwise, Self::Products, Self::Attention, Self::Head, Self::Choice];
}

/// A moment in a device's work.
pub(super) enum Moment {
    /// The CPU's work is done when its functions return.
    Here(Instant),
    /// When a GPU has done all that it was given before.
    There(Event),
}

impl Moment {
    /// The time from this moment to a later one of the same device.
    fn until(&self, later: &Self) -> Result<Duration, ModelError> {
        match (self, later) {
            (Self::Here(begun), Self::Here(ended)) => Ok(*ended - *begun),
            (Self::There(begun), Self::There(ended)) => begun.until(ended),
            _ => Ok(Duration::ZERO),
        }
    }
}

/// Adds up how long phases take.
#[derive(Default)]
pub(crate) struct Stopwatch {
    /// Of the step that runs: which phase begins, if one does.
    moments: Vec<(Option<Phase>, Moment)>,
    /// Of the steps that are done.
    totals: [Duration; Phase::ALL.len()],
}

impl Stopwatch {
    /// Notes that what a device is given from here on is this phase's, if any's. The last one on each device is followed by none.
    pub(crate) fn note(&mut self, phase: Option<Phase>, device: &Device) -> Result<(), ModelError> {
        self.moments.push((phase, device.moment()?));
        Ok(())
    }

    /// Adds up what was noted of a step, for which it waits.
    pub(crate) fn end_step(&mut self) -> Result<(), ModelError> {
        for pair in self.moments.windows(2) {
            if let [(Some(phase), begun), (_, ended)] = pair {
                self.totals[*phase as usize] += begun.until(ended)?;
            }
        }
        self.moments.clear();
        Ok(())
    }

    /// Returns the time of each phase.
    pub(crate) fn times(&self) -> Vec<(Phase, Duration)> {
        Phase::ALL.into_iter().zip(self.totals).collect()
    }
}

impl Device {
    /// Notes this moment in the device's work.
    fn moment(&self) -> Result<Moment, ModelError> {
        match self.gpu() {
            Some(gpu) => Ok(Moment::There(gpu.event()?)),
            None => Ok(Moment::Here(Instant::now())),
        }
    }
}
