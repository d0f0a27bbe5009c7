//! What can go wrong with weights and inputs.

use std::{error::Error, io, path::PathBuf};

use tessera_tensor::{DType, Devices, TensorError};

/// Why a model did not load or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The directory has neither a weight file nor an index of shards.
    #[error("{} has neither model.safetensors nor model.safetensors.index.json", dir.display())]
    NoWeights {
        /// The checkpoint's directory.
        dir: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The index of shards is not valid.
    #[error("{} is not a valid index of shards: {problem}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The index names a shard that is not there.
    #[error("{} names the shard {shard}, which does not exist", index.display())]
    ShardMissing {
        /// The index file.
        index: PathBuf,
        /// The shard as the index names it.
        shard: String,
    },
    /// A weight file is cut off or damaged, or no safetensors file at all.
    #[error("{} is not a valid safetensors file: {problem}", path.display())]
    WeightFile {
        /// The weight file.
        path: PathBuf,
        /// What the header's check found.
        problem: String,
    },
    /// Two stored names mean the same tensor.
    #[error("tensor {name} is stored twice, as {first} and as {second}")]
    TensorTwice {
        /// The tensor's name in the spelling that all are normalised to.
        name: String,
        /// A name as stored.
        first: String,
        /// Another name as stored.
        second: String,
    },
    /// A tensor that the configuration asks for is in no weight file, under none of its spellings.
    #[error("tensor {name} is missing, shape {expected:?} is expected")]
    TensorMissing {
        /// The tensor's name in the spelling that all are normalised to.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("tensor {name} has shape {found:?}, expected is {expected:?}")]
    TensorShape {
        /// The tensor's name as stored.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is stored in an element type that is not read.
    #[error("tensor {name} has element type {found}, supported are F32, F16 and BF16")]
    TensorType {
        /// The tensor's name as stored.
        name: String,
        /// The element type in the file.
        found: String,
    },
    /// The device does not compute in this type.
    #[error("the {device} does not compute in {compute}, choose {supported}")]
    ComputeType {
        /// The device.
        device: &'static str,
        /// The type asked for.
        compute: DType,
        /// The types that it computes in.
        supported: &'static str,
    },
    /// A GPU is asked for and the program cannot use any.
    #[error(
        "this program is built without CUDA and cannot use {devices}, build it with the feature cuda or choose the device cpu"
    )]
    BuiltWithoutCuda {
        /// The devices asked for.
        devices: Devices,
    },
    /// There is no driver or library of CUDA, or it does not work.
    #[error(
        "CUDA cannot be used: {problem}; install the driver and libraries that this program is built for, see that the GPU is not full, or choose the device cpu"
    )]
    CudaUnusable {
        /// What the driver or library, or what stands in for it, said.
        problem: String,
    },
    /// A GPU that the machine does not have.
    #[error("there is no GPU cuda:{gpu}, the machine has {count}, counted from 0")]
    NoSuchGpu {
        /// Its number.
        gpu: usize,
        /// How many there are.
        count: usize,
    },
    /// A GPU of a generation that the kernels do not run on.
    #[error("cuda:{gpu} ({name}) has compute capability {found}, at least {needed} is needed; choose another device")]
    GpuTooOld {
        /// Its number.
        gpu: usize,
        /// Its name.
        name: String,
        /// The generation that it is of, as 7.5.
        found: String,
        /// The first generation that would do.
        needed: &'static str,
    },
    /// The kernels that this program brings do not run on the GPU.
    #[error(
        "cuda:{gpu} ({name}, compute capability {found}) cannot load this program's kernels: {problem}; build it with CUDA_COMPUTE_CAP set to this capability or choose another device"
    )]
    GpuKernels {
        /// Its number.
        gpu: usize,
        /// Its name.
        name: String,
        /// The generation that it is of, as 8.6.
        found: String,
        /// What the driver said.
        problem: String,
    },
    /// A GPU has not enough free memory.
    #[error(
        "{what} take {wanted} bytes on cuda:{gpu}, {free} are free; use a 16-bit compute type, more GPUs or a smaller cache, or end what else runs there"
    )]
    GpuMemory {
        /// Its number.
        gpu: usize,
        /// What the memory is for.
        what: &'static str,
        /// Bytes that it takes.
        wanted: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A tensor handed in has another shape than the call is for.
    #[error("{what} have shape {found:?}, expected is {wanted}")]
    Input {
        /// What was handed in.
        what: &'static str,
        /// The shape that the call is for.
        wanted: String,
        /// The shape handed in.
        found: Vec<usize>,
    },
    /// A pool without blocks holds nothing.
    #[error("a pool of no blocks is not possible")]
    EmptyPool,
    /// A pool was made by another model.
    #[error("the pool of keys and values is that of another model")]
    Pool,
    /// A block that the pool does not have.
    #[error("block {block} does not exist, the pool has {blocks}")]
    Block {
        /// The block asked for.
        block: u32,
        /// Blocks that there are.
        blocks: usize,
    },
    /// A chunk of a batch is not valid.
    #[error("chunk {index} of the batch {problem}")]
    Chunk {
        /// Which chunk.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A host tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The tensor library failed: out of memory, or a bug in this crate.
    #[error("the tensor library failed")]
    Compute(#[source] Box<dyn Error + Send + Sync>),
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        Self::Compute(Box::new(error))
    }
}
