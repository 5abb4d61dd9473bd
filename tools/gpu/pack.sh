#!/usr/bin/env bash
# Builds the kit: `distorch` with CUDA and the test program of a device for x86-64 Linux, and the
# wheels that comparisons need, in one folder that git ignores. It is for a machine with a GPU and
# without network and Rust, on which `tools/gpu/check.sh` runs in a checkout of this repository.
#
#     tools/gpu/pack.sh                         # into gpu-kit/, with the profile `gpu-kit` of Cargo.toml
#     FEATURES=cuda,vulkan tools/gpu/pack.sh    # with Vulkan: a longer build, larger programs
#
# Needs Rust, python3 with pip, and a network for the first build.
set -euo pipefail
cd "$(dirname "$0")/../.."

# What goes to the other machine is the checkout's own files and the kit, but for a checkpoint that no stage draws with.
most_mib=64
left=models/checkpoints/tiny_flux.safetensors
kit=gpu-kit
if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "pack.sh: builds for the machine it runs on, which has to be Linux on x86-64" >&2
    exit 1
fi

features=$(sed 's#[^,]*#distorch/&#g' <<<"${FEATURES:-cuda}")

mkdir -p "$kit"
rm -rf "${kit:?}"/*
private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
${CARGO:-cargo} build --locked --profile gpu-kit -p distorch -p distorch-models -p distorch-runtime \
    --features "$features" --bin distorch --test device \
    --message-format=json-render-diagnostics >"$private/built"
python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$private/wheels" --requirement tools/gpu/wheels.txt
python3 tools/gpu/programs.py pack "$private/built" "$private/wheels" "$kit/programs.tar.xz"
commit=$(git rev-parse --short=12 HEAD)
[ -z "$(git status --porcelain)" ] || commit="$commit, changed"
echo "$commit" >"$kit/commit"

du --apparent-size --human-readable "$kit"/*
bytes() { awk '{ bytes += $1 } END { print bytes + 0 }'; }
mib() { awk "BEGIN { printf \"%.1f\", $1 / 1048576 }"; }
kit_bytes=$(find "$kit" -type f -printf '%s\n' | bytes)
own_bytes=$(git ls-files -z --cached --others --exclude-standard | grep -zvxF "$left" | xargs -0 stat --format=%s | bytes)
echo "$kit has $(mib "$kit_bytes") MiB and the checkout $(mib "$own_bytes") without $left, which may stay behind;" \
    "at most $most_mib together"
if [ $((kit_bytes + own_bytes)) -gt $((most_mib * 1048576)) ]; then
    echo "pack.sh: that is too much; without Vulkan (FEATURES=cuda) there is less code" >&2
    exit 1
fi
