"""Writes crates/models/tests/fixtures/chroma.safetensors from diffusers' ChromaTransformer2DModel.

    python tools/reference/make_chroma.py

Weights and inputs follow from their names in the original layout (seeded.py); diffusers' own converter brings them to
the module. Latents are packed as make_flux.py does it. The file holds the outputs, and as metadata the configuration, the
parameters' names and shapes, the calls, and diffusers' modules, each with the original's, its first row there and its
number of rows. Needs torch, diffusers and safetensors.
"""

import inspect
import json
from pathlib import Path

import torch
from diffusers import ChromaTransformer2DModel
from diffusers.loaders import single_file_utils as converters
from safetensors.torch import save_file

import make_flux
import seeded
from module_rows import modules

OUT = Path(__file__).parents[2] / "crates/models/tests/fixtures/chroma.safetensors"
SEED, LATENT, HEAD, HEADS, DOUBLE, SINGLE, CONTEXT, INNER, LAYERS = 61, 4, 32, 3, 2, 2, 24, 40, 3
WIDTH, MLP = HEAD * HEADS, 4 * HEAD * HEADS
# Batch, height, width, text tokens, timesteps.
CALLS = [(2, 8, 8, 7, [1.0, 0.25]), (1, 5, 11, 4, [0.617])]


def originals():
    """The shapes of the parameters in the original layout, by their names there."""
    linears = {
        "img_in": (WIDTH, 4 * LATENT),
        "txt_in": (WIDTH, CONTEXT),
        "final_layer.linear": (4 * LATENT, WIDTH),
        "distilled_guidance_layer.in_proj": (INNER, 64),
        "distilled_guidance_layer.out_proj": (WIDTH, INNER),
    }
    norms = {}
    for n in range(LAYERS):
        linears |= {f"distilled_guidance_layer.layers.{n}.{name}": (INNER, INNER) for name in ("in_layer", "out_layer")}
        norms[f"distilled_guidance_layer.norms.{n}"] = INNER
    for n in range(DOUBLE):
        for stream in ("img", "txt"):
            block = f"double_blocks.{n}.{stream}"
            linears |= {
                f"{block}_attn.qkv": (3 * WIDTH, WIDTH),
                f"{block}_attn.proj": (WIDTH, WIDTH),
                f"{block}_mlp.0": (MLP, WIDTH),
                f"{block}_mlp.2": (WIDTH, MLP),
            }
            norms |= {f"{block}_attn.norm.{name}_norm": HEAD for name in ("query", "key")}
    for n in range(SINGLE):
        block = f"single_blocks.{n}"
        linears |= {f"{block}.linear1": (3 * WIDTH + MLP, WIDTH), f"{block}.linear2": (WIDTH, WIDTH + MLP)}
        norms |= {f"{block}.norm.{name}_norm": HEAD for name in ("query", "key")}
    shapes = {}
    for name, (rows, columns) in linears.items():
        shapes |= {f"{name}.weight": [rows, columns], f"{name}.bias": [rows]}
    return shapes | {f"{name}.scale": [size] for name, size in norms.items()}


def convert(tensors):
    # The converter knows the published width only.
    source = inspect.getsource(converters.convert_chroma_transformer_checkpoint_to_diffusers)
    scope = {"torch": torch}
    exec(source.replace("inner_dim = 3072", f"inner_dim = {WIDTH}"), scope)
    return scope["convert_chroma_transformer_checkpoint_to_diffusers"](dict(tensors))


@torch.no_grad()
def main():
    module = ChromaTransformer2DModel(
        in_channels=4 * LATENT,
        num_layers=DOUBLE,
        num_single_layers=SINGLE,
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        joint_attention_dim=CONTEXT,
        axes_dims_rope=make_flux.AXES[HEAD],
        approximator_hidden_dim=INNER,
        approximator_layers=LAYERS,
    ).eval()
    shapes = originals()
    module.load_state_dict(convert({n: torch.from_numpy(seeded.weight(n, tuple(s), SEED)) for n, s in shapes.items()}))
    config = {
        "in_channels": 4 * LATENT,
        "out_channels": 4 * LATENT,
        "width": WIDTH,
        "heads": HEADS,
        "context_dim": CONTEXT,
        "depth": DOUBLE,
        "depth_single": SINGLE,
        "mlp_width": MLP,
        "approximator_channels": 64,
        "approximator_width": INNER,
        "approximator_depth": LAYERS,
    }
    tensors, calls = {}, []
    for i, (batch, height, width, tokens, timesteps) in enumerate(CALLS):
        sizes = {"x": (batch, LATENT, height, width), "context": (batch, tokens, CONTEXT)}
        given = {n: torch.from_numpy(seeded.uniform(f"{n}.{i}", s, SEED)) for n, s in sizes.items()}
        x, ids = make_flux.packed(given["x"])
        out = module(
            hidden_states=x,
            encoder_hidden_states=given["context"],
            timestep=torch.tensor(timesteps),
            img_ids=ids,
            txt_ids=torch.zeros(tokens, 3),
        ).sample
        tensors[f"out.{i}"] = make_flux.unpacked(out, height, width).contiguous()
        calls.append(sizes | {"timesteps": timesteps})
    metadata = {"config": config, "params": shapes, "calls": calls, "modules": modules(shapes, convert), "seed": SEED}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, sum(torch.Size(s).numel() for s in shapes.values()))


if __name__ == "__main__":
    main()
