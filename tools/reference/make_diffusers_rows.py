"""Which rows of which original tensors the tensors of diffusers are, told by diffusers' own converters.

Writes crates/checkpoint/tests/fixtures/keys/diffusers-rows.json.gz: for a UNet, an SD3 and a Flux transformer of small
sizes the shapes of the original tensors, and for each tensor of diffusers the rows that it is made of.

    python tools/reference/make_diffusers_rows.py
"""

import gzip
import json
from pathlib import Path

import torch
from diffusers.loaders import single_file_utils as convert

KEYS = Path(__file__).parents[2] / "crates/checkpoint/tests/fixtures/keys"


def unet():
    """SD 1.x's UNet with the shapes of the key list `tiny-sd1`, and its names in the file."""
    listed = json.loads(gzip.decompress((KEYS / "tiny-sd1.json.gz").read_bytes()))["tensors"]
    prefix = "model.diffusion_model."
    return {key: shape for key, shape in listed.items() if key.startswith(prefix)}


def linear(shapes, name, rows, columns, bias=True):
    shapes[f"{name}.weight"] = [rows, columns]
    if bias:
        shapes[f"{name}.bias"] = [rows]


def flux(width=3072, head=128, channels=64, mlp=12288, depth=1, single=1):
    """The converter knows the published width only; matrices have one column, since it is rows that count."""
    shapes = {}
    linear(shapes, "img_in", width, 1)
    linear(shapes, "txt_in", width, 1)
    for name in ["time_in", "vector_in", "guidance_in"]:
        linear(shapes, f"{name}.in_layer", width, 1)
        linear(shapes, f"{name}.out_layer", width, 1)
    for at in range(depth):
        for side in ["img", "txt"]:
            block = f"double_blocks.{at}.{side}"
            linear(shapes, f"{block}_mod.lin", 6 * width, 1)
            linear(shapes, f"{block}_attn.qkv", 3 * width, 1)
            linear(shapes, f"{block}_attn.proj", width, 1)
            shapes[f"{block}_attn.norm.query_norm.scale"] = [head]
            shapes[f"{block}_attn.norm.key_norm.scale"] = [head]
            linear(shapes, f"{block}_mlp.0", mlp, 1)
            linear(shapes, f"{block}_mlp.2", width, 1)
    for at in range(single):
        block = f"single_blocks.{at}"
        linear(shapes, f"{block}.linear1", 3 * width + mlp, 1)
        linear(shapes, f"{block}.linear2", width, 1)
        shapes[f"{block}.norm.query_norm.scale"] = [head]
        shapes[f"{block}.norm.key_norm.scale"] = [head]
        linear(shapes, f"{block}.modulation.lin", 3 * width, 1)
    linear(shapes, "final_layer.linear", channels, 1)
    linear(shapes, "final_layer.adaLN_modulation.1", 2 * width, 1)
    return shapes


def sd3(width=64, head=32, context=48, vector=36, channels=16, depth=3, dual=(0,)):
    shapes = {"pos_embed": [1, 256, width], "x_embedder.proj.weight": [width, channels, 2, 2]}
    shapes["x_embedder.proj.bias"] = [width]
    linear(shapes, "context_embedder", width, context)
    for name, inputs in [("t_embedder", 256), ("y_embedder", vector)]:
        linear(shapes, f"{name}.mlp.0", width, inputs)
        linear(shapes, f"{name}.mlp.2", width, width)
    for at in range(depth):
        last = at + 1 == depth
        for side in ["context_block", "x_block"]:
            block = f"joint_blocks.{at}.{side}"
            ends = last and side == "context_block"
            two = at in dual and side == "x_block"
            linear(shapes, f"{block}.adaLN_modulation.1", (2 if ends else 9 if two else 6) * width, width)
            for attention in ["attn"] + (["attn2"] if two else []):
                linear(shapes, f"{block}.{attention}.qkv", 3 * width, width)
                shapes[f"{block}.{attention}.ln_q.weight"] = [head]
                shapes[f"{block}.{attention}.ln_k.weight"] = [head]
                if not ends:
                    linear(shapes, f"{block}.{attention}.proj", width, width)
            if not ends:
                linear(shapes, f"{block}.mlp.fc1", 4 * width, width)
                linear(shapes, f"{block}.mlp.fc2", width, 4 * width)
    linear(shapes, "final_layer.linear", 4 * channels, width)
    linear(shapes, "final_layer.adaLN_modulation.1", 2 * width, width)
    return shapes


def numbered(shapes):
    """Tensors in which every value is the number of its row, counted through all tensors."""
    tensors, owners, count = {}, [], 0
    for key, shape in shapes.items():
        rows = torch.arange(count, count + shape[0], dtype=torch.float64)
        tensors[key] = rows.reshape([-1] + [1] * (len(shape) - 1)).expand(shape).clone()
        owners += [(key, row) for row in range(shape[0])]
        count += shape[0]
    return tensors, owners


def rows_of(tensor, owners):
    """The rows that a tensor is made of: `[key, first, count]`, one after the other."""
    parts = []
    for number in tensor.reshape(tensor.shape[0], -1)[:, 0].long().tolist():
        key, row = owners[number]
        if parts and parts[-1][0] == key and parts[-1][1] + parts[-1][2] == row:
            parts[-1][2] += 1
        else:
            parts.append([key, row, 1])
    return parts


def main():
    of_unet = {"layers_per_block": 1, "class_embed_type": None, "addition_embed_type": None}
    listed = unet()
    of_unet["layers_per_block"] = max(
        sum(f"model.diffusion_model.input_blocks.{at}.0.in_layers.2.weight" in listed for at in (1, 2)), 1
    )
    cases = {
        "unet": (listed, lambda tensors: convert.convert_ldm_unet_checkpoint(tensors, of_unet)),
        "sd3": (sd3(), convert.convert_sd3_transformer_checkpoint_to_diffusers),
        "flux": (flux(), convert.convert_flux_transformer_checkpoint_to_diffusers),
    }
    found = {}
    for name, (shapes, converter) in cases.items():
        tensors, owners = numbered(shapes)
        converted = converter(dict(tensors))
        names = {key: rows_of(tensor, owners) for key, tensor in converted.items()}
        used = {(key, row + at) for parts in names.values() for key, row, n in parts for at in range(n)}
        assert len(used) == len(owners), f"{name}: {len(used)} of {len(owners)} rows"
        prefix = "model.diffusion_model." if name == "unet" else ""
        strip = lambda key: key.removeprefix(prefix)
        found[name] = {
            "original": {strip(key): shape for key, shape in shapes.items()},
            "diffusers": {k: [[strip(key), row, n] for key, row, n in p] for k, p in names.items()},
        }
        print(f"{name}: {len(shapes)} original tensors, {len(names)} of diffusers")
    text = json.dumps(found, separators=(",", ":")).encode()
    (KEYS / "diffusers-rows.json.gz").write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main()
