#!/usr/bin/env bash
# Type-checks what the feature `cuda` compiles: clippy over workers, program and tests, warnings as errors. Needs no GPU, no CUDA and no
# download from NVIDIA. Takes clippy's arguments behind `cargo clippy --workspace`; without any, those that CI uses.
#
# It covers the Rust code alone. nvcc is a stand-in that writes empty files, so no kernel is compiled: their sources are run on the
# CPU by the tests of shared/kernels, and compiled by a build (build.sh), or alone, 104 MB of compiler later:
#     deploy/cuda/toolkit.sh target/cuda && . target/cuda/env.sh && cargo build -p tessera-kernels --features cuda
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
cd "$repository"
target=$(cargo metadata --format-version 1 --no-deps --offline | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
(($#)) || set -- --all-targets --features tessera-tests/cuda,tessera/cuda -- --deny warnings

# shellcheck source=crates.sh
. "$here/crates.sh"
forge="$target/cuda-stand-in"
checkout=$(cutlass_checkout "$(crate_source candle-flash-attn)" "$forge")
# Nothing is compiled with it, so it may be empty.
mkdir -p "$checkout/include"

# The target folder is that of every other check: only what has the feature, or uses such a crate, is compiled a second time.
export PATH="$here/stand-in:$PATH" NVCC="$here/stand-in/nvcc"
export CUDAFORGE_HOME="$forge" CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000
exec cargo clippy --workspace "$@"
