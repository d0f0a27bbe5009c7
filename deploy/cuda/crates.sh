# Sourced by toolkit.sh and check.sh: what candle's build scripts and crates are asked for. Needs `repository` and `here`.

# crate_source NAME: the folder of a crate's sources, in the version of Cargo.lock.
crate_source() {
    local manifest
    manifest=$(cargo metadata --format-version 1 --locked --manifest-path "$repository/Cargo.toml" --features tessera/cuda |
        python3 "$here/crate_manifest.py" "$1") || return
    dirname "$manifest"
}

# cutlass_checkout FLASH FORGE: makes a git checkout without files where the build script of flash attention (sources: FLASH) looks for
# one of CUTLASS before it clones it (FORGE: $CUDAFORGE_HOME); prints the folder. The script wants a folder `include`, and `git rev-parse
# HEAD` to say the commit that it names.
cutlass_checkout() {
    local commit checkout
    commit=$(sed -n 's/^const CUTLASS_COMMIT: &str = "\([0-9a-f]*\)";$/\1/p' "$1/build.rs")
    if [[ -z "$commit" ]]; then
        printf '%s/build.rs does not say its commit of CUTLASS as it used to\n' "$1" >&2
        return 1
    fi
    checkout="$2/git/checkouts/cutlass-${commit:0:16}"
    mkdir -p "$checkout"
    git -C "$checkout" init --quiet
    printf '%s\n' "$commit" >"$checkout/.git/HEAD"
    printf '%s\n' "$checkout"
}
