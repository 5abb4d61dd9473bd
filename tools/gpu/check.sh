#!/usr/bin/env bash
# Measures distorch on a GPU, in at most 8 minutes: unpacks the kit that `pack.sh` made and runs its stages.
# `$OUT` (default `gpu-out/`) gets gpu.json, gpu.log and a few pictures; docs/gpu.md says what is in them.
#
#     tools/gpu/check.sh                             # all stages on cuda:0
#     tools/gpu/check.sh --stage offload --stage lora
#     tools/gpu/check.sh --dry-run                   # small, without a GPU: on vulkan:0, else on the CPU
#     tools/gpu/check.sh --dry-run --distorch target/debug/distorch --tests PROGRAM --device cpu
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/tools/gpu
export OUT=${OUT:-gpu-out}

dry= distorch= tests= device= rest=()
while [ $# -gt 0 ]; do
    case "$1" in
        --dry-run) dry=1; rest+=("$1") ;;
        --distorch) distorch=$2; shift ;;
        --tests) tests=$2; shift ;;
        --device) device=$2; shift ;;
        --help | -h) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) rest+=("$1") ;;
    esac
    shift
done

private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
if [ -f "$root/gpu-kit/programs.tar.xz" ]; then
    python3 "$here/programs.py" unpack "$root/gpu-kit/programs.tar.xz" "$private" || exit 1
    if [ -z "$distorch" ]; then
        distorch=$private/distorch
        tests=${tests:-$private/device-tests}
    fi
fi
distorch=${distorch:-$root/target/debug/distorch}
if [ ! -x "$distorch" ]; then
    echo "check.sh: there is no $distorch: run tools/gpu/pack.sh first, or name a binary with --distorch" >&2
    exit 1
fi
if [ -z "$device" ]; then
    device=cuda:0
    if [ -n "$dry" ]; then
        "$distorch" devices --json 2>/dev/null | grep -q '"vulkan:0"' && device=vulkan:0 || device=cpu
    fi
fi

# Wheels of what is not installed here, beside what is.
if [ -d "$private/wheels" ]; then
    missing=$(python3 "$here/missing_wheels.py" "$private/wheels")
    # shellcheck disable=SC2086 # one argument a line
    if [ -n "$missing" ]; then
        python3 -m pip install --quiet --no-index --no-deps --no-compile --find-links "$private/wheels" \
            --target "$private/site" $missing && export PYTHONPATH=$private/site${PYTHONPATH:+:$PYTHONPATH}
    fi
fi

# Where CUDA's libraries and headers may be: the toolkit's folder, and those that come with PyTorch.
packages=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for toolkit in "${CUDA_PATH:-}" /usr/local/cuda /opt/cuda "$packages"/nvidia/cu*; do
    if [ -n "$toolkit" ] && [ -d "$toolkit/include" ]; then
        export CUDA_PATH=$toolkit
        break
    fi
done
for folder in "${CUDA_PATH:-/nowhere}/lib64" "$packages"/nvidia/*/lib; do
    [ -d "$folder" ] && export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
done

# By itself it ends after 470 s; whatever hangs in it, the JSON has what was measured until then.
timeout --kill-after=5 480 python3 "$here/run.py" --device "$device" --distorch "$distorch" --tests "$tests" \
    --out "$OUT" "${rest[@]}"
