"""Qwen2.5-VL's encoder of pictures, and prompts with pictures, against transformers: a tiny configuration, seeded weights
and pictures (see seeded.py), and the real tokenizer.

    python tools/reference/make_qwen25vl_pictures.py FOLDER    # the folder of make_qwen_tokens.py

Writes crates/models/tests/fixtures/qwen25vl_pictures.safetensors:
    picture.I       what the encoder makes of the I-th picture
    prompt.I        the last states of the I-th prompt, behind what diffusers' pipelines for Qwen-Image-Edit drop
and in the metadata the configuration, the parameters with their shapes, the pictures' sizes and the prompts.
"""

import pathlib
import sys

import torch
from diffusers import QwenImageEditPipeline
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from qwen_vl_pictures import PAD, PICTURE, fill, inputs, patches, pictures, write

OUT = pathlib.Path(__file__).parents[2] / "crates/models/tests/fixtures/qwen25vl_pictures.safetensors"
CONFIG = dict(vocab_size=151_936, width=48, layers=2, heads=3, kv_heads=1, head_dim=16, intermediate=56)
# Its eighth layer sees the whole picture.
VISION = dict(width=32, layers=9, heads=2, intermediate=40, patch_size=14)
# Whole windows; one token high; a part of a window both ways; smaller than is read.
SIZES = [[224, 112], [30, 400], [140, 252], [20, 31]]
# What the prompt is, and the numbers of its pictures; with a name for each as QwenImageEditPlusPipeline does it, or without.
PROMPTS = [("make it blue", [2], False), ("take the hat of Picture 2, 帽子 (now:1.2)", [1, 2, 3], True)]


def build(text, vision):
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=text["vocab_size"],
            hidden_size=text["width"],
            num_hidden_layers=text["layers"],
            num_attention_heads=text["heads"],
            num_key_value_heads=text["kv_heads"],
            intermediate_size=text["intermediate"],
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [2, 3, 3]},
        ),
        vision_config=dict(
            depth=vision["layers"],
            hidden_size=vision["width"],
            num_heads=vision["heads"],
            intermediate_size=vision["intermediate"],
            patch_size=vision["patch_size"],
            out_hidden_size=text["width"],
        ),
        image_token_id=PAD,
        attn_implementation="eager",
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def encode(model, tokenizer, chat, pictures):
    """The last states of a chat with pictures, [1, tokens, width]."""
    made = [patches(picture) for picture in pictures]
    return model(**inputs(tokenizer, chat, made), output_hidden_states=True).hidden_states[-1]


def chat(pipeline, text, count, named):
    """diffusers' chat of a text with so many pictures: its own template has a place for one."""
    places = "".join(f"Picture {at + 1}: {PICTURE}" if named else PICTURE for at in range(count))
    return pipeline.prompt_template_encode.replace(PICTURE, "").format(places + text)


@torch.no_grad()
def main():
    model = build(CONFIG, VISION)
    shapes = fill(model, "qwen25vl.")
    shown = pictures(SIZES)
    tensors = {}
    for at, picture in enumerate(shown):
        tensors[f"picture.{at}"] = model.model.visual(*patches(picture)).pooler_output[None].contiguous()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    pipeline = QwenImageEditPipeline(None, None, model, tokenizer, None, None)
    for at, (text, numbers, named) in enumerate(PROMPTS):
        states = encode(model, tokenizer, chat(pipeline, text, len(numbers), named), [shown[n] for n in numbers])
        tensors[f"prompt.{at}"] = states[:, pipeline.prompt_template_encode_start_idx :].contiguous()
    config = CONFIG | {"kind": "qwen25_vl", "vision": VISION | {"kind": "qwen25_vl"}}
    write(OUT, tensors, config=config, params=shapes, sizes=SIZES, prompts=PROMPTS)


if __name__ == "__main__":
    main()
