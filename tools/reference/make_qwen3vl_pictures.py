"""Qwen3-VL's encoder of pictures, and prompts with pictures for Qwen-Image 2.1 and Krea 2, against transformers: a tiny
configuration, seeded weights and pictures (see seeded.py), and the real tokenizer.

    python tools/reference/make_qwen3vl_pictures.py FOLDER    # the folder of make_qwen_tokens.py

Writes crates/models/tests/fixtures/qwen3vl_pictures.safetensors:
    picture.I       what the encoder makes of the I-th picture
    added.I.N       what it adds to the states behind the language model's layer N
    prompt.I        the states behind the last layer of the I-th prompt, without the norm, from the user's turn on
    left.I          the same without the tokens of pictures
    krea2.I         the states of the I-th prompt for Krea 2, of the layers that it reads, behind the instructions
and in the metadata the configuration, the parameters with their shapes, the pictures' sizes, and the prompts with the numbers
of their pictures and of the tokens that are left before each.

Krea 2's pipeline takes no pictures: ComfyUI puts them at the beginning of the user's turn of its chat, and reads each layer's
states with what pictures add to them, as the next layer does.
"""

import pathlib
import sys

import torch
from diffusers import Krea2Pipeline, QwenImage21Pipeline
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration

import qwen_vl_pictures as vl
from qwen_vl_pictures import PAD, PICTURE, fill, pictures, write

OUT = pathlib.Path(__file__).parents[2] / "crates/models/tests/fixtures/qwen3vl_pictures.safetensors"
CONFIG = dict(vocab_size=151_936, width=48, layers=6, heads=3, kv_heads=1, head_dim=32, intermediate=56)
VISION = dict(width=32, layers=4, heads=2, intermediate=40, patch_size=16, positions=25, deepstack=3)
# Wider than high; one token high; one that is resized.
SIZES = [[64, 96], [32, 128], [100, 60]]
SYSTEM = "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
PROMPTS = [("make it blue", [2]), ("take the hat of <image2>, 帽子 (now:1.2)", [0, 1, 2])]
# As Krea 2 reads layers 2, 5, … 35 of 36.
READ = (2, 5)


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


def patches(picture):
    """Of a picture [height, width, 3]: its patches and their grid."""
    return vl.patches(picture, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)


@torch.no_grad()
def encode(model, tokenizer, text, pictures):
    """The states of a prompt with pictures from the user's turn on, which of them are of pictures, and how many others are
    before each picture."""
    places = " ".join(f"<image{at + 1}>{PICTURE}" for at in range(len(pictures)))
    chat = f"{SYSTEM}<|im_start|>user\n{places}{text}<|im_end|>\n<|im_start|>assistant\n"
    given = vl.inputs(tokenizer, chat, [patches(picture) for picture in pictures])
    # As the pipeline switches the final norm off.
    handle = model.model.language_model.norm.register_forward_hook(lambda module, args, output: args[0])
    states = model(**given, output_hidden_states=True).hidden_states[-1]
    handle.remove()
    dropped = len(tokenizer(SYSTEM)["input_ids"])
    states, is_picture = states[:, dropped:], (given["input_ids"] == PAD)[0, dropped:]
    begins = [at for at in range(1, len(is_picture)) if is_picture[at] and not is_picture[at - 1]]
    slots = [int((~is_picture[:at]).sum()) for at in begins]
    return states, is_picture, slots


@torch.no_grad()
def encode_for_krea2(model, tokenizer, text, pictures):
    """The states of a prompt with pictures behind the instructions, those of the layers side by side."""
    consts = Krea2Pipeline.__init__.__code__.co_consts
    before = next(text for text in consts if isinstance(text, str) and text.startswith("<|im_start|>system"))
    chat = f"{before}{PICTURE * len(pictures)}{text}<|im_end|>\n<|im_start|>assistant\n"
    states = {}
    handles = [
        model.model.language_model.layers[at].register_forward_pre_hook(
            lambda module, args, at=at: states.__setitem__(at, args[0])
        )
        for at in READ
    ]
    model(**vl.inputs(tokenizer, chat, [patches(picture) for picture in pictures]))
    for handle in handles:
        handle.remove()
    return torch.cat([states[at] for at in READ], 2)[:, len(tokenizer(before)["input_ids"]) :]


@torch.no_grad()
def main():
    consts = QwenImage21Pipeline.__init__.__code__.co_consts
    assert "Comprehend and analyze the provided prompt." in consts
    model = build(CONFIG, VISION)
    shapes = fill(model, "qwen3vl.")
    shown = pictures(SIZES)
    tensors, prompts = {}, []
    for at, picture in enumerate(shown):
        made = model.model.visual(*patches(picture))
        tensors[f"picture.{at}"] = made.pooler_output[None].contiguous()
        for number, states in enumerate(made.deepstack_features):
            tensors[f"added.{at}.{number}"] = states[None].contiguous()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    for at, (text, numbers) in enumerate(PROMPTS):
        states, is_picture, slots = encode(model, tokenizer, text, [shown[n] for n in numbers])
        tensors[f"prompt.{at}"] = states.contiguous()
        tensors[f"left.{at}"] = states[:, ~is_picture].contiguous()
        tensors[f"krea2.{at}"] = encode_for_krea2(model, tokenizer, text, [shown[n] for n in numbers]).contiguous()
        prompts.append([text, numbers, slots])
    config = CONFIG | {"kind": "qwen3_vl", "vision": VISION | {"kind": "qwen3_vl"}}
    write(OUT, tensors, config=config, params=shapes, sizes=SIZES, prompts=prompts)


if __name__ == "__main__":
    main()
