//! Moments in a GPU's work. Not run on a GPU yet, like all of [`cuda`](super).

use std::time::Duration;

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, sys::CUevent_flags};

use super::{Gpu, failed};
use crate::ModelError;

/// When a GPU has done what it was given before.
pub(crate) struct Event(CudaEvent);

impl Gpu {
    /// Notes the moment when all is done that it was given so far.
    pub(in crate::device) fn event(&self) -> Result<Event, ModelError> {
        self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map(Event).map_err(failed)
    }
}

impl Event {
    /// The time from this event to a later one of the same GPU, for which it waits.
    pub(in crate::device) fn until(&self, later: &Self) -> Result<Duration, ModelError> {
        let milliseconds = self.0.elapsed_ms(&later.0).map_err(failed)?;
        Ok(Duration::from_secs_f32(milliseconds.max(0.0) / 1e3))
    }
}
