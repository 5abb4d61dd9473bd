"""A transformer at its full width with few blocks: what it makes, and how long PyTorch takes for it.

    python tools/reference/bench_transformer.py FAMILY FOLDER [--threads 2] [--side 512] [--words 256] [--runs 3]
    cargo run --release -p distorch-models --example blocks -- FOLDER [--threads 2] [--runs 3]

FAMILY is z-image, qwen-image, flux2-klein (4B), flux2-dev, krea2 or chroma; each has one block of each kind. Weights and
inputs follow from their names in the original layout (seeded.py), and packing, places and conversion are those of the
`make_*.py` of the family. The folder gets the description, the times of the network in f32 and bf16, and the output in f32
for the example to compare with. Needs torch, diffusers and safetensors.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from diffusers import ChromaTransformer2DModel
from diffusers.loaders import single_file_utils as converters
from safetensors.torch import save_file

import make_chroma
import make_flux
import make_flux2
import make_krea2
import make_qwen_image
import make_z_image
import seeded

SEED = 9


def z_image():
    make_z_image.HEADS, make_z_image.HEAD, make_z_image.AXES = 30, 128, [32, 48, 48]
    make_z_image.DEPTH, make_z_image.REFINER = 1, 1
    with torch.device("meta"):
        module = make_z_image.build(16, 2560)
    config = {
        "architecture": "next_dit", "kind": "z_image",
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "width": 3840, "heads": 30, "kv_heads": 30,
        "context_dim": 2560,
        "mlp_width": 10240, "time_width": 1024, "modulation_width": 256, "refiner_depth": 1, "depth": 1,
    }
    shapes = {name if "." in name else f"{name}.{name}": shape for name, shape in make_z_image.originals(module).items()}

    def convert(weights):
        own = {name if name.split(".")[0] != name.split(".")[-1] else name.split(".")[0]: w for name, w in weights.items()}
        return converters.convert_z_image_transformer_checkpoint_to_diffusers(own)

    return module, config, shapes, convert, (16, 8, 2560), make_z_image.call


def qwen_image():
    make_qwen_image.HEAD, make_qwen_image.AXES, make_qwen_image.DEPTH = 128, (16, 56, 56), 1
    with torch.device("meta"):
        module = make_qwen_image.build(16, 3584, 24)
    # The table of places is computed, and has to be there.
    kind = type(module.pos_embed)
    module.pos_embed = kind(theta=10000, axes_dim=[16, 56, 56], scale_rope=True)
    config = {
        "architecture": "qwen_image",
        "in_channels": 16, "out_channels": 16, "width": 3072, "heads": 24, "context_dim": 3584, "mlp_width": 12288,
        "depth": 1, "references_at_zero": False,
    }
    shapes = {name: list(parameter.shape) for name, parameter in module.named_parameters()}
    return module, config, shapes, dict, (16, 8, 3584), make_qwen_image.call


def flux2(heads, context, guided):
    sizes = (128, 128, heads, 1, 1, guided, context)
    with torch.device("meta"):
        module = make_flux2.build(*sizes)
    width = 128 * heads
    config = {
        "architecture": "flux2",
        "in_channels": 128, "out_channels": 128, "width": width, "heads": heads, "context_dim": context,
        "depth": 1, "depth_single": 1, "mlp_width": 3 * width, "guidance_embed": guided,
    }
    convert = converters.convert_flux2_transformer_checkpoint_to_diffusers

    def call(module, x, context, timesteps):
        return make_flux2.call(module, x, context, timesteps, torch.tensor([4.0]).to(x.dtype) if guided else None)

    return module, config, make_flux2.originals(*sizes), convert, (128, 16, context), call


def krea2():
    config = {
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "width": 6144, "heads": 48, "kv_heads": 12,
        "mlp_width": 16384, "depth": 1, "time_frequencies": 256, "text_width": 2560, "text_layers": 12,
        "text_heads": 20, "text_kv_heads": 20, "text_mlp_width": 6912, "layerwise_depth": 1, "refiner_depth": 1,
    }
    with torch.device("meta"):
        module = make_krea2.build(config)
    shapes = {make_krea2.canonical(name): shape for name, shape in make_krea2.originals(config).items()}

    def convert(weights):
        own = {name.removesuffix(".lin") if name.endswith(".lin.lin") else name: w for name, w in weights.items()}
        return converters.convert_krea2_transformer_checkpoint_to_diffusers(own)

    return module, {"architecture": "krea2"} | config, shapes, convert, (16, 8, 12 * 2560), make_krea2.call


def chroma():
    own = vars(make_chroma)
    own.update(LATENT=16, HEAD=128, HEADS=24, DOUBLE=1, SINGLE=1, CONTEXT=4096, INNER=5120, LAYERS=5)
    own.update(WIDTH=3072, MLP=12288)
    with torch.device("meta"):
        module = ChromaTransformer2DModel(num_layers=1, num_single_layers=1)
    # These are computed, and have to be there.
    with torch.device("cpu"):
        blank = ChromaTransformer2DModel(num_layers=1, num_single_layers=1, approximator_hidden_dim=64)
    module.time_text_embed = blank.time_text_embed
    config = {
        "architecture": "chroma",
        "in_channels": 64, "out_channels": 64, "width": 3072, "heads": 24, "context_dim": 4096, "depth": 1,
        "depth_single": 1, "mlp_width": 12288, "approximator_channels": 64, "approximator_width": 5120,
        "approximator_depth": 5,
    }

    def call(module, x, context, timesteps):
        packed, ids = make_flux.packed(x)
        out = module(
            hidden_states=packed,
            encoder_hidden_states=context,
            timestep=torch.tensor(timesteps, dtype=x.dtype),
            img_ids=ids,
            txt_ids=torch.zeros(context.shape[1], 3),
        ).sample
        return make_flux.unpacked(out, *x.shape[-2:])

    return module, config, make_chroma.originals(), make_chroma.convert, (16, 8, 4096), call


FAMILIES = {
    "z-image": z_image,
    "qwen-image": qwen_image,
    "flux2-klein": lambda: flux2(24, 7680, False),
    "flux2-dev": lambda: flux2(48, 15360, True),
    "krea2": krea2,
    "chroma": chroma,
}


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--words", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)

    module, config, shapes, convert, (channels, pixels, context), call = FAMILIES[options.family]()
    weights = {name: torch.from_numpy(seeded.weight(name, tuple(shape), SEED)) for name, shape in shapes.items()}
    weights = convert(weights)
    module.load_state_dict(weights, assign=True)
    del weights
    module.eval()

    side = options.side // pixels
    inputs = {"x": (1, channels, side, side), "context": (1, options.words, context)}
    given = {name: torch.from_numpy(seeded.uniform(name, shape, SEED)) for name, shape in inputs.items()}
    run = lambda: call(module, given["x"], given["context"], [0.5])
    save_file({"out": run().contiguous()}, options.folder / "out.safetensors")

    seconds = {}
    for name, dtype in [("f32", torch.float32), ("bf16", torch.bfloat16)]:
        module.to(dtype)
        given = {key: value.to(dtype) for key, value in given.items()}
        best = math.inf
        for _ in range(options.runs):
            start = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - start)
        seconds[name] = {"network": best}
        print(name, seconds[name])
    description = {
        "config": config, "params": shapes, "inputs": inputs, "seed": SEED, "seconds": seconds,
        "timestep": 0.5, "guidance": 4.0 if config.get("guidance_embed") else None, "blocks": {},
    }
    (options.folder / "model.json").write_text(json.dumps(description))


if __name__ == "__main__":
    main()
