"""The language model of Qwen3-VL as the text encoder of Krea 2 and of Qwen-Image 2.1 against transformers and diffusers: a tiny configuration, seeded
weights (see seeded.py), and the real tokenizer.

    python tools/reference/make_krea2_text.py FOLDER    # the folder of make_qwen_tokens.py

Writes crates/models/tests/fixtures/qwen3vl.safetensors:
    states.N      the hidden states behind N layers, for the seeded token ids below
    krea2.I       what Krea2Pipeline gives for the I-th prompt, padding left out, the layers of a token side by side
    qwen21.I      what QwenImage21Pipeline gives for it
and in the metadata the configuration, the parameters with their shapes, the token ids and the prompts.
"""

import json
import pathlib
import sys

import seeded
import torch
from diffusers import Krea2Pipeline, QwenImage21Pipeline
from safetensors.torch import save_file
from transformers import AutoTokenizer, Qwen3VLTextConfig, Qwen3VLTextModel

OUT = pathlib.Path(__file__).parents[2] / "crates/models/tests/fixtures/qwen3vl.safetensors"
CONFIG = dict(
    kind="qwen3_vl", vocab_size=151_936, width=24, layers=6, heads=4, kv_heads=2, head_dim=12, intermediate=56
)
# As Krea 2 reads layers 2, 5, … 35 of 36.
READ = (2, 5)
LENGTH = 40
PROMPTS = ["a photo of a cat", "An astronaut (riding:1.3) a horse, 8k;\nnaïve café, 一匹马 “quoted” — ok", ""]


def build(config=CONFIG):
    return Qwen3VLTextModel(
        Qwen3VLTextConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["width"],
            num_hidden_layers=config["layers"],
            num_attention_heads=config["heads"],
            num_key_value_heads=config["kv_heads"],
            head_dim=config["head_dim"],
            intermediate_size=config["intermediate"],
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": [2, 2, 2],
                "mrope_interleaved": True,
            },
            rms_norm_eps=1e-6,
            attn_implementation="eager",
        )
    ).eval()


@torch.no_grad()
def encode(model, tokenizer, prompt):
    class Pipeline:
        text_encoder, text_encoder_select_layers = model, READ
        prompt_template_encode_start_idx, prompt_template_encode_num_suffix_tokens = 34, 5

    template = Krea2Pipeline.__init__.__code__.co_consts
    prefix = next(text for text in template if isinstance(text, str) and text.startswith("<|im_start|>system"))
    Pipeline.prompt_template_encode_prefix = prefix
    Pipeline.prompt_template_encode_suffix = "<|im_end|>\n<|im_start|>assistant\n"
    Pipeline.tokenizer = staticmethod(tokenizer)
    states, mask = Krea2Pipeline.get_text_hidden_states(Pipeline, prompt, 512, "cpu")
    return states[mask][None].flatten(2)


SYSTEM = "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"


@torch.no_grad()
def encode_for_qwen_image21(model, tokenizer, prompt):
    class Encoder:
        # Where the pipeline looks for the final norm, which it switches off.
        def __init__(self):
            self.model = model

        def __call__(self, **inputs):
            return model(**inputs)

    class Pipeline:
        _extract_masked_hidden = QwenImage21Pipeline._extract_masked_hidden
        text_encoder = Encoder()
        prompt_template_t2i = SYSTEM + "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
        _drop_idx, _img_token_id = len(tokenizer.encode(SYSTEM)), tokenizer.convert_tokens_to_ids("<|image_pad|>")

    Pipeline.processor = staticmethod(tokenizer)
    template = QwenImage21Pipeline.__init__.__code__.co_consts
    assert "Comprehend and analyze the provided prompt." in template
    states, mask, is_picture = QwenImage21Pipeline._get_qwen_prompt_embeds(Pipeline(), prompt, None, "cpu")
    assert mask.all() and not is_picture.any()
    return states


def main():
    model = build()
    shapes = seeded.fill(model, lambda key: f"qwen3vl.model.{key}")
    tensors = {}
    ids = [int((value + 1) / 2 * 151_643) for value in seeded.uniform("ids", (LENGTH,))]
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for layers, state in enumerate(states[:-1]):
        tensors[f"states.{layers}"] = state.contiguous()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    for number, prompt in enumerate(PROMPTS):
        tensors[f"krea2.{number}"] = encode(model, tokenizer, prompt).contiguous()
        tensors[f"qwen21.{number}"] = encode_for_qwen_image21(model, tokenizer, prompt).contiguous()
    metadata = {"config": CONFIG, "params": shapes, "ids": ids, "prompts": PROMPTS, "seed": 0}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, {name: list(t.shape) for name, t in tensors.items()})


if __name__ == "__main__":
    main()
