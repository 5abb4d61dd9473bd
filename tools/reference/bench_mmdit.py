"""SD3.5 medium at its full width with two blocks: what it makes, and how long PyTorch takes for a joint block.

    python tools/reference/bench_mmdit.py FOLDER [--threads 2] [--side 512] [--words 410] [--runs 3]
    cargo run --release -p distorch-models --example blocks -- FOLDER [--threads 2] [--runs 3]

The first block has a second attention and is the one that is timed; the last one has no text behind its attention.
Weights and inputs follow from their names in the original layout (seeded.py). The folder gets the description, the times
in f32 and bf16, and the output in f32 for the example to compare with. Needs torch, diffusers and safetensors.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import save_file

import make_key_lists as keys
import make_mmdit
import seeded

SEED = make_mmdit.SEED


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
    parser.add_argument("--side", type=int, default=512, help="of the picture, in pixels")
    parser.add_argument("--words", type=int, default=410, help="tokens of the text")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)

    # The published table has 384×384 places, of which the middle ones are read.
    own = dict(num_layers=2, dual_attention_layers=(0,), pos_embed_max_size=64)
    module = SD3Transformer2DModel(**keys.SD35_MEDIUM | own).eval()
    params = make_mmdit.fill(module)
    config = module.config
    latent = options.side // 8
    patches = (latent // 2) ** 2
    shapes = {
        "x": (1, 16, latent, latent),
        "context": (1, options.words, config.joint_attention_dim),
        "vector": (1, config.pooled_projection_dim),
    }
    given = [torch.from_numpy(seeded.uniform(name, shape, SEED)) for name, shape in shapes.items()]
    out = module(*given, torch.tensor([500.0])).sample
    save_file({"out": out.contiguous()}, options.folder / "out.safetensors")

    width, seconds = config.caption_projection_dim, {}
    for name, dtype in [("f32", torch.float32), ("bf16", torch.bfloat16)]:
        block = module.transformer_blocks[0].to(dtype)
        picture = torch.randn(1, patches, width, dtype=dtype)
        text = torch.randn(1, options.words, width, dtype=dtype)
        vectors = torch.randn(1, width, dtype=dtype)
        run = lambda: block(hidden_states=picture, encoder_hidden_states=text, temb=vectors)
        seconds[name] = {"double": best(run, options.runs)}
        print(name, seconds[name])
    description = {
        "config": {
            "architecture": "mmdit",
            "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "width": width,
            "heads": config.num_attention_heads, "pos_embed_max_size": config.pos_embed_max_size,
            "adm_in_channels": config.pooled_projection_dim, "context_dim": config.joint_attention_dim,
            "qk_norm": True, "dual_attention_layers": [0],
        },
        "params": params, "inputs": shapes, "seed": SEED, "seconds": seconds,
        "timestep": 500.0, "blocks": {"double": 2},
    }
    (options.folder / "model.json").write_text(json.dumps(description))


if __name__ == "__main__":
    main()
