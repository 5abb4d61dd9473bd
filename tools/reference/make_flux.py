"""Writes crates/models/tests/fixtures/flux_*.safetensors from diffusers' FluxTransformer2DModel.

    python tools/reference/make_flux.py

Weights and inputs follow from their names in the original layout (seeded.py); diffusers' own converter brings them to
the module. Latents are packed, and reference latents placed, as FluxKontextPipeline does it; odd sides are
padded circularly before and cropped after. A file holds the outputs, and as metadata the configuration, the
parameters' names and shapes, and the calls. Needs torch, diffusers and safetensors.
"""

import json
from pathlib import Path

import torch
from diffusers import FluxKontextPipeline
from safetensors.torch import save_file

import make_lora
import seeded

FIXTURES = Path(__file__).parents[2] / "crates/models/tests/fixtures"
SEED = 31

# Heads' features that index, row and column turn: crates/models/src/flux/rope.rs has the rule.
AXES = {16: (4, 6, 6), 32: (4, 14, 14), 128: (16, 56, 56)}

# Name: (latent channels, input channels, features of a head, heads, double blocks, single blocks, guidance)
CASES = {
    "dev": (4, 4, 128, 2, 2, 2, True),
    "schnell": (4, 4, 32, 3, 1, 3, False),
    "control": (4, 8, 16, 2, 1, 1, True),
    "fill": (4, 24, 16, 2, 2, 1, True),
}
# Batch, height, width, text tokens, timesteps, guidance, height and width of a reference latent.
CALLS = [
    (2, 8, 8, 7, [1.0, 0.25], [3.5, 1.0], None),
    (1, 5, 11, 4, [0.617], [30.0], None),
    (1, 4, 12, 3, [0.05], [2.5], (6, 4)),
    (3, 2, 2, 1, [0.9, 0.5, 0.1], [0.0, 3.5, 4.0], (4, 8)),
]


def packed(x):
    """Tokens, and the ids of their patches."""
    batch, channels, height, width = x.shape
    x = torch.nn.functional.pad(x, (0, width % 2, 0, height % 2), mode="circular")
    height, width = x.shape[2:]
    ids = FluxKontextPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32)
    return FluxKontextPipeline._pack_latents(x, batch, channels, height, width), ids


def unpacked(tokens, height, width):
    rows, columns = (height + 1) // 2, (width + 1) // 2
    x = tokens.reshape(tokens.shape[0], rows, columns, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(tokens.shape[0], -1, 2 * rows, 2 * columns)[:, :, :height, :width]


def main():
    for case, (latent, inputs, head, heads, double, single, guided) in CASES.items():
        part = make_lora.flux(
            dict(
                in_channels=4 * inputs,
                out_channels=4 * latent,
                num_layers=double,
                num_single_layers=single,
                attention_head_dim=head,
                num_attention_heads=heads,
                joint_attention_dim=24,
                pooled_projection_dim=20,
                guidance_embeds=guided,
                axes_dims_rope=AXES[head],
            ),
            SEED,
        )
        width = head * heads
        config = {
            "in_channels": 4 * inputs,
            "out_channels": 4 * latent,
            "width": width,
            "heads": heads,
            "context_dim": 24,
            "vec_dim": 20,
            "depth": double,
            "depth_single": single,
            "mlp_width": 4 * width,
            "guidance_embed": guided,
        }
        tensors, calls = {}, []
        for i, (batch, height, width, tokens, timesteps, guidance, reference) in enumerate(CALLS):
            shapes = {
                "x": (batch, inputs, height, width),
                "context": (batch, tokens, 24),
                "vector": (batch, 20),
            }
            if reference is not None:
                shapes["reference"] = (batch, inputs, *reference)
            given = {n: torch.from_numpy(seeded.uniform(f"{n}.{i}", s, SEED)) for n, s in shapes.items()}
            x, ids = packed(given["x"])
            patches = x.shape[1]
            if reference is not None:
                behind, places = packed(given["reference"])
                places[..., 0] = 1
                x, ids = torch.cat([x, behind], 1), torch.cat([ids, places])
            with torch.no_grad():
                out = part.module(
                    hidden_states=x,
                    encoder_hidden_states=given["context"],
                    pooled_projections=given["vector"],
                    timestep=torch.tensor(timesteps),
                    guidance=torch.tensor(guidance) if guided else None,
                    img_ids=ids,
                    txt_ids=torch.zeros(tokens, 3),
                ).sample
            tensors[f"out.{i}"] = unpacked(out[:, :patches], height, width).contiguous()
            calls.append({"shapes": shapes, "timesteps": timesteps, "guidance": guidance})
        metadata = {"config": config, "params": part.params, "calls": calls, "seed": SEED}
        metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
        path = FIXTURES / f"flux_{case}.safetensors"
        save_file(tensors, path, metadata)
        print(path.name, path.stat().st_size, len(part.base))


if __name__ == "__main__":
    main()
