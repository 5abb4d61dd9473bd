"""SD 1.5 and SDXL base at full size with random weights: their classes and their single files.

A checkpoint is written once, in f16 with the original keys; every weight follows from its key (seeded.py), so
two files of one model are equal. The classes are filled from it in f32, which is exact.
"""

import json
import math
import os
import re
import struct
from pathlib import Path

import numpy as np

VAE_PREFIX, UNET_PREFIX = "first_stage_model.", "model.diffusion_model."
SEED = 50

CLIP_L = dict(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
    projection_dim=768,
    bos_token_id=49406,
    eos_token_id=49407,
)
CLIP_G = CLIP_L | dict(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    projection_dim=1280,
)
VAE = dict(
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[128, 256, 512, 512],
    layers_per_block=2,
    latent_channels=4,
    sample_size=512,
)
UNET = {
    "sd15": dict(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=768,
    ),
    "sdxl": dict(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
}
# Of each model, the text encoders: their names, prefixes and sizes.
TEXT = {
    "sd15": {"clip_l": ("cond_stage_model.transformer.", CLIP_L)},
    "sdxl": {
        "clip_l": ("conditioner.embedders.0.transformer.", CLIP_L),
        "clip_g": ("conditioner.embedders.1.model.", CLIP_G),
    },
}
COMPONENTS = {model: [*TEXT[model], "unet", "vae"] for model in UNET}

# OpenCLIP's names of a layer's parts.
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def build(model, component):
    """The component's module without memory for its weights."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        if component == "unet":
            return UNet2DConditionModel(**UNET[model]).eval()
        if component == "vae":
            return AutoencoderKL(**VAE).eval()
        make = CLIPTextModelWithProjection if component == "clip_g" else CLIPTextModel
        return make(CLIPTextConfig(**TEXT[model][component][1])).eval()


def stored(model, component, name, config):
    """Where a file has a parameter: its key, and the part (of three) of the tensor, if not all of it."""
    from single_file import unet_name, vae_name

    if component == "unet":
        return UNET_PREFIX + unet_name(name, config), None
    if component == "vae":
        return VAE_PREFIX + vae_name(name, config), None
    prefix = TEXT[model][component][0]
    if name == "text_projection.weight":
        return prefix + "text_projection", None
    # transformers 5 leaves `text_model.` away.
    name = name.removeprefix("text_model.")
    if component != "clip_g":
        return f"{prefix}text_model.{name}", None
    if name.startswith("final_layer_norm."):
        return prefix + name.replace("final_layer_norm", "ln_final"), None
    if name.startswith("embeddings."):
        positions = name == "embeddings.position_embedding.weight"
        return prefix + ("positional_embedding" if positions else "token_embedding.weight"), None
    layer, part, leaf = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name).groups()
    block = f"{prefix}transformer.resblocks.{layer}."
    if match := re.fullmatch(r"self_attn\.(q|k|v)_proj", part):
        return f"{block}attn.in_proj_{leaf}", "qkv".index(match[1])
    return f"{block}{OPEN_CLIP[part]}.{leaf}", None


def shape_in_file(key, shape, part):
    """The file's shape of a tensor whose parameter has this one."""
    if part is not None:
        return (3 * shape[0], *shape[1:])
    if re.search(r"first_stage_model\..*attn_1\.(q|k|v|proj_out)\.weight", key):
        return (*shape, 1, 1)
    if key.endswith(".text_projection"):
        return shape[::-1]
    return shape


def write_checkpoint(path, model):
    """Random weights in f16 under the original keys, a tensor at a time."""
    import seeded

    shapes = {}
    for component in COMPONENTS[model]:
        module = build(model, component)
        for name, parameter in module.named_parameters():
            key, part = stored(model, component, name, module.config)
            shapes[key] = shape_in_file(key, tuple(parameter.shape), part)
    header, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(header).encode()
    unfinished = Path(f"{path}.part")
    with unfinished.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for key, shape in shapes.items():
            file.write(seeded.weight(key, shape, SEED).astype(np.float16).tobytes())
    os.replace(unfinished, path)


def load(path, model, component):
    """The component in f32, filled tensor by tensor from the file."""
    import torch
    from safetensors import safe_open

    module = build(model, component)
    with safe_open(path, framework="pt") as file:
        for name, parameter in list(module.named_parameters()):
            key, part = stored(model, component, name, module.config)
            value = file.get_tensor(key)
            if part is not None:
                value = value.chunk(3)[part]
            if key.endswith(".text_projection"):
                value = value.T
            value = value.float().reshape(parameter.shape).contiguous()
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, torch.nn.Parameter(value, False))
        for name, buffer in list(module.named_buffers()):
            assert name.endswith("position_ids"), name
            owner, _, leaf = name.rpartition(".")
            value = torch.arange(buffer.shape[-1]).expand(buffer.shape)
            module.get_submodule(owner).register_buffer(leaf, value, persistent=False)
    return module
