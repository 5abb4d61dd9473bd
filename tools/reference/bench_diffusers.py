"""Times one call of diffusers' UNet2DConditionModel at full size, and leaves what the Rust side needs.

    python tools/reference/bench_diffusers.py --model sd15 --size 64 --batch 2 --threads 2 --out /tmp/sd15
    cargo run --release -p distorch-models --example unet_step -- /tmp/sd15 --threads 2

The folder gets `model.json` (configuration, parameters' names and shapes, the call) and
`out.safetensors` (the output). Weights and inputs follow from their names (seeded.py), so that the
second command runs the same call, compares its output and prints the ratio of the times.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

import seeded
from make_unet import build
from single_file import unet_name

MODELS = {
    "sd15": (320, [1, 2, 4, 4], [1, 1, 1, 0], 1, {"count": 8}, False, 4, 768, None),
    "sd21": (320, [1, 2, 4, 4], [1, 1, 1, 0], 1, {"width": 64}, True, 4, 1024, None),
    "sdxl": (320, [1, 2, 4], [0, 2, 10], 10, {"width": 64}, True, 4, 2048, 2816 - 48),
}
SEED = 40


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="sd15")
    parser.add_argument("--size", type=int, default=64, help="side of the latent")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="of weights and activations")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    module, config = build(*MODELS[arguments.model])
    shapes = seeded.fill(module, lambda name: unet_name(name, module.config), SEED)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    module.to(dtype)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    size, batch = arguments.size, arguments.batch
    inputs = {
        "x": (batch, config["in_channels"], size, size),
        "context": (batch, 77, config["context_dim"]),
    }
    given = {k: torch.from_numpy(seeded.uniform(k, shape, SEED)).to(dtype) for k, shape in inputs.items()}
    timesteps = torch.tensor([500.0] * batch)
    tensors, added = {}, None
    if config["adm_in_channels"] is not None:
        pooled = (batch, config["adm_in_channels"] - 48)
        pooled = torch.from_numpy(seeded.uniform("pooled", pooled, SEED))
        times = torch.tensor([[512.0, 768, 0, 16, 1024, 1024]] * batch)
        added = {"text_embeds": pooled.to(dtype), "time_ids": times}
        embedded = module.add_time_proj(times.flatten()).reshape(batch, -1)
        tensors["y"] = torch.cat([pooled, embedded], 1).contiguous()

    walls, cpus = [], []
    with torch.no_grad():
        for _ in range(arguments.runs):
            wall, cpu = time.perf_counter(), time.process_time()
            out = module(given["x"], timesteps, given["context"], added_cond_kwargs=added).sample
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    tensors["out"] = out.float().contiguous()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"diffusers {arguments.model} batch {batch} latent {size}x{size}, {arguments.dtype}, {arguments.threads} threads")
    print(f"  best of {arguments.runs}: {min(walls):.2f} s wall, {min(cpus):.2f} s CPU")
    print(f"  peak memory {peak / 1024:.0f} MiB, {loaded / 1024:.0f} MiB of it before the first call")

    arguments.out.mkdir(parents=True, exist_ok=True)
    model = {
        "config": config,
        "params": shapes,
        "inputs": inputs,
        "timesteps": timesteps.tolist(),
        "seed": SEED,
        "dtype": arguments.dtype,
        "seconds": min(walls),
        "cpu_seconds": min(cpus),
        "peak_bytes": peak * 1024,
    }
    (arguments.out / "model.json").write_text(json.dumps(model))
    save_file(tensors, arguments.out / "out.safetensors")


if __name__ == "__main__":
    main()
