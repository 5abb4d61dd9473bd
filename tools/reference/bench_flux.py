"""Flux dev at its full width with one block of each kind: what it makes, and how long PyTorch takes for a block.

    python tools/reference/bench_flux.py FOLDER [--threads 2] [--side 512] [--words 256] [--runs 3]
    cargo run --release -p distorch-models --example blocks -- FOLDER [--threads 2] [--runs 3]

Weights and inputs follow from their names in the original layout (seeded.py). The folder gets the description, the times
in f32 and bf16, and the output in f32 for the example to compare with. Needs torch, diffusers and safetensors.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.loaders import single_file_utils as converters
from safetensors.torch import save_file

import make_key_lists as keys
import seeded

SEED = 7


def best(run, runs):
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--words", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)

    with torch.device("meta"):
        module = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    params = keys.flux_tensors(module)
    weights = {name: torch.from_numpy(seeded.weight(name, tuple(shape), SEED)) for name, shape in params.items()}
    weights = converters.convert_flux_transformer_checkpoint_to_diffusers(weights)
    module.load_state_dict(weights, assign=True)
    del weights
    module.eval()

    latent = options.side // 8
    patches = (latent // 2) ** 2
    shapes = {"x": (1, 16, latent, latent), "context": (1, options.words, 4096), "vector": (1, 768)}
    given = {name: torch.from_numpy(seeded.uniform(name, shape, SEED)) for name, shape in shapes.items()}
    ids = FluxPipeline._prepare_latent_image_ids(1, latent // 2, latent // 2, "cpu", torch.float32)
    words = torch.zeros(options.words, 3)
    out = module(
        hidden_states=FluxPipeline._pack_latents(given["x"], 1, 16, latent, latent),
        encoder_hidden_states=given["context"],
        pooled_projections=given["vector"],
        timestep=torch.tensor([0.5]),
        guidance=torch.tensor([3.5]),
        img_ids=ids,
        txt_ids=words,
    ).sample
    out = out.reshape(1, latent // 2, latent // 2, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
    save_file({"out": out.reshape(1, 16, latent, latent).contiguous()}, options.folder / "out.safetensors")

    rotation = module.pos_embed(torch.cat([words, ids]))
    seconds = {}
    for name, dtype in [("f32", torch.float32), ("bf16", torch.bfloat16)]:
        module.to(dtype)
        hidden = torch.randn(1, patches, 3072, dtype=dtype)
        text = torch.randn(1, options.words, 3072, dtype=dtype)
        vector = torch.randn(1, 3072, dtype=dtype)
        given = dict(hidden_states=hidden, encoder_hidden_states=text, temb=vector, image_rotary_emb=rotation)
        blocks = {"double": module.transformer_blocks[0], "single": module.single_transformer_blocks[0]}
        seconds[name] = {kind: best(lambda: block(**given), options.runs) for kind, block in blocks.items()}
        print(name, seconds[name])
    description = {
        "config": {
            "architecture": "flux",
            "in_channels": 64, "out_channels": 64, "width": 3072, "heads": 24, "context_dim": 4096,
            "vec_dim": 768, "depth": 1, "depth_single": 1, "mlp_width": 12288, "guidance_embed": True,
        },
        "params": params, "inputs": shapes, "seed": SEED, "seconds": seconds,
        "timestep": 0.5, "guidance": 3.5, "blocks": {"double": 1, "single": 1},
    }
    (options.folder / "model.json").write_text(json.dumps(description))


if __name__ == "__main__":
    main()
