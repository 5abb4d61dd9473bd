"""Gemma 2 as Lumina 2's text encoder against transformers, and its tokenizer against SentencePiece: a tiny configuration,
seeded weights (see seeded.py), and small vocabularies that are trained here as Gemma's is.

    pip install sentencepiece==0.2.3
    python tools/reference/make_gemma2.py

Writes
    crates/test-support/data/gemma.model.gz: a SentencePiece model of byte-pair encoding with Gemma's settings: special tokens,
        blanks as they are, bytes for what no piece covers, pieces that are taken out as they are
    crates/models/tests/fixtures/gemma_tokens.json.gz: for three models (that one; one that has rules of normalising, has no
        bytes and puts a blank before a text; the first with half of its pieces unused) their bytes, where they are not the file
        above, and for the texts of qwen_tokens.json.gz the ids by the SentencePiece library, or the hash of them
    crates/models/tests/fixtures/gemma2.safetensors:
        states.N      the hidden states behind N layers, for the seeded token ids below
        lumina2.I     what ComfyUI's rules make of the I-th prompt: the states behind the last layer but one, weights moving
                      them away from those of a text that begins and is padded with what nothing sees
    and in the metadata the configuration, the parameters with their shapes, the token ids, and the prompts with their parts.

Attention's scores are not capped (`attn_logit_softcapping`), as in ComfyUI. Needs torch, transformers, sentencepiece.
"""

import base64
import gzip
import io
import json
import tempfile
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import Gemma2Config, Gemma2Model

import make_qwen_tokens
import seeded

ROOT = Path(__file__).parents[2] / "crates"
VOCABULARY = ROOT / "test-support/data/gemma.model.gz"
TOKENS = ROOT / "models/tests/fixtures/gemma_tokens.json.gz"
OUT = ROOT / "models/tests/fixtures/gemma2.safetensors"
PIECES = 2048
GEMMA = dict(
    byte_fallback=True,
    normalization_rule_name="identity",
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    allow_whitespace_only_pieces=True,
    split_digits=True,
    pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
    control_symbols=["<start_of_turn>", "<end_of_turn>"],
    user_defined_symbols=["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<table>", "[@BOS@]"],
)  # fmt: skip
# What the second model normalises; some rules are beginnings of others.
RULES = [
    ("e\u0301", "é"), ("ﬁ", "fi"), ("\u212b", "å"), ("\t", " "), ("\n", " "), ("\u3000", " "), ("\u00a0", " "),
    ("１", "1"), ("２", "2"), ("３", "3"), ("ab", "b"), ("aba", "c"), ("...", "…"), ("\r", ""), ("“", '"'), ("”", '"'),
]  # fmt: skip
CONFIG = dict(kind="gemma2", vocab_size=PIECES, width=24, layers=4, heads=2, kv_heads=1, head_dim=256, intermediate=56)
LENGTH = 90
# Prompts as they are written, and the parts of one weight that they consist of.
PROMPTS = [
    ("", []),
    ("You draw. <Prompt Start> a photo of a cat", [("You draw. <Prompt Start> a photo of a cat", 1.0)]),
    (
        "An  astronaut (riding:1.3) a horse\n\n(naïve café, 一匹马:0.6) “quoted”",
        [("An  astronaut ", 1.0), ("riding", 1.3), (" a horse\n\n", 1.0), ("naïve café, 一匹马", 0.6), (" “quoted”", 1.0)],
    ),
]


def train(**settings):
    texts = [text for text in list(make_qwen_tokens.texts())[:900] if len(text) < 400 and text.strip()]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=out,
        model_type="bpe",
        character_coverage=0.98,
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    return out.getvalue()


