#!/usr/bin/env bash
# toolkit.sh DIR: what a build with the feature `cuda` needs, on a machine without a GPU and without CUDA: a CUDA 13.0
# compiler with headers, link-time libraries, the CUTLASS headers that flash attention wants, and the compiler's front
# (front/nvcc), from PyPI and crates.io alone. Then: . DIR/env.sh && cargo build --release --features cuda ...
#
# DIR takes 0.4 GB, and DIR/cache the compiled kernels. What is there already is left as it is.
set -euo pipefail

die() {
    printf 'toolkit: %s\n' "$1" >&2
    exit 1
}

# needs MESSAGE COMMAND...: the command must run.
needs() {
    local message="$1"
    shift
    "$@" >/dev/null 2>&1 || die "$message"
}

(($# == 1)) || die "give one folder: toolkit.sh DIR"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
[[ $(uname -sm) == "Linux x86_64" ]] || die "this is $(uname -sm): the wheels and the link-time libraries are for Linux on x86-64"
needs "there is no python3: install Python 3" python3 --version
needs "python3 has no pip: install it (Debian: apt-get install python3-pip)" python3 -m pip --version
needs "there is no C compiler: install gcc (nvcc calls it, and must find g++ beside it)" g++ --version
needs "there is no cargo: install a Rust toolchain, see rust-version in Cargo.toml" cargo --version
needs "there is no git: candle's build script asks it for the commit of CUTLASS" git --version
mkdir -p "$1"
root=$(cd "$1" && pwd)

# shellcheck source=crates.sh
. "$here/crates.sh"
cargo fetch --quiet --locked --manifest-path "$repository/Cargo.toml" || die "the crates could not be fetched"
cudarc=$(crate_source cudarc) || die "there is no cudarc in Cargo.lock"
flash=$(crate_source candle-flash-attn) || die "there is no candle-flash-attn in Cargo.lock"

# Made from these: another compiler, crate or script makes it anew.
recipe=$(cat "$here/toolkit.sh" "$here/wheels.txt" "$here/late_libraries.py" "$here/crates.sh" && printf '%s\n' "$root" "$cudarc" "$flash")
if [[ -e "$root/made" && "$(<"$root/made")" == "$recipe" ]]; then
    # The front is only copied: it may change without the rest.
    cp "$here"/front/* "$root/front/"
    printf 'toolkit: ready already: . %s/env.sh\n' "$root"
    exit
fi
rm -rf "$root"/{made,wheels,unpacked,cuda,forge,front,env.sh}
mkdir -p "$root"/{wheels,unpacked,cuda,front}

# Each wheel holds a part of one tree, nvidia/cu13.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --requirement "$here/wheels.txt" --dest "$root/wheels" || die "the wheels of wheels.txt could not be fetched from PyPI"
for wheel in "$root"/wheels/*.whl; do
    python3 -m zipfile --extract "$wheel" "$root/unpacked"
done
rmdir "$root/cuda"
mv "$root/unpacked/nvidia/cu13" "$root/cuda"
# A zip file does not say what may be run.
chmod +x "$root"/cuda/bin/* "$root"/cuda/nvvm/bin/*
ln -s lib "$root/cuda/lib64"

# A program must start where there is no GPU, so it links no CUDA library. The runtime is linked in, the others are
# looked up at the first call.
ln -s libcudart_static.a "$root/cuda/lib/libcudart.a"
python3 "$here/late_libraries.py" "$cudarc" "$root/cuda/lib"

cutlass=$(cutlass_checkout "$flash" "$root/forge") || die "CUTLASS has no place"
mkdir -p "$cutlass/tools/util"
mv "$root/unpacked/cutlass_library/source/include" "$cutlass/include"
mv "$root/unpacked/cutlass_library/source/tools/util/include" "$cutlass/tools/util/include"
rm -rf "$root/unpacked" "$root/wheels"

cp "$here"/front/* "$root/front/"
# Flash attention takes 3 GB of memory a file.
threads=$(awk -v cores="$(nproc)" '/^MemTotal/ { fit = int($2 / 3e6); print fit < 1 ? 1 : fit < cores ? fit : cores }' /proc/meminfo)
# 90: Hopper (H100, H200), by instructions that no other GPU has. Set another before you build: 80 is an A100, 89 an L40S.
cat >"$root/env.sh" <<EOF
export CUDA_HOME=$root/cuda CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-90} CUDARC_CUDA_VERSION=13000
export CUDAFORGE_HOME=$root/forge CUDAFORGE_THREADS=\${CUDAFORGE_THREADS:-$threads}
export NVCC=$root/front/nvcc NVCC_CACHE=$root/cache NVCC_LOG=$root/nvcc.log
export PATH=$root/front:$root/cuda/bin:\$PATH
EOF
printf '%s\n' "$recipe" >"$root/made"
printf 'toolkit: ready: . %s/env.sh\n' "$root"
