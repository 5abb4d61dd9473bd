"""Qwen3 as a text encoder against transformers: a tiny configuration, seeded weights (see seeded.py), and the real
tokenizer.

    python tools/reference/make_qwen3.py FOLDER    # the folder of make_qwen_tokens.py

Writes crates/models/tests/fixtures/qwen3.safetensors:
    states.N      the hidden states behind N layers, for the seeded token ids below
    z_image.I     what ZImagePipeline.encode_prompt gives for the I-th prompt
    klein.I       what Flux2KleinPipeline.encode_prompt gives, its last padding left out
and in the metadata the configuration, the parameters with their shapes, the token ids and the prompts.
"""

import json
import pathlib
import sys

import seeded
import torch
from diffusers import Flux2KleinPipeline, ZImagePipeline
from safetensors.torch import save_file
from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

OUT = pathlib.Path(__file__).parents[2] / "crates/models/tests/fixtures/qwen3.safetensors"
# Heads that are together wider than the states.
CONFIG = dict(vocab_size=151_936, width=24, layers=4, heads=4, kv_heads=2, head_dim=10, intermediate=56)
LENGTH = 90
PROMPTS = ["a photo of a cat", "An astronaut (riding:1.3) a horse, 8k;\nnaïve café, 一匹马 “quoted” — ok"]
# The layers that Klein reads, of this short model.
KLEIN = (1, 2, 3)
# Tokens of Klein's states that are kept behind those of Z-Image's chat: the answer's beginning, and some padding.
SHOWN = 8


def main():
    config = Qwen3Config(
        vocab_size=CONFIG["vocab_size"],
        hidden_size=CONFIG["width"],
        num_hidden_layers=CONFIG["layers"],
        num_attention_heads=CONFIG["heads"],
        num_key_value_heads=CONFIG["kv_heads"],
        head_dim=CONFIG["head_dim"],
        intermediate_size=CONFIG["intermediate"],
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        rms_norm_eps=1e-6,
        attn_implementation="eager",
    )
    model = Qwen3Model(config).eval()
    shapes = seeded.fill(model, lambda key: f"qwen3.model.{key}")
    tensors = {}
    ids = [int((value + 1) / 2 * 151_643) for value in seeded.uniform("ids", (LENGTH,))]
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    # The last ones are behind the final norm.
    for layers, state in enumerate(states[:-1]):
        tensors[f"states.{layers}"] = state.contiguous()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    pipeline = ZImagePipeline(None, None, model, tokenizer, None)
    for number, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            [states], _ = pipeline.encode_prompt(prompt, "cpu", do_classifier_free_guidance=False)
            tensors[f"z_image.{number}"] = states[None].contiguous()
            tensors[f"klein.{number}"] = klein(model, tokenizer, prompt)[:, : states.shape[0] + SHOWN].contiguous()
    metadata = {"config": CONFIG, "params": shapes, "ids": ids, "prompts": PROMPTS, "klein": KLEIN, "seed": 0}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, {name: list(t.shape) for name, t in tensors.items()})


def klein(model, tokenizer, prompt):
    states = Flux2KleinPipeline._get_qwen3_prompt_embeds(
        model, tokenizer, prompt, device="cpu", max_sequence_length=512, hidden_states_layers=KLEIN
    )
    return states


if __name__ == "__main__":
    main()
