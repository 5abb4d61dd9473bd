"""Writes crates/checkpoint/tests/fixtures/keys/qwen-image.json.gz: the tensors of Qwen-Image's published files.

    python tools/reference/make_qwen_image_keys.py

The classes of diffusers and transformers are built without data from the published configurations. The transformer's
names are the same everywhere; the autoencoder's are Wan's with diffusers' beside them, which diffusers' converter must
make of Wan's; the text encoder's are those of the published file, which transformers still reads.
"""

import gzip
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from single_file import causal_vae_name

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
    print({key: value if isinstance(value, int) else len(value) for key, value in content.items()})
    PATH.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 9, mtime=0))
    print(PATH.name, PATH.stat().st_size)


if __name__ == "__main__":
    main()
