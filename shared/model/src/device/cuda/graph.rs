//! Work that is recorded once and then given to a GPU as one piece. Not run on a GPU yet, like all of [`cuda`](super).

use candle_core::cuda_backend::cudarc::driver::{
    CudaGraph,
    sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
};

use super::{Gpu, failed, failed_with};
use crate::ModelError;

/// Work of a GPU that was recorded. It reads and writes the addresses that were current then.
pub(crate) struct Graph(CudaGraph);

#[expect(unsafe_code, reason = "the driver's graphs are not synchronised, but may be used by any one thread at a time")]
// SAFETY: a graph is only ever used through its owner, the pool of one engine, which one thread has.
unsafe impl Send for Graph {}

impl Gpu {
    /// Records what `steps` give to the GPU, which does none of it yet. They may neither wait for it nor send it anything
    /// from the host; what memory they take they also let go of.
    pub(crate) fn record(&self, steps: impl FnOnce() -> Result<(), ModelError>) -> Result<Graph, ModelError> {
        // Other threads may go on to take memory and load modules.
        self.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(failed)?;
        let recorded = steps();
        // The stream records until it is told to end, whatever happened.
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(failed);
        let graph = recorded.and(graph).and_then(|graph| graph.ok_or_else(|| failed_with("nothing was recorded")));
        if graph.is_err() {
            // What failed on the way, as freeing memory does then, is no error of the step that comes next.
            let _ = self.stream.context().check_err();
        }
        graph.map(Graph)
    }
}

impl Graph {
    /// Gives the work to the GPU.
    pub(crate) fn launch(&self) -> Result<(), ModelError> {
        self.0.launch().map_err(failed)
    }
}
