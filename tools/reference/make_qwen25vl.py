"""Qwen2.5-VL as a text encoder against transformers and diffusers: a tiny configuration, seeded weights (see seeded.py), and
the real tokenizer.

    python tools/reference/make_qwen25vl.py FOLDER    # the folder of make_qwen_tokens.py

Writes crates/models/tests/fixtures/qwen25vl.safetensors:
    states.N        the hidden states behind N layers, for the seeded token ids below
    last            those behind the final norm
    qwen_image.I    what QwenImagePipeline makes of the I-th prompt
and in the metadata the configuration, the parameters with their shapes, the token ids and the prompts.
"""

import json
import pathlib
import sys

import seeded
import torch
from diffusers import QwenImagePipeline
from safetensors.torch import save_file
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

OUT = pathlib.Path(__file__).parents[2] / "crates/models/tests/fixtures/qwen25vl.safetensors"
CONFIG = dict(vocab_size=151_936, width=48, layers=3, heads=3, kv_heads=1, head_dim=16, intermediate=56)
LENGTH = 90
PROMPTS = ["a photo of a cat", "An astronaut (riding:1.3) a horse, 8k;\nnaïve café, 一匹马 “quoted” — ok"]
NAME = "qwen25vl.model."


def build(width, layers, heads, intermediate):
    """A model whose language model is filled by names below a prefix."""
    text = dict(
        vocab_size=CONFIG["vocab_size"],
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=1,
        intermediate_size=intermediate,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [2, 3, 3]},
        bos_token_id=151_643,
        eos_token_id=151_645,
    )
    vision = dict(depth=1, hidden_size=32, intermediate_size=40, num_heads=2, out_hidden_size=width)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, attn_implementation="eager")
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def main():
    model = build(CONFIG["width"], CONFIG["layers"], CONFIG["heads"], CONFIG["intermediate"])
    shapes = seeded.fill(model.model.language_model, lambda key: NAME + key)
    tensors = {}
    ids = [int((value + 1) / 2 * 151_643) for value in seeded.uniform("ids", (LENGTH,))]
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for layers, state in enumerate(states[:-1]):
        tensors[f"states.{layers}"] = state.contiguous()
    tensors["last"] = states[-1].contiguous()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    pipeline = QwenImagePipeline(None, None, model, tokenizer, None)
    for number, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            embeds, mask = pipeline._get_qwen_prompt_embeds([prompt], "cpu")
        assert mask is None or mask.all()
        tensors[f"qwen_image.{number}"] = embeds.contiguous()
    config = CONFIG | {"kind": "qwen25_vl"}
    metadata = {"config": config, "params": shapes, "ids": ids, "prompts": PROMPTS, "seed": 0}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, {name: list(t.shape) for name, t in tensors.items()})


if __name__ == "__main__":
    main()