def number(value):
    """A whole number as protocol buffers write it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def with_unused(model):
    """The model with every other piece of more than one character unused. Pieces are its first fields; that they are unused
    (type, field 3: 5) is written behind what else is said of them."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    at, out = 0, b""
    for id in range(processor.get_piece_size()):
        assert model[at] == 1 << 3 | 2 and model[at + 1] < 0x80
        piece = model[at + 2 : at + 2 + model[at + 1]]
        at += 2 + len(piece)
        plain = not (processor.is_control(id) or processor.is_unknown(id) or processor.is_byte(id))
        if plain and id % 2 == 0 and len(processor.id_to_piece(id)) > 1:
            piece += bytes([3 << 3, 5])
        out += model[:1] + number(len(piece)) + piece
    return sentencepiece.SentencePieceProcessor(model_proto=out + model[at:])


def tokens():
    model = train(vocab_size=PIECES, **GEMMA)
    VOCABULARY.write_bytes(gzip.compress(model, 9, mtime=0))
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        code = lambda text: " ".join(f"{ord(c):X}" for c in text)
        rules.write_text("".join(f"{code(before)}\t{code(after)}\n" for before, after in RULES))
        settings = dict(vocab_size=1400, user_defined_symbols=["<table>", "猫"], normalization_rule_tsv=str(rules))
        other = sentencepiece.SentencePieceProcessor(model_proto=train(**settings))
    processors = [sentencepiece.SentencePieceProcessor(model_proto=model), other, with_unused(model)]
    rows = []
    for number, processor in enumerate(processors):
        ids = []
        for at, text in enumerate(make_qwen_tokens.texts()):
            found = processor.encode(text)
            joined = b"".join(i.to_bytes(4, "little") for i in found)
            ids.append(found if at < make_qwen_tokens.WHOLE else str(make_qwen_tokens.fnv1a64(joined)))
        stored = base64.b64encode(processor.serialized_model_proto()).decode() if number else None
        rows.append({"model": stored, "ids": ids})
    TOKENS.write_bytes(gzip.compress(json.dumps(rows, separators=(",", ":")).encode(), 9, mtime=0))
    return processors[0]


def build(config=CONFIG):
    return Gemma2Model(
        Gemma2Config(
            vocab_size=config["vocab_size"],
            hidden_size=config["width"],
            num_hidden_layers=config["layers"],
            num_attention_heads=config["heads"],
            num_key_value_heads=config["kv_heads"],
            head_dim=config["head_dim"],
            query_pre_attn_scalar=config["head_dim"],
            intermediate_size=config["intermediate"],
            attn_logit_softcapping=None,
            attn_implementation="eager",
        )
    ).eval()


@torch.no_grad()
def encode(model, processor, parts):
    """The states of a prompt of weighted parts, by ComfyUI's rules."""
    pieces = [(processor.bos_id(), 1.0)]
    pieces += [(id, weight) for text, weight in parts for id in processor.encode(text)]
    run = lambda ids, mask: model(torch.tensor([ids]), attention_mask=mask, output_hidden_states=True).hidden_states[-2][0]
    states = run([id for id, _ in pieces], None)
    count = len(pieces)
    empty = run([processor.bos_id()] + [0] * (count - 1), torch.tensor([[1] + [0] * (count - 1)]))
    for at, (_, weight) in enumerate(pieces):
        if weight != 1.0:
            states[at] = (states[at] - empty[at]) * weight + empty[at]
    return states[None]


def main():
    processor = tokens()
    model = build()
    # Norms multiply with 1 and their weight.
    shapes = seeded.fill(model, lambda key: f"gemma2.model.{key}" if key != "norm.weight" else None)
    tensors = {}
    ids = [int((value + 1) / 2 * PIECES) for value in seeded.uniform("ids", (LENGTH,))]
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for layers, state in enumerate(states[:-1]):
        tensors[f"states.{layers}"] = state.contiguous()
    for number, (_, parts) in enumerate(PROMPTS):
        tensors[f"lumina2.{number}"] = encode(model, processor, parts).contiguous()
    metadata = {"config": CONFIG, "params": shapes, "ids": ids, "prompts": [prompt for prompt, _ in PROMPTS], "seed": 0}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    save_file(tensors, OUT, metadata)
    for path in (VOCABULARY, TOKENS, OUT):
        print(path.name, path.stat().st_size)
    print({name: list(t.shape) for name, t in tensors.items()})


if __name__ == "__main__":
    main()
