"""Mistral Small 3 as Flux.2 dev's text encoder against transformers and diffusers: a tiny configuration, seeded weights (see
seeded.py), and the beginning of the real vocabulary.

    pip download --no-deps mistral_common==1.5.0 && unzip mistral_common-1.5.0-*.whl -d mistral
    python tools/reference/make_mistral.py mistral/mistral_common/data/tekken_240911.json

Writes
    crates/test-support/data/tekken.json.gz: the first tokens of the vocabulary, with the special tokens of the tokenizer's
        version 7, which came with Mistral Small 3
    crates/models/tests/fixtures/tekken_tokens.json.gz: for the texts of qwen_tokens.json.gz the ids, or the hash of them
    crates/models/tests/fixtures/mistral.safetensors:
        states.N      the hidden states behind N layers, for the seeded token ids below
        dev.I         what Flux2Pipeline gives for the I-th prompt, zeros in place of padding's states
    and in the metadata the configuration, the parameters with their shapes, the token ids and the prompts.

Words are cut by the pattern of Llama 3, which the `tokenizer.json` of Mistral Small 3 has and ComfyUI; transformers 5 takes
the vocabulary's own when it converts one.
"""

import gzip
import json
import pathlib
import sys
import tempfile

import make_qwen_tokens
import seeded
import torch
from diffusers import Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2 import format_input
from safetensors.torch import save_file
from transformers import MistralConfig, MistralModel
from transformers.integrations.mistral.tokenizer import MistralConverter

ROOT = pathlib.Path(__file__).parents[2] / "crates"
VOCABULARY = ROOT / "test-support/data/tekken.json.gz"
TOKENS = ROOT / "models/tests/fixtures/tekken_tokens.json.gz"
OUT = ROOT / "models/tests/fixtures/mistral.safetensors"
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS] [IMG] "
    "<pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
).split()
ROWS, COUNT = 4096, 100
LAYERS = 3
CONFIG = dict(
    kind="mistral3", vocab_size=ROWS, width=24, layers=LAYERS, heads=2, kv_heads=1, head_dim=128, intermediate=56
)
LENGTH = 90
PROMPTS = ["a photo of a cat", "An astronaut (riding:1.3) a horse, 8k;\nnaïve café, 一匹马 “quoted” — 12345 ok"]


def vocabulary(source):
    whole = json.loads(pathlib.Path(source).read_text())
    fillers = [f"<SPECIAL_{rank}>" for rank in range(len(SPECIAL), COUNT)]
    special = [
        {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(SPECIAL + fillers)
    ]
    config = whole["config"] | {"default_vocab_size": ROWS, "default_num_special_tokens": COUNT}
    return {"config": config, "vocab": whole["vocab"][: ROWS - COUNT + 5], "special_tokens": special}


def tokenizer(tekken):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tekken.json"
        path.write_text(json.dumps(tekken))
        converter = MistralConverter(str(path))
    converter.pattern = PATTERN
    return converter.converted()


class Chat:
    """Mistral's chat template for instructions and one turn, padded on the left."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def text(self, conversation):
        system, user = (message["content"][0]["text"] for message in conversation)
        return f"<s>[SYSTEM_PROMPT]{system}[/SYSTEM_PROMPT][INST]{user}[/INST]"

    def apply_chat_template(self, conversations, max_length, **_):
        rows = [self.tokenizer.encode(self.text(one), add_special_tokens=False).ids for one in conversations]
        ids = [[11] * (max_length - len(row)) + row for row in rows]
        mask = [[0] * (max_length - len(row)) + [1] * len(row) for row in rows]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def build(config=CONFIG):
    return MistralModel(
        MistralConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["width"],
            num_hidden_layers=config["layers"],
            num_attention_heads=config["heads"],
            num_key_value_heads=config["kv_heads"],
            head_dim=config["head_dim"],
            intermediate_size=config["intermediate"],
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000_000.0},
            rms_norm_eps=1e-5,
            sliding_window=None,
            attn_implementation="eager",
        )
    ).eval()


@torch.no_grad()
def encode(model, chat, prompt):
    """The context of a prompt: three layers' states, with ComfyUI's zeros for the padding."""
    layers = model.config.num_hidden_layers
    read = (layers // 3, 2 * layers // 3, layers)
    # transformers puts the final norm behind the last layer's states; Flux.2's last layer is one before it.
    behind, model.norm = model.norm, torch.nn.Identity()
    states = Flux2Pipeline._get_mistral_3_small_prompt_embeds(model, chat, prompt, device="cpu", hidden_states_layers=read)
    model.norm = behind
    ids = chat.tokenizer.encode(chat.text(format_input([prompt])[0]), add_special_tokens=False).ids
    states[:, : states.shape[1] - len(ids)] = 0
    return states, len(ids)


def main():
    tekken = vocabulary(sys.argv[1])
    data = json.dumps(tekken, separators=(",", ":")).encode()
    VOCABULARY.write_bytes(gzip.compress(data, 9, mtime=0))
    tokens = tokenizer(tekken)
    rows = []
    for number, text in enumerate(make_qwen_tokens.texts()):
        ids = tokens.encode(text, add_special_tokens=False).ids
        joined = b"".join(i.to_bytes(4, "little") for i in ids)
        rows.append(ids if number < make_qwen_tokens.WHOLE else str(make_qwen_tokens.fnv1a64(joined)))
    TOKENS.write_bytes(gzip.compress(json.dumps(rows, separators=(",", ":")).encode(), 9, mtime=0))
    model = build()
    shapes = seeded.fill(model, lambda key: f"mistral3.model.{key}" if key != "norm.weight" else None)
    tensors = {}
    ids = [int((value + 1) / 2 * ROWS) for value in seeded.uniform("ids", (LENGTH,))]
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for layers, state in enumerate(states[:-1]):
        tensors[f"states.{layers}"] = state.contiguous()
    shown = []
    for number, prompt in enumerate(PROMPTS):
        states, count = encode(model, Chat(tokens), prompt)
        # The last of the zeros, and all of the text.
        tensors[f"dev.{number}"] = states[:, -count - 4 :].contiguous()
        shown.append(count)
    metadata = {"config": CONFIG, "params": shapes, "ids": ids, "prompts": PROMPTS, "tokens": shown, "seed": 0}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    save_file(tensors, OUT, metadata)
    for path in (VOCABULARY, TOKENS, OUT):
        print(path.name, path.stat().st_size)
    print(len(rows), {name: list(t.shape) for name, t in tensors.items()}, shown)


if __name__ == "__main__":
    main()
