"""Writes crates/models/tests/fixtures/qwen_image21*.safetensors from diffusers' QwenImage21Transformer2DModel.

    python tools/reference/make_qwen_image21.py

Weights and inputs follow from their names (seeded.py). The first file has the names of ComfyUI's files, in which the gate of
a feed-forward layer and what it gates are one matrix; the second has diffusers'. References stand in the text before tokens
of these numbers; the class is given the text with four places for each group of 2×2 tokens of a picture. The files hold the
outputs, and as metadata the configuration, the parameters' names and shapes, the calls and the modules.
"""

import json
from pathlib import Path

import torch
from diffusers import QwenImage21Transformer2DModel
from safetensors.torch import save_file

import seeded

FIXTURES = Path(__file__).parents[2] / "crates/models/tests/fixtures"
SEED = 47
HEADS, HEAD, CHANNELS, CONTEXT, DEPTH, RATIO = 3, 32, 6, 40, 2, 3
AXES = (4, 14, 14)
# Batch, height, width, text tokens, timesteps, sizes of references, text tokens before each. The times are exact in bf16,
# to which the network rounds them.
CALLS = [
    (1, 4, 6, 7, [0.3125], [], []),
    (2, 6, 4, 19, [1.0, 0.4375], [(4, 4), (2, 6)], [3, 11]),
    (1, 2, 8, 12, [0.01953125], [(4, 2), (4, 4), (2, 2)], [5, 5]),
]


def build(channels=CHANNELS, context=CONTEXT, heads=HEADS):
    return QwenImage21Transformer2DModel(
        in_channels=channels,
        out_channels=channels,
        num_layers=DEPTH,
        attention_head_dim=HEAD,
        num_attention_heads=heads,
        context_in_dim=context,
        mlp_ratio=RATIO,
        axes_dims_rope=AXES,
    ).eval()


def fill(module, fused, prefix=""):
    """Seeds the parameters by their names in a file, whose shapes are returned."""
    shapes = {}
    halves = {"gate_layer": 0, "proj": 1}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            shape = list(parameter.shape)
            layer, _, _ = name.rpartition(".")
            block, _, half = layer.rpartition(".")
            if fused and block.endswith(".img_mlp") and half in halves:
                name, rows = f"{block}.gate_up.weight", shape[0]
                shape[0] *= 2
                value = seeded.weight(prefix + name, tuple(shape), SEED if not prefix else 0)
                value = value[halves[half] * rows :][:rows]
            else:
                value = seeded.weight(prefix + name, tuple(shape), SEED if not prefix else 0)
            shapes[name] = shape
            parameter.copy_(torch.from_numpy(value))
    return shapes


def call(module, x, context, timesteps, references=(), slots=()):
    """The velocity of latents whose sides are even."""
    batch, channels, height, width = x.shape
    slots = [*slots, *[context.shape[1]] * len(references)][: len(references)]
    text, is_picture, start = [], [], 0
    for reference, slot in zip(references, slots):
        groups = reference.shape[-2] * reference.shape[-1] // 4
        text += [context[:, start:slot], context.new_zeros(batch, groups, context.shape[2])]
        is_picture += [False] * (slot - start) + [True] * groups
        start = slot
    text.append(context[:, start:])
    is_picture += [False] * (context.shape[1] - start) + [True] * (height * width // 4)
    pictures = [*references, x]
    with torch.no_grad():
        out = module(
            hidden_states=torch.cat([picture.flatten(2).transpose(1, 2) for picture in pictures], 1),
            encoder_hidden_states=torch.cat(text, 1),
            timestep=torch.tensor(timesteps),
            img_shapes=[[(1, *picture.shape[-2:]) for picture in pictures]] * batch,
            img_mask=torch.tensor([is_picture] * batch),
        ).sample
    return out[:, -height * width :].transpose(1, 2).reshape(batch, channels, height, width)


def write(name, fused):
    module = build()
    shapes = fill(module, fused)
    width, inner = HEADS * HEAD, RATIO * HEADS * HEAD
    config = {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "width": width,
        "heads": HEADS,
        "context_dim": CONTEXT,
        "mlp_width": inner,
        "depth": DEPTH,
        "fused_gate": fused,
    }
    tensors, calls = {}, []
    for i, (batch, height, width, tokens, timesteps, references, slots) in enumerate(CALLS):
        sizes = {"x": (batch, CHANNELS, height, width), "context": (batch, tokens, CONTEXT)}
        given = {n: torch.from_numpy(seeded.uniform(f"{n}.{i}", s, SEED)) for n, s in sizes.items()}
        references = [(batch, CHANNELS, *size) for size in references]
        latents = [
            torch.from_numpy(seeded.uniform(f"reference.{i}.{n}", size, SEED)) for n, size in enumerate(references)
        ]
        out = call(module, given["x"], given["context"], timesteps, latents, slots)
        tensors[f"out.{i}"] = out.contiguous()
        calls.append(sizes | {"timesteps": timesteps, "references": references, "slots": slots})
    modules = {}
    for parameter, _ in module.named_parameters():
        layer = parameter.removesuffix(".weight")
        block, _, half = layer.rpartition(".")
        if fused and half in ("gate_layer", "proj"):
            modules[layer] = [f"{block}.gate_up", inner * (half == "proj"), inner]
        else:
            modules[layer] = [layer, 0, shapes[parameter][0]]
    metadata = {"config": config, "params": shapes, "calls": calls, "modules": modules, "seed": SEED}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    path = FIXTURES / f"{name}.safetensors"
    save_file(tensors, path, metadata)
    print(path.name, path.stat().st_size, {name: (x.std().item(), x.abs().max().item()) for name, x in tensors.items()})


if __name__ == "__main__":
    write("qwen_image21", True)
    write("qwen_image21_apart", False)
