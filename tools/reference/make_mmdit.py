"""Writes crates/models/tests/fixtures/mmdit_*.safetensors from diffusers' SD3Transformer2DModel.

    python tools/reference/make_mmdit.py

Weights and inputs follow from their names (seeded.py), so a file holds the outputs, and as metadata the
configuration, the parameters' names and shapes, and the calls. diffusers takes no latents that its patches do not
divide: such a latent is continued circularly, as ComfyUI does, and the output cut. Needs torch, diffusers and
safetensors.
"""

import json
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file

import make_key_lists as keys
import seeded

FIXTURES = Path(__file__).parents[2] / "crates/models/tests/fixtures"
SEED = 60
PATCH = 2

# Name: (blocks, heads, width of a head, side of the position table, width of the text, of the pooled text, norms of
# queries and keys, blocks with a second attention)
CASES = {
    "sd3": (3, 3, 16, 12, 40, 24, False, []),
    "sd35_large": (2, 4, 20, 13, 24, 16, True, []),
    "sd35_medium": (4, 2, 32, 14, 32, 12, True, [0, 1, 2]),
}
# Batch, height, width, text tokens, timesteps, blocks left out.
CALLS = [
    (2, 8, 8, 7, [1.0, 999.0], []),
    (1, 13, 10, 77, [500.5], []),
    (1, 1, 23, 1, [250.0], []),
    (2, 24, 16, 12, [37.0, 801.0], [1]),
]


def build(blocks, heads, head, table, text, pooled, qk_norm, dual):
    module = SD3Transformer2DModel(
        sample_size=2 * table,
        patch_size=PATCH,
        in_channels=16,
        num_layers=blocks,
        attention_head_dim=head,
        num_attention_heads=heads,
        joint_attention_dim=text,
        caption_projection_dim=heads * head,
        pooled_projection_dim=pooled,
        pos_embed_max_size=table,
        dual_attention_layers=tuple(dual),
        qk_norm="rms_norm" if qk_norm else None,
    ).eval()
    config = {
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": PATCH,
        "depth": blocks,
        "width": heads * head,
        "heads": heads,
        "pos_embed_max_size": table,
        "adm_in_channels": pooled,
        "context_dim": text,
        "qk_norm": qk_norm,
        "dual_attention_layers": dual,
    }
    return module, config


def fill(module):
    """Sets the parameters and the table by their original names, and returns these with their shapes."""
    shapes = keys.sd3_tensors(module)
    # A parameter that the model itself owns has its layer's name.
    canonical = {name: name if "." in name else f"{name}.{name}" for name in shapes}
    original = {
        name: torch.from_numpy(seeded.weight(canonical[name], tuple(shape), SEED))
        for name, shape in shapes.items()
    }
    module.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(original))
    return {canonical[name]: shape for name, shape in shapes.items()}


def call(module, x, context, pooled, timesteps, skip):
    """The prediction for a latent of any size."""
    height, width = x.shape[-2:]
    x = torch.nn.functional.pad(x, (0, -width % PATCH, 0, -height % PATCH), mode="circular")
    with torch.no_grad():
        out = module(x, context, pooled, torch.tensor(timesteps), skip_layers=skip).sample
    return out[..., :height, :width].contiguous()


def main():
    for case, arguments in CASES.items():
        module, config = build(*arguments)
        shapes = fill(module)
        tensors, calls = {}, []
        for i, (batch, height, width, tokens, timesteps, skip) in enumerate(CALLS):
            sizes = {
                "x": (batch, config["in_channels"], height, width),
                "context": (batch, tokens, config["context_dim"]),
                "pooled": (batch, config["adm_in_channels"]),
            }
            given = {
                name: torch.from_numpy(seeded.uniform(f"{name}.{i}", shape, SEED))
                for name, shape in sizes.items()
            }
            tensors[f"out.{i}"] = call(module, *given.values(), timesteps, skip)
            calls.append(sizes | {"timesteps": timesteps, "skip": skip})
        metadata = {"config": config, "params": shapes, "calls": calls, "seed": SEED}
        metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
        path = FIXTURES / f"mmdit_{case}.safetensors"
        save_file(tensors, path, metadata)
        print(path.name, path.stat().st_size, sum(torch.tensor(s).prod().item() for s in shapes.values()))


if __name__ == "__main__":
    main()
