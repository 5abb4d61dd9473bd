"""Writes Z-Image at its published size with random weights, in three files: 6.2 billion parameters of the transformer and 4
billion of Qwen3 in scaled fp8, and the autoencoder in bf16. 10 GB.

    python tools/reference/make_z_image_full_size.py MODELS

MODELS gets `diffusion_models/z_image_random_fp8.safetensors`, `text_encoders/qwen3_4b_random_fp8.safetensors` and
`vae/ae_random.safetensors`. Only time and memory can be learnt from them: the picture is noise. Needs torch, diffusers and
transformers.
"""

import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from transformers import Qwen3Config, Qwen3Model

import make_key_lists
import make_z_image

SEED = 1
# Bytes of random numbers, repeated through a file.
NUMBERS = 64 << 20


def transformer():
    """Of the published configuration, the original layout's names."""
    module = ZImageTransformer2DModel(
        in_channels=16,
        dim=3840,
        n_layers=30,
        n_refiner_layers=2,
        n_heads=30,
        n_kv_heads=30,
        cap_feat_dim=2560,
        axes_dims=[32, 48, 48],
        axes_lens=[1024, 512, 512],
    )
    return make_z_image.originals(module)


def text_encoder():
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=2560,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=9728,
    )
    return {"model." + name: list(p.shape) for name, p in Qwen3Model(config).named_parameters()}


def autoencoder():
    module = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return {name: list(shape) for name, shape in make_key_lists.vae_tensors(module).items()}


def is_matrix(name, shape):
    return len(shape) == 2 and "embed_tokens" not in name and min(shape) > 256


def values(name, shape):
    """Small tensors: ones with a little noise for norms, else as large as keeps activations at a sound size."""
    rng = np.random.default_rng([SEED, *name.encode()])
    found = rng.uniform(-1, 1, shape).astype(np.float32)
    if len(shape) == 1:
        return 0.02 * found + (0 if name.endswith("bias") else 1)
    return found * math.sqrt(3 / math.prod(shape[1:]))


def write(path, shapes, narrow):
    """A safetensors file, with matrices in scaled fp8 where `narrow` is true and the rest in bf16."""
    bits = np.random.default_rng(SEED).integers(0, 256, NUMBERS, np.uint8)
    bits[bits & 0x7F == 0x7F] = 0  # not a number
    deviation = torch.from_numpy(bits).view(torch.float8_e4m3fn).float().std().item()
    header, parts, at = {}, [], 0

    def add(name, dtype, shape, size, part):
        nonlocal at
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        parts.append(part)
        at += size

    for name, shape in shapes.items():
        count = math.prod(shape)
        if narrow and is_matrix(name, shape):
            scale = np.float32(1 / (deviation * math.sqrt(shape[1])))
            add(name, "F8_E4M3", shape, count, count)
            add(name.removesuffix("weight") + "scale_weight", "F32", [], 4, scale.tobytes())
        else:
            tensor = torch.from_numpy(values(name, shape)).to(torch.bfloat16)
            add(name, "BF16", shape, 2 * count, tensor.view(torch.int16).numpy().tobytes())
    if narrow:
        add("scaled_fp8", "F8_E4M3", [2], 2, bytes(2))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        start = 0
        for part in parts:
            if isinstance(part, bytes):
                file.write(part)
                continue
            while part:
                piece = bits[start : start + part]
                file.write(piece)
                start, part = (start + len(piece)) % NUMBERS, part - len(piece)
    print(path, path.stat().st_size)


def main():
    models = Path(sys.argv[1])
    with torch.device("meta"):
        networks = transformer(), text_encoder(), autoencoder()
    write(models / "diffusion_models/z_image_random_fp8.safetensors", networks[0], True)
    write(models / "text_encoders/qwen3_4b_random_fp8.safetensors", networks[1], True)
    write(models / "vae/ae_random.safetensors", networks[2], False)


if __name__ == "__main__":
    main()
