//! Stands in for GPUs where the program is built without them: there are none, so nothing here can be called.

use std::time::Duration;

use candle_core::{DType as CandleType, Device as CandleDevice, Tensor};
use tessera_kernels::launch::Launch;
use tessera_tensor::{DType, HostTensor};

use super::kernels::Argument;
use crate::{ModelError, attention::Prompts};

/// A GPU.
pub(crate) enum Gpu {}

/// Work of a GPU that was recorded.
pub(crate) enum Graph {}

/// A tensor on its way from a GPU.
pub(crate) enum Arriving {}

/// A moment in a GPU's work.
pub(crate) enum Event {}

impl Gpu {
    pub(super) fn is_built_in() -> bool {
        false
    }

    pub(super) fn count() -> Result<usize, ModelError> {
        Ok(0)
    }

    pub(super) fn require() -> Result<usize, ModelError> {
        Ok(0)
    }

    pub(super) fn open(gpu: usize) -> Result<Self, ModelError> {
        Err(ModelError::NoSuchGpu { gpu, count: 0 })
    }

    pub(super) fn name(&self) -> &str {
        match *self {}
    }

    pub(super) fn candle(&self) -> &CandleDevice {
        match *self {}
    }

    pub(crate) fn free_bytes(&self) -> Result<u64, ModelError> {
        match *self {}
    }

    pub(crate) fn check_memory(&self, _: &'static str, _: u64) -> Result<(), ModelError> {
        match *self {}
    }

    pub(super) fn room(&self, _: &[usize], _: CandleType) -> Result<Tensor, ModelError> {
        match *self {}
    }

    pub(super) fn load(&self, _: &[(DType, &[u8])], _: &[usize], _: DType) -> Result<Tensor, ModelError> {
        match *self {}
    }

    pub(super) fn finish_loading(&self) -> Result<(), ModelError> {
        match *self {}
    }

    pub(super) fn hand_over(&self, _: &Tensor) -> Result<Tensor, ModelError> {
        match *self {}
    }

    pub(super) fn write_words(&self, _: &[u32], _: &Tensor) -> Result<(), ModelError> {
        match *self {}
    }

    pub(super) fn read_words(&self, _: &Tensor, _: usize) -> Result<Vec<u32>, ModelError> {
        match *self {}
    }

    pub(super) fn address(&self, _: &Tensor) -> Result<u64, ModelError> {
        match *self {}
    }

    pub(super) fn launch(&self, _: Launch, _: &[Argument<'_>]) -> Result<(), ModelError> {
        match *self {}
    }

    pub(crate) fn attend_prompts(&self, _: &Prompts<'_>) -> Result<Tensor, ModelError> {
        match *self {}
    }

    pub(crate) fn attend_tiles(&self, _: &Tensor, _: usize) -> Result<Tensor, ModelError> {
        match *self {}
    }

    pub(super) fn send_images(&self, _: &[HostTensor]) -> Result<Tensor, ModelError> {
        match *self {}
    }

    pub(super) fn fetch(&self, _: &Tensor) -> Result<Arriving, ModelError> {
        match *self {}
    }

    pub(super) fn event(&self) -> Result<Event, ModelError> {
        match *self {}
    }

    pub(crate) fn record(&self, _: impl FnOnce() -> Result<(), ModelError>) -> Result<Graph, ModelError> {
        match *self {}
    }
}

impl Event {
    pub(super) fn until(&self, _: &Self) -> Result<Duration, ModelError> {
        match *self {}
    }
}

impl Graph {
    pub(crate) fn launch(&self) -> Result<(), ModelError> {
        match *self {}
    }
}

impl Arriving {
    pub(super) fn finish(self) -> Result<HostTensor, ModelError> {
        match self {}
    }
}
