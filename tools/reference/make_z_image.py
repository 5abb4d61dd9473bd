"""Writes crates/models/tests/fixtures/z_image.safetensors from diffusers' ZImageTransformer2DModel.

    python tools/reference/make_z_image.py

Weights and inputs follow from their names in the original layout (seeded.py); diffusers' own converter brings them to
the module. The timestep is turned round and the output's sign changed, as ZImagePipeline does it; odd sides are padded
circularly before and cropped after. The file holds the outputs, and as metadata the configuration, the parameters' names and
shapes, the calls, and diffusers' modules, each with the original's and its first row there. Needs torch, diffusers and
safetensors.
"""

import json
from pathlib import Path

import torch
from diffusers import ZImageTransformer2DModel
from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file

import seeded
from module_rows import modules

OUT = Path(__file__).parents[2] / "crates/models/tests/fixtures/z_image.safetensors"
SEED = 41
HEADS, HEAD, CHANNELS, CONTEXT, DEPTH, REFINER = 3, 32, 4, 40, 2, 1
AXES = [8, 12, 12]
# Batch, height, width, text tokens, timesteps.
CALLS = [
    (1, 8, 8, 7, [0.3]),
    (2, 16, 8, 32, [1.0, 0.45]),
    (1, 5, 11, 40, [0.02]),
]


def build(channels=CHANNELS, context=CONTEXT):
    return ZImageTransformer2DModel(
        in_channels=channels,
        dim=HEADS * HEAD,
        n_layers=DEPTH,
        n_refiner_layers=REFINER,
        n_heads=HEADS,
        n_kv_heads=HEADS,
        cap_feat_dim=context,
        axes_dims=AXES,
        axes_lens=[256, 64, 64],
    ).eval()


def original(name):
    """The original's name of a parameter whose rows are not split."""
    for ours, theirs in [
        ("all_x_embedder.2-1.", "x_embedder."),
        ("all_final_layer.2-1.", "final_layer."),
        (".attention.to_out.0.", ".attention.out."),
        (".attention.norm_q.", ".attention.q_norm."),
        (".attention.norm_k.", ".attention.k_norm."),
    ]:
        name = name.replace(ours, theirs)
    return name


def originals(module):
    """The shapes of the parameters in the original layout, by their names there."""
    shapes = {}
    for name, parameter in module.named_parameters():
        shape = list(parameter.shape)
        if ".to_q." in name:
            name, shape = name.replace(".to_q.", ".qkv."), [3 * shape[0], shape[1]]
        elif ".to_k." in name or ".to_v." in name:
            continue
        shapes[original(name)] = shape
    return shapes


def fill(module):
    """Sets the parameters by their original names, and returns these with their shapes, and diffusers' modules."""
    shapes = originals(module)
    # A parameter that the model itself owns has its layer's name.
    canonical = {name: name if "." in name else f"{name}.{name}" for name in shapes}
    weights = {n: torch.from_numpy(seeded.weight(canonical[n], tuple(s), SEED)) for n, s in shapes.items()}
    module.load_state_dict(convert_z_image_transformer_checkpoint_to_diffusers(weights))
    named = {canonical[name]: shape for name, shape in shapes.items()}
    return named, modules(shapes, convert_z_image_transformer_checkpoint_to_diffusers)


def call(module, x, context, timesteps):
    """The velocity of latents of any size."""
    height, width = x.shape[-2:]
    x = torch.nn.functional.pad(x, (0, width % 2, 0, height % 2), mode="circular")
    with torch.no_grad():
        out = module(list(x.unsqueeze(2)), 1 - torch.tensor(timesteps), list(context)).sample
    return -torch.stack(list(out)).squeeze(2)[..., :height, :width]


def main():
    module = build()
    shapes, modules = fill(module)
    width = HEADS * HEAD
    config = {
        "kind": "z_image",
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "patch_size": 2,
        "width": width,
        "heads": HEADS,
        "kv_heads": HEADS,
        "context_dim": CONTEXT,
        "mlp_width": int(width / 3 * 8),
        "time_width": 1024,
        "modulation_width": min(width, 256),
        "refiner_depth": REFINER,
        "depth": DEPTH,
    }
    tensors, calls = {}, []
    for i, (batch, height, width, tokens, timesteps) in enumerate(CALLS):
        sizes = {"x": (batch, CHANNELS, height, width), "context": (batch, tokens, CONTEXT)}
        given = {n: torch.from_numpy(seeded.uniform(f"{n}.{i}", s, SEED)) for n, s in sizes.items()}
        tensors[f"out.{i}"] = call(module, given["x"], given["context"], timesteps).contiguous()
        calls.append(sizes | {"timesteps": timesteps})
    metadata = {"config": config, "params": shapes, "calls": calls, "modules": modules, "seed": SEED}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, sum(torch.Size(s).numel() for s in shapes.values()))


if __name__ == "__main__":
    main()
