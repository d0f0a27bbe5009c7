#!/usr/bin/env bash
# prove.sh PROOF [RESULTS]: runs what build.sh --proof built (PROOF: its proof.tar.gz) on a GPU machine: what has to hold, how
# long it takes, and transformers on the same GPU where python3 has torch. Fetches nothing, takes under eight minutes and 17 GB in
# $TMPDIR. Run it in the repository's root, or beside a copy of tests/fixtures, with the Python scripts beside this one.
#
# Every part has a time limit, a log and a result of its own in RESULTS (proof-results where none is named); one that fails does not stop
# the others. RESULTS/RESULTS.md sets all side by side. The exit code is 0 if every check holds and every part has a result; a missed bar is
# a result. DEVICE=cuda:1 takes another GPU.
set -uo pipefail

LIMIT=470

die() {
    printf 'prove: %s\n' "$1" >&2
    exit 2
}

(($# == 1 || $# == 2)) || die "usage: prove.sh PROOF.tar.gz [RESULTS]"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ -d tests/fixtures/tiny ]] || die "there is no tests/fixtures/tiny here: run this in the repository's root, or beside a copy of that folder"
[[ -r "$1" ]] || die "there is no $1: build it with deploy/cuda/build.sh --proof"
device=${DEVICE:-cuda:0}
results=${2:-proof-results}
mkdir -p "$results" || die "$results cannot be made"
rm -f "$results"/*.{json,log,txt,md}
work=$(mktemp -d) || die "there is no room for temporary files: set TMPDIR"
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work"
tar --extract --gzip --file "$1" --directory "$work" proof kernels || die "$1 is not what build.sh --proof makes"
program="$work/proof"

# Where CUDA's libraries are, besides where the system looks: a toolkit, and a PyTorch that was installed with pip. For our program alone:
# PyTorch finds its own.
libraries=${LD_LIBRARY_PATH:-}
while IFS= read -r folder; do
    [[ -d "$folder" ]] && libraries="${libraries:+$libraries:}$folder"
done < <(printf '%s\n' /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib && python3 -c '
import glob, sysconfig
print(*glob.glob(sysconfig.get_path("purelib") + "/nvidia/*/lib"), sep="\n")' 2>/dev/null)
proof=(env "LD_LIBRARY_PATH=$libraries" "$program")

{
    date -u '+%Y-%m-%d %H:%M UTC'
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null || echo "nvidia-smi does not answer"
    grep --max-count 1 'model name' /proc/cpuinfo | sed 's/.*: //'
    printf '%s cores may be used\n' "$(nproc)"
    printf 'program: %s bytes, sha256 %s\n' "$(stat --format %s "$program")" "$(sha256sum "$program" | cut -c 1-16)"
} >"$results/machine.txt"
cat "$results/machine.txt"

failed=()
# part SECONDS NAME COMMAND...: runs a part for so long at most, and not beyond the limit of all.
part() {
    local limit="$1" name="$2" began=$SECONDS status=0
    shift 2
    ((limit = limit < LIMIT - SECONDS ? limit : LIMIT - SECONDS))
    printf '\n==> %s\n' "$name"
    if ((limit < 1)); then
        printf 'no time is left\n' | tee "$results/$name.log"
        status=124
    else
        timeout --kill-after 5 "$limit" "$@" 2>&1 | tee "$results/$name.log"
        status=${PIPESTATUS[0]}
    fi
    if ((status)); then
        failed+=("$name")
        ((status == 124 || status == 137)) && printf 'took longer than %s s\n' "$limit" | tee -a "$results/$name.log"
    fi
    printf '==> %s: status %s, %s s\n' "$name" "$status" "$((SECONDS - began))"
    return "$status"
}

ours() {
    local limit="$1" name="$2"
    part "$limit" "$name" "${proof[@]}" "$name" --results "$results" --device "$device" --model "$work/model"
}

# Which kernels take the time of a phase. Where the profiler may not look, that is no fault of ours.
profile() {
    local phase="$1" before=("${failed[@]}") command=("$program" "profile-$1" --results "$results" --device "$device")
    # Not by `env`: a profiler looks at the program that it starts.
    local -x LD_LIBRARY_PATH="$libraries"
    if command -v nsys >/dev/null; then
        part 30 "profile-$phase" nsys profile --trace cuda --capture-range cudaProfilerApi --output "$work/$phase" "${command[@]}" &&
            nsys stats --quiet --report cuda_gpu_kern_sum --format csv "$work/$phase.nsys-rep" >"$work/$phase.csv"
    elif command -v ncu >/dev/null; then
        part 30 "profile-$phase" ncu --csv --page raw --metrics gpu__time_duration.sum --clock-control none \
            --profile-from-start off --log-file "$work/$phase.csv" "${command[@]}"
    fi
    failed=("${before[@]}")
    [[ -s "$work/$phase.csv" ]] && python3 "$here/kernel_times.py" "$phase" "$work/$phase.csv" >>"$results/profile.txt"
}

if ! ours 30 device; then
    die "the program cannot use $device, see above"
fi
# The tests of our kernels, on this GPU where they else run on an emulator; what they do to make it fail is left out.
printf '#!/bin/sh\nexec env "LD_LIBRARY_PATH=%s" "%s" kernels --results "%s" --device "%s"\n' \
    "$libraries" "$program" "$results" "$device" >"$work/runner"
chmod +x "$work/runner"
part 90 kernels env TESSERA_KERNEL_RUNNER="$work/runner" "$work/kernels" --skip faults --test-threads 8
found=$(sed -n 's/^test result: \(.*\); finished.*/\1/p' "$results/kernels.log")
printf '{"checks": [{"name": "our kernels against their references, each in f32, f16 and bf16", "holds": %s, "found": "tests: %s"}]}\n' \
    "$([[ "$found" == ok.* ]] && echo true || echo false)" "${found:-did not end}" >"$results/kernels.json"
ours 75 parity
ours 60 shapes
ours 30 ceilings
if ours 60 checkpoint; then
    ours 100 model
    ours 75 services
    ours 15 pictures
    if python3 -c 'import torch, transformers' 2>/dev/null; then
        part 180 transformers python3 "$here/transformers_peer.py" --model "$work/model" --results "$results" --device "$device"
    else
        printf '\nprove: python3 has no torch or no transformers: nothing to compare with\n'
    fi
fi
if command -v nsys >/dev/null || command -v ncu >/dev/null; then
    for phase in decode-one decode-many prefill tower; do
        profile "$phase"
    done
else
    printf '\nprove: there is no nsys and no ncu: no profile by kernel\n'
fi

printf '\n'
"${proof[@]}" table --results "$results" --device "$device" || failed+=(table)
printf '\nprove: %s s, see %s/RESULTS.md' "$SECONDS" "$results"
if ((${#failed[@]})); then
    printf '; not well: %s\n' "${failed[*]}"
    exit 1
fi
printf '; all went well\n'
