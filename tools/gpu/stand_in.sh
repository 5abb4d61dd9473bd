#!/usr/bin/env bash
# Runs a program with the stand-in for the CUDA driver's library, and NVRTC and CUDA's headers of pip's packages
# (nvidia-cuda-nvrtc, -runtime, -crt, -cccl), without a GPU.
#
#     tools/gpu/stand_in.sh target/debug/distorch bench --random sdxl --device cuda:0 --dtype f16 --steps 1
#
# What is compiled is kept in build/stand-in; stand_in.c says what the environment may say of the card.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$root/build/stand-in
mkdir -p "$folder"
"${CC:-cc}" -std=gnu11 -O2 -shared -fPIC -o "$folder/libcuda.so.1" "$root/tools/gpu/stand_in.c"
packages=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for cuda in "$packages"/nvidia/cu1*; do
    [ -f "$cuda/include/crt/mma.h" ] && export CUDA_PATH=$cuda
done
if [ -z "${CUDA_PATH:-}" ]; then
    echo "stand_in.sh: CUDA's headers are not among Python's packages: pip install nvidia-cuda-nvrtc" \
        "nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl, or name a toolkit in CUDA_PATH" >&2
    exit 1
fi
export LD_LIBRARY_PATH=$folder:$CUDA_PATH/lib:$CUDA_PATH/lib64
export DISTORCH_CACHE_DIR=${DISTORCH_CACHE_DIR-$folder/cache}
exec "$@"
