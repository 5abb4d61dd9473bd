"""Writes crates/checkpoint/tests/fixtures/keys/qwen-image.json.gz and qwen-image21.json.gz: the tensors of the published
files of Qwen-Image and of Qwen-Image 2.1.

    python tools/reference/make_qwen_image_keys.py

The classes of diffusers and transformers are built without data from the published configurations. The transformer's
names are the same everywhere; the autoencoder's are Wan's with diffusers' beside them, which diffusers' converter must
make of Wan's; the text encoder's are those of the published file, which transformers still reads.

Qwen-Image 2.1's transformer has the names of ComfyUI's file, in which gates of feed-forward layers and what they gate are
one matrix, and its autoencoder those of ComfyUI's file, whose convolutions have a dimension for one frame, with diffusers'
names and shapes beside them.
"""

import gzip
import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    QwenImage21Transformer2DModel,
    QwenImageTransformer2DModel,
)
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from single_file import causal_vae_name, residual_vae_name

PATH = Path(__file__).parents[2] / "crates/checkpoint/tests/fixtures/keys/qwen-image.json.gz"

ENCODER = dict(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152064,
    tie_word_embeddings=False,
)
VISION = dict(
    depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=3584, fullatt_block_indexes=[7, 15, 23, 31]
)


def shapes(module):
    return {name: list(parameter.shape) for name, parameter in module.named_parameters()}


def published(name):
    """The name in the published file of a parameter of transformers' class."""
    name = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
    return name


def fused(transformer):
    """Shapes with the halves of a feed-forward layer's first matrix in one."""
    found = {}
    for name, shape in shapes(transformer).items():
        if ".img_mlp.proj." in name:
            continue
        if ".img_mlp.gate_layer." in name:
            name, shape = name.replace("gate_layer", "gate_up"), [2 * shape[0], shape[1]]
        found[name] = shape
    return found


def of_frames(key, shape):
    """The shape of a convolution's weight with the dimension of one frame."""
    plain = (".resample.", ".to_qkv.", ".proj.", ".gamma")
    return shape[:2] + [1] + shape[2:] if len(shape) == 4 and not any(part in key for part in plain) else shape


def newer():
    with torch.device("meta"):
        transformer, vae = QwenImage21Transformer2DModel(), AutoencoderKLQwenImage21()
    own = shapes(vae)
    wan = {residual_vae_name(name, vae.config): name for name in own}
    return {
        "transformer": fused(transformer),
        "parameters": sum(parameter.numel() for parameter in transformer.parameters()),
        "vae": {key: [name, own[name], of_frames(key, own[name])] for key, name in wan.items()},
    }


def write(name, content):
    path = PATH.with_name(name)
    path.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 9, mtime=0))
    print(path.name, path.stat().st_size, {key: x if isinstance(x, int) else len(x) for key, x in content.items()})


def main():
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel()
        vae = AutoencoderKLQwenImage()
        encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=ENCODER, vision_config=VISION))
    wan = {causal_vae_name(name, vae.config): name for name, _ in vae.named_parameters()}
    assert convert_wan_vae_to_diffusers({key: key for key in wan}) == {name: key for key, name in wan.items()}
    vae = shapes(vae)
    content = {
        "transformer": shapes(transformer),
        "parameters": sum(parameter.numel() for parameter in transformer.parameters()),
        "vae": {key: [name, vae[name]] for key, name in wan.items()},
        "text": {published(name): shape for name, shape in shapes(encoder).items()},
    }
    write(PATH.name, content)
    write("qwen-image21.json.gz", newer())


if __name__ == "__main__":
    main()
