//! Runs the kernels' own sources on the CPU, thread for thread, and holds them to the references.
//!
//! `emulator/` holds what stands for a GPU: threads as fibers that meet at barriers and shuffles, memory with watched ends,
//! 16-bit numbers. It compiles `cuda/kernels.cu` as it is. Every case runs in several orders of blocks and threads and must
//! give the same bits in all of them.

#[path = "emulated/attend.rs"]
mod attend;
#[path = "emulated/cache.rs"]
mod cache;
#[path = "emulated/case.rs"]
mod case;
#[path = "emulated/choose.rs"]
mod choose;
#[path = "emulated/faults.rs"]
mod faults;
#[path = "emulated/gather.rs"]
mod gather;
#[path = "emulated/norms.rs"]
mod norms;
#[path = "emulated/pointwise.rs"]
mod pointwise;
#[path = "emulated/program.rs"]
mod program;
#[path = "emulated/random.rs"]
mod random;
#[path = "emulated/tiles.rs"]
mod tiles;
