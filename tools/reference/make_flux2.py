"""Writes crates/models/tests/fixtures/flux2_*.safetensors from diffusers' Flux2Transformer2DModel.

    python tools/reference/make_flux2.py

Weights and inputs follow from their names in the original layout (seeded.py); diffusers' own converter brings them to
the module. Ids of latents, references and text are Flux2KleinPipeline's. A file holds the outputs, and as metadata the
configuration, the parameters' names and shapes, the calls, and diffusers' modules, each with the original's and the first
rows of its halves there. Needs torch, diffusers and safetensors.
"""

import json
from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file

import module_rows
import seeded

FIXTURES = Path(__file__).parents[2] / "crates/models/tests/fixtures"
SEED = 51
CONTEXT = 24

# Name: (channels, features of a head, heads, double blocks, single blocks, guidance)
CASES = {"klein": (12, 32, 3, 2, 2, False), "dev": (8, 16, 2, 1, 3, True)}
# Batch, height, width, text tokens, timesteps, guidance, heights and widths of reference latents.
CALLS = [
    (2, 4, 4, 7, [1.0, 0.25], [3.5, 1.0], []),
    (1, 3, 5, 4, [0.617], [4.0], []),
    (1, 2, 6, 3, [0.05], [2.5], [(3, 2), (1, 4)]),
]


def build(channels, head, heads, double, single, guided, context=CONTEXT):
    return Flux2Transformer2DModel(
        in_channels=channels,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=head,
        num_attention_heads=heads,
        joint_attention_dim=context,
        timestep_guidance_channels=256,
        mlp_ratio=3.0,
        axes_dims_rope=[head // 4] * 4,
        rope_theta=2000,
        guidance_embeds=guided,
    ).eval()


def originals(channels, head, heads, double, single, guided, context=CONTEXT):
    """The shapes of the parameters in the original layout, by their names there."""
    width = head * heads
    mlp = 3 * width
    shapes = {
        "img_in.weight": [width, channels],
        "txt_in.weight": [width, context],
        "double_stream_modulation_img.lin.weight": [6 * width, width],
        "double_stream_modulation_txt.lin.weight": [6 * width, width],
        "single_stream_modulation.lin.weight": [3 * width, width],
        "final_layer.linear.weight": [channels, width],
        "final_layer.adaLN_modulation.1.weight": [2 * width, width],
    }
    for name in ["time_in"] + ["guidance_in"] * guided:
        shapes[f"{name}.in_layer.weight"] = [width, 256]
        shapes[f"{name}.out_layer.weight"] = [width, width]
    for n in range(double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{n}.{stream}"
            shapes[f"{block}_attn.qkv.weight"] = [3 * width, width]
            shapes[f"{block}_attn.norm.query_norm.scale"] = [head]
            shapes[f"{block}_attn.norm.key_norm.scale"] = [head]
            shapes[f"{block}_attn.proj.weight"] = [width, width]
            shapes[f"{block}_mlp.0.weight"] = [2 * mlp, width]
            shapes[f"{block}_mlp.2.weight"] = [width, mlp]
    for n in range(single):
        block = f"single_blocks.{n}"
        shapes[f"{block}.linear1.weight"] = [3 * width + 2 * mlp, width]
        shapes[f"{block}.linear2.weight"] = [width, width + mlp]
        shapes[f"{block}.norm.query_norm.scale"] = [head]
        shapes[f"{block}.norm.key_norm.scale"] = [head]
    return shapes


def modules(shapes):
    """Diffusers' modules, each with the original's, the rows there where its halves begin, and its number of rows."""
    numbers, starts = module_rows.numbered(shapes)
    found = {}
    for name, ids in convert_flux2_transformer_checkpoint_to_diffusers(numbers).items():
        firsts = [ids.flatten()[0].item(), ids[ids.shape[0] // 2].flatten()[0].item()]
        layer = max((n for n in starts if starts[n] <= firsts[0]), key=starts.get)
        columns = torch.Size(shapes[layer][1:]).numel()
        rows = [(first - starts[layer]) // columns for first in firsts]
        found[name.removesuffix(".weight")] = [layer.rsplit(".", 1)[0], *rows, ids.shape[0]]
    return found


def call(module, x, context, timesteps, guidance=None, references=()):
    """The velocity of packed latents."""
    batch, _, height, width = x.shape
    tokens = [Flux2KleinPipeline._pack_latents(latent) for latent in (x, *references)]
    ids = [Flux2KleinPipeline._prepare_latent_ids(x)[0]]
    if references:
        ids.append(Flux2KleinPipeline._prepare_image_ids([latent[:1] for latent in references])[0])
    with torch.no_grad():
        out = module(
            hidden_states=torch.cat(tokens, 1),
            encoder_hidden_states=context,
            timestep=torch.tensor(timesteps),
            guidance=guidance,
            img_ids=torch.cat(ids),
            txt_ids=Flux2KleinPipeline._prepare_text_ids(context)[0],
        ).sample[:, : height * width]
    return out.transpose(1, 2).reshape(batch, -1, height, width)


def main():
    for case, sizes in CASES.items():
        channels, head, heads, double, single, guided = sizes
        module, shapes = build(*sizes), originals(*sizes)
        weights = {n: torch.from_numpy(seeded.weight(n, tuple(s), SEED)) for n, s in shapes.items()}
        module.load_state_dict(convert_flux2_transformer_checkpoint_to_diffusers(weights))
        config = {
            "in_channels": channels,
            "out_channels": channels,
            "width": head * heads,
            "heads": heads,
            "context_dim": CONTEXT,
            "depth": double,
            "depth_single": single,
            "mlp_width": 3 * head * heads,
            "guidance_embed": guided,
        }
        tensors, calls = {}, []
        for i, (batch, height, width, tokens, timesteps, guidance, references) in enumerate(CALLS):
            given = {"x": (batch, channels, height, width), "context": (batch, tokens, CONTEXT)}
            behind = [(batch, channels, *sides) for sides in references]
            names = {f"reference.{i}.{n}": shape for n, shape in enumerate(behind)}
            made = {n: torch.from_numpy(seeded.uniform(f"{n}.{i}", s, SEED)) for n, s in given.items()}
            latents = [torch.from_numpy(seeded.uniform(n, s, SEED)) for n, s in names.items()]
            strength = torch.tensor(guidance) if guided else None
            out = call(module, made["x"], made["context"], timesteps, strength, latents)
            tensors[f"out.{i}"] = out.contiguous()
            calls.append(given | {"references": behind, "timesteps": timesteps, "guidance": guidance})
        metadata = {"config": config, "params": shapes, "calls": calls, "modules": modules(shapes), "seed": SEED}
        metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
        path = FIXTURES / f"flux2_{case}.safetensors"
        save_file(tensors, path, metadata)
        print(path.name, path.stat().st_size, sum(torch.Size(s).numel() for s in shapes.values()))


if __name__ == "__main__":
    main()
