"""Qwen2.5-VL's encoder of pictures, and prompts with pictures, against transformers: a tiny configuration, seeded weights
and pictures (see seeded.py), and the real tokenizer.

    python tools/reference/make_qwen25vl_pictures.py FOLDER    # the folder of make_qwen_tokens.py

Writes crates/models/tests/fixtures/qwen25vl_pictures.safetensors:
    picture.I       what the encoder makes of the I-th picture
    prompt.I        the last states of the I-th prompt, behind what diffusers' pipelines for Qwen-Image-Edit drop
and in the metadata the configuration, the parameters with their shapes, the pictures' sizes and the prompts.

Pictures are resized as ComfyUI does it, between the two nearest pixels without smoothing, where transformers takes PIL's
bicubic filter. Places of tokens are those of transformers with `mm_token_type_ids`, which diffusers 0.42 does not hand on.
"""

import json
import pathlib
import sys

import seeded
import torch
from diffusers import QwenImageEditPipeline
from safetensors.torch import save_file
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

OUT = pathlib.Path(__file__).parents[2] / "crates/models/tests/fixtures/qwen25vl_pictures.safetensors"
CONFIG = dict(vocab_size=151_936, width=48, layers=2, heads=3, kv_heads=1, head_dim=16, intermediate=56)
# Its eighth layer sees the whole picture.
VISION = dict(width=32, layers=9, heads=2, intermediate=40, patch_size=14)
# Whole windows; one token high; a part of a window both ways; smaller than is read.
SIZES = [[224, 112], [30, 400], [140, 252], [20, 31]]
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
# What the prompt is, and the numbers of its pictures; with a name for each as QwenImageEditPlusPipeline does it, or without.
PROMPTS = [("make it blue", [2], False), ("take the hat of Picture 2, 帽子 (now:1.2)", [1, 2, 3], True)]
PAD = 151_655


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


def fill(model, prefix):
    """Weights by names below a prefix; returns their shapes."""
    shapes = seeded.fill(model.model.language_model, lambda name: f"{prefix}model.{name}")
    return shapes | seeded.fill(model.model.visual, lambda name: f"{prefix}visual.{name}")


def patches(picture):
    """Of a picture [height, width, 3]: its patches and their grid."""
    size = smart_resize(*picture.shape[:2], factor=28, min_pixels=3136, max_pixels=12_845_056)
    resized = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)
    processor = Qwen2VLImageProcessor(do_resize=False, do_rescale=False)
    made = processor(resized, return_tensors="pt")
    return made["pixel_values"], made["image_grid_thw"]


def encode(model, tokenizer, chat, pictures):
    """The last states of a chat with pictures, [1, tokens, width]."""
    made = [patches(picture) for picture in pictures]
    counts = iter([int(grid.prod()) // 4 for _, grid in made])
    ids = [[token] * (next(counts) if token == PAD else 1) for token in tokenizer(chat)["input_ids"]]
    ids = torch.tensor([sum(ids, [])])
    return model(
        input_ids=ids,
        mm_token_type_ids=(ids == PAD).int(),
        pixel_values=torch.cat([values for values, _ in made]),
        image_grid_thw=torch.cat([grid for _, grid in made]),
        output_hidden_states=True,
    ).hidden_states[-1]


def chat(pipeline, text, count, named):
    """diffusers' chat of a text with so many pictures: its own template has a place for one."""
    places = "".join(f"Picture {at + 1}: {PICTURE}" if named else PICTURE for at in range(count))
    return pipeline.prompt_template_encode.replace(PICTURE, "").format(places + text)


@torch.no_grad()
def main():
    model = build(CONFIG, VISION)
    shapes = fill(model, "qwen25vl.")
    pictures = [
        torch.from_numpy((seeded.uniform(f"picture.{at}", (*size, 3)) + 1) / 2) for at, size in enumerate(SIZES)
    ]
    tensors = {}
    for at, picture in enumerate(pictures):
        tensors[f"picture.{at}"] = model.model.visual(*patches(picture)).pooler_output[None].contiguous()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    pipeline = QwenImageEditPipeline(None, None, model, tokenizer, None, None)
    for at, (text, numbers, named) in enumerate(PROMPTS):
        states = encode(model, tokenizer, chat(pipeline, text, len(numbers), named), [pictures[n] for n in numbers])
        tensors[f"prompt.{at}"] = states[:, pipeline.prompt_template_encode_start_idx :].contiguous()
    config = CONFIG | {"kind": "qwen25_vl", "vision": VISION | {"kind": "qwen25_vl"}}
    metadata = {"config": config, "params": shapes, "sizes": SIZES, "prompts": PROMPTS, "seed": 0}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, {name: list(t.shape) for name, t in tensors.items()})


if __name__ == "__main__":
    main()
