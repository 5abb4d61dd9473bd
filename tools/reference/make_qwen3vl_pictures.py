"""Qwen3-VL's encoder of pictures, and prompts with pictures for Qwen-Image 2.1, against transformers: a tiny configuration,
seeded weights and pictures (see seeded.py), and the real tokenizer.

    python tools/reference/make_qwen3vl_pictures.py FOLDER    # the folder of make_qwen_tokens.py

Writes crates/models/tests/fixtures/qwen3vl_pictures.safetensors:
    picture.I       what the encoder makes of the I-th picture
    added.I.N       what it adds to the states behind the language model's layer N
    prompt.I        the states behind the last layer of the I-th prompt, without the norm, from the user's turn on
    left.I          the same without the tokens of pictures
and in the metadata the configuration, the parameters with their shapes, the pictures' sizes, and the prompts with the numbers
of their pictures and of the tokens that are left before each.

Pictures are resized as ComfyUI does it, between the two nearest pixels without smoothing.
"""

import json
import pathlib
import sys

import seeded
import torch
from diffusers import QwenImage21Pipeline
from safetensors.torch import save_file
from transformers import AutoTokenizer, Qwen2VLImageProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

OUT = pathlib.Path(__file__).parents[2] / "crates/models/tests/fixtures/qwen3vl_pictures.safetensors"
CONFIG = dict(vocab_size=151_936, width=48, layers=4, heads=3, kv_heads=1, head_dim=32, intermediate=56)
VISION = dict(width=32, layers=4, heads=2, intermediate=40, patch_size=16, positions=25, deepstack=3)
# Wider than high; one token high; one that is resized.
SIZES = [[64, 96], [32, 128], [100, 60]]
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
SYSTEM = "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
PROMPTS = [("make it blue", [2]), ("take the hat of <image2>, 帽子 (now:1.2)", [0, 1, 2])]
PAD = 151_655


def build(text, vision):
    half = text["head_dim"] // 2
    row = 5 * half // 16
    config = Qwen3VLConfig(
        text_config=dict(
            vocab_size=text["vocab_size"],
            hidden_size=text["width"],
            num_hidden_layers=text["layers"],
            num_attention_heads=text["heads"],
            num_key_value_heads=text["kv_heads"],
            head_dim=text["head_dim"],
            intermediate_size=text["intermediate"],
            rms_norm_eps=1e-6,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": [half - 2 * row, row, row],
                "mrope_interleaved": True,
            },
        ),
        vision_config=dict(
            depth=vision["layers"],
            hidden_size=vision["width"],
            num_heads=vision["heads"],
            intermediate_size=vision["intermediate"],
            patch_size=vision["patch_size"],
            num_position_embeddings=vision["positions"],
            deepstack_visual_indexes=[0, 1, 2],
            out_hidden_size=text["width"],
        ),
        image_token_id=PAD,
        attn_implementation="eager",
    )
    return Qwen3VLForConditionalGeneration(config).eval()


def fill(model, prefix):
    """Weights by names below a prefix; returns their shapes."""
    shapes = seeded.fill(model.model.language_model, lambda name: f"{prefix}model.{name}")
    return shapes | seeded.fill(model.model.visual, lambda name: f"{prefix}visual.{name}")


def patches(picture):
    """Of a picture [height, width, 3]: its patches and their grid."""
    size = smart_resize(*picture.shape[:2], factor=32, min_pixels=3136, max_pixels=12_845_056)
    resized = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)
    half = [0.5] * 3
    processor = Qwen2VLImageProcessor(
        do_resize=False, do_rescale=False, patch_size=16, image_mean=half, image_std=half
    )
    made = processor(resized, return_tensors="pt")
    return made["pixel_values"], made["image_grid_thw"]


@torch.no_grad()
def encode(model, tokenizer, text, pictures):
    """The states of a prompt with pictures from the user's turn on, which of them are of pictures, and how many others are
    before each picture."""
    places = " ".join(f"<image{at + 1}>{PICTURE}" for at in range(len(pictures)))
    chat = f"{SYSTEM}<|im_start|>user\n{places}{text}<|im_end|>\n<|im_start|>assistant\n"
    made = [patches(picture) for picture in pictures]
    counts = iter([int(grid.prod()) // 4 for _, grid in made])
    ids = [[token] * (next(counts) if token == PAD else 1) for token in tokenizer(chat)["input_ids"]]
    ids = torch.tensor([sum(ids, [])])
    # As the pipeline switches the final norm off.
    handle = model.model.language_model.norm.register_forward_hook(lambda module, args, output: args[0])
    states = model(
        input_ids=ids,
        mm_token_type_ids=(ids == PAD).int(),
        pixel_values=torch.cat([values for values, _ in made]),
        image_grid_thw=torch.cat([grid for _, grid in made]),
        output_hidden_states=True,
    ).hidden_states[-1]
    handle.remove()
    dropped = len(tokenizer(SYSTEM)["input_ids"])
    states, is_picture = states[:, dropped:], (ids == PAD)[0, dropped:]
    begins = [at for at in range(1, len(is_picture)) if is_picture[at] and not is_picture[at - 1]]
    slots = [int((~is_picture[:at]).sum()) for at in begins]
    return states, is_picture, slots


@torch.no_grad()
def main():
    consts = QwenImage21Pipeline.__init__.__code__.co_consts
    assert "Comprehend and analyze the provided prompt." in consts
    model = build(CONFIG, VISION)
    shapes = fill(model, "qwen3vl.")
    pictures = [
        torch.from_numpy((seeded.uniform(f"picture.{at}", (*size, 3)) + 1) / 2) for at, size in enumerate(SIZES)
    ]
    tensors, prompts = {}, []
    for at, picture in enumerate(pictures):
        made = model.model.visual(*patches(picture))
        tensors[f"picture.{at}"] = made.pooler_output[None].contiguous()
        for number, states in enumerate(made.deepstack_features):
            tensors[f"added.{at}.{number}"] = states[None].contiguous()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    for at, (text, numbers) in enumerate(PROMPTS):
        states, is_picture, slots = encode(model, tokenizer, text, [pictures[n] for n in numbers])
        tensors[f"prompt.{at}"] = states.contiguous()
        tensors[f"left.{at}"] = states[:, ~is_picture].contiguous()
        prompts.append([text, numbers, slots])
    config = CONFIG | {"kind": "qwen3_vl", "vision": VISION | {"kind": "qwen3_vl"}}
    metadata = {"config": config, "params": shapes, "sizes": SIZES, "prompts": prompts, "seed": 0}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, prompts, {name: list(t.shape) for name, t in tensors.items()})


if __name__ == "__main__":
    main()
