#!/usr/bin/env bash
# build.sh [--proof] [DIR]: builds the program and the services with the feature `cuda`, by the compiler that toolkit.sh puts into DIR
# (target/cuda where none is named). With --proof: only what prove.sh runs on a GPU, the proof and the kernels' tests, as
# DIR/proof.tar.gz.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
proof=
if [[ "${1:-}" == --proof ]]; then
    proof=yes
    shift
fi
(($# <= 1)) || { printf 'build: usage: build.sh [--proof] [DIR]\n' >&2 && exit 2; }
target=$(cargo metadata --format-version 1 --no-deps --offline | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
root=${1:-$target/cuda}

began=$SECONDS
"$here/toolkit.sh" "$root"
root=$(cd "$root" && pwd)
# shellcheck source=/dev/null
. "$root/env.sh"

# executable CARGO-ARGUMENTS...: builds a program that is a test or a bench; prints where it is.
executable() {
    cargo "$@" --locked --no-run --message-format=json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

if [[ -n "$proof" ]]; then
    program=$(executable bench --package tessera-tests --bench cuda --features tessera-tests/cuda)
    kernels=$(executable test --release --package tessera-kernels --test emulated)
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    strip --output-file "$folder/proof" "$program"
    strip --output-file "$folder/kernels" "$kernels"
    # What was compiled for a GPU is mostly text: a seventh remains.
    tar --create --directory "$folder" proof kernels | gzip --best >"$root/proof.tar.gz"
    built=("$folder/proof" "$folder/kernels" "$root/proof.tar.gz")
else
    packages=(tessera tessera-gateway tessera-language tessera-vision)
    cargo build --release --locked "${packages[@]/#/--package=}" \
        --features tessera/cuda,tessera-language/cuda,tessera-vision/cuda
    built=("${packages[@]/#/$target/release/}")
    # It must start where there is no CUDA.
    "$target/release/tessera" --version
fi

printf 'build: %s s\n' "$((SECONDS - began))"
for file in "${built[@]}"; do
    printf 'build: %4s MiB  %s\n' "$(($(stat --format %s "$file") >> 20))" "$file"
done
