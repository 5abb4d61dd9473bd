"""Writes crates/models/tests/fixtures/qwen_image*.safetensors from diffusers' QwenImageTransformer2DModel.

    python tools/reference/make_qwen_image.py

Weights and inputs follow from their names (seeded.py), which are the original's as they are. Latents are cut into patches
as QwenImagePipeline does it; odd sides are padded circularly before and cropped after. The second file is of the variant
whose references have no noise. The files hold the outputs, and as metadata the configuration, the parameters' names and
shapes, the calls and the modules. Grids of patches have even sides: diffusers and ComfyUI have other middles of odd ones.
"""

import json
from pathlib import Path

import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from safetensors.torch import save_file

import seeded

FIXTURES = Path(__file__).parents[2] / "crates/models/tests/fixtures"
SEED = 43
HEADS, HEAD, CHANNELS, CONTEXT, DEPTH = 3, 32, 4, 40, 2
AXES = (4, 14, 14)
# Batch, height, width, text tokens, timesteps, sizes of references.
CALLS = [
    (1, 8, 8, 7, [0.3], []),
    (2, 16, 8, 32, [1.0, 0.45], [(8, 8)]),
    (1, 7, 15, 40, [0.02], [(4, 12), (8, 4)]),
]


def build(channels=CHANNELS, context=CONTEXT, heads=HEADS, zero_cond_t=False):
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * channels,
        out_channels=channels,
        num_layers=DEPTH,
        attention_head_dim=HEAD,
        num_attention_heads=heads,
        joint_attention_dim=context,
        axes_dims_rope=AXES,
        zero_cond_t=zero_cond_t,
    ).eval()


def pack(x):
    height, width = x.shape[-2:]
    x = torch.nn.functional.pad(x, (0, width % 2, 0, height % 2), mode="circular")
    batch, channels, height, width = x.shape
    return QwenImagePipeline._pack_latents(x, batch, channels, height, width), (1, height // 2, width // 2)


def call(module, x, context, timesteps, references=()):
    """The velocity of latents of any size."""
    batch, channels, height, width = x.shape
    packed = [pack(latent) for latent in [x, *references]]
    tokens, grids = [tokens for tokens, _ in packed], [grid for _, grid in packed]
    with torch.no_grad():
        out = module(
            torch.cat(tokens, 1),
            encoder_hidden_states=context,
            timestep=torch.tensor(timesteps),
            img_shapes=[grids] * batch,
        ).sample
    _, rows, columns = grids[0]
    out = out[:, : rows * columns].reshape(batch, rows, columns, channels, 2, 2)
    return out.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, 2 * rows, 2 * columns)[..., :height, :width]


def write(name, zero_cond_t):
    module = build(zero_cond_t=zero_cond_t)
    shapes = seeded.fill(module, seed=SEED)
    config = {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "width": HEADS * HEAD,
        "heads": HEADS,
        "context_dim": CONTEXT,
        "mlp_width": 4 * HEADS * HEAD,
        "depth": DEPTH,
        "references_at_zero": zero_cond_t,
    }
    tensors, calls = {}, []
    for i, (batch, height, width, tokens, timesteps, references) in enumerate(CALLS):
        sizes = {"x": (batch, CHANNELS, height, width), "context": (batch, tokens, CONTEXT)}
        given = {n: torch.from_numpy(seeded.uniform(f"{n}.{i}", s, SEED)) for n, s in sizes.items()}
        references = [(batch, CHANNELS, *size) for size in references]
        latents = [
            torch.from_numpy(seeded.uniform(f"reference.{i}.{n}", size, SEED)) for n, size in enumerate(references)
        ]
        tensors[f"out.{i}"] = call(module, given["x"], given["context"], timesteps, latents).contiguous()
        calls.append(sizes | {"timesteps": timesteps, "references": references})
    modules = {
        name.removesuffix(".weight"): [name.removesuffix(".weight"), 0, shape[0]]
        for name, shape in shapes.items()
        if name.endswith(".weight")
    }
    metadata = {"config": config, "params": shapes, "calls": calls, "modules": modules, "seed": SEED}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    path = FIXTURES / f"{name}.safetensors"
    save_file(tensors, path, metadata)
    print(path.name, path.stat().st_size, sum(torch.Size(s).numel() for s in shapes.values()))


if __name__ == "__main__":
    write("qwen_image", False)
    write("qwen_image_2511", True)
