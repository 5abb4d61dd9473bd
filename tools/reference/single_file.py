"""The names that diffusers' parameters have in an original single-file checkpoint.

The inverse of `diffusers.loaders.single_file_utils`, which the scripts that use this check against:
converting the renamed parameters back must give the module's own.
"""

import re

UNET = [
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
]
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def unet_name(name: str, config) -> str:
    """The original name of a parameter of `UNet2DConditionModel`."""
    for ours, theirs in UNET:
        if name.startswith(ours + "."):
            return theirs + name[len(ours) :]
    layers = config.layers_per_block
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        kind, index, rest = match.groups()
        place = 2 * int(index) + (kind == "attentions")
        return f"middle_block.{place}.{_resnet(rest) if kind == 'resnets' else rest}"
    direction, level, kind, index, rest = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name
    ).groups()
    level, index = int(level), int(index)
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        block = level * (layers + 1) + layers
        place = 2 if "CrossAttn" in config.up_block_types[level] else 1
        return f"output_blocks.{block}.{place}.{rest}"
    if direction == "down":
        block = f"input_blocks.{1 + level * (layers + 1) + index}"
    else:
        block = f"output_blocks.{level * (layers + 1) + index}"
    return f"{block}.0.{_resnet(rest)}" if kind == "resnets" else f"{block}.1.{rest}"


def _resnet(rest: str) -> str:
    layer, param = rest.rsplit(".", 1)
    return f"{UNET_RESNET[layer]}.{param}"


def vae_name(name: str, config) -> str:
    """The original name of a parameter of `AutoencoderKL`."""
    levels = len(config.block_out_channels)
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if match := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.*)\.(weight|bias)", name):
        return f"{match[1]}mid.attn_1.{VAE_ATTENTION[match[2]]}.{match[3]}"
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    up = lambda m: f"up.{levels - 1 - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}"
    name = re.sub(r"up_blocks\.(\d+)\.(resnets)", up, name)
    return re.sub(r"up_blocks\.(\d+)\.(upsamplers)\.0", up, name)


def check(module, converted: dict):
    """Fails unless the converted parameters are the module's own, all of them."""
    import torch

    own = dict(module.named_parameters())
    assert own.keys() == converted.keys(), own.keys() ^ converted.keys()
    for name, parameter in own.items():
        assert torch.equal(parameter.squeeze(), converted[name].squeeze()), name


CAUSAL_BLOCK = {
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}


def causal_vae_name(name: str, config) -> str:
    """Wan's name of a parameter of `AutoencoderKLQwenImage`."""
    ends = {"conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2"}
    first, rest = name.split(".", 1)
    if first in ("quant_conv", "post_quant_conv"):
        return f"{'conv1' if first == 'quant_conv' else 'conv2'}.{rest}"
    module, rest = rest.split(".", 1)
    if module in ends:
        return f"{first}.{ends[module]}.{rest}"
    index, rest = rest.split(".", 1)
    if module == "mid_block":
        number, rest = rest.split(".", 1)
        place = 1 if index == "attentions" else 2 * int(number)
        module = f"middle.{place}"
    elif module == "down_blocks":
        module = f"downsamples.{index}"
    else:
        kind, number, rest = rest.split(".", 2)
        place = int(number) if kind == "resnets" else config.num_res_blocks + 1
        module = f"upsamples.{int(index) * (config.num_res_blocks + 2) + place}"
    inner, last = rest.rsplit(".", 1)
    return f"{first}.{module}.{CAUSAL_BLOCK.get(inner, inner)}.{last}"


def residual_vae_name(name: str, config) -> str:
    """Wan 2.2's name of a parameter of `AutoencoderKLQwenImage21`, as ComfyUI's files have it."""
    if match := re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(.*)", name):
        half, way, level, rest = match.groups()
        if rest.startswith("resnets."):
            _, place, rest = rest.split(".", 2)
        else:
            place = config.num_res_blocks + (way == "up")
            _, rest = rest.split(".", 1)
        inner, last = rest.rsplit(".", 1)
        blocks = f"{way}samples"
        return f"{half}.{blocks}.{level}.{blocks}.{place}.{CAUSAL_BLOCK.get(inner, inner)}.{last}"
    return causal_vae_name(name, config)
