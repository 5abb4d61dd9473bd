"""Texts and their token ids by T5's tokenizer as it comes with SD3 and Flux.

    pip install tokenizers transformers sentencepiece protobuf
    pip download --no-deps diffsynth==1.1.7 && unzip diffsynth-1.1.7*.whl -d diffsynth
    python tools/reference/make_t5_tokens.py diffsynth/diffsynth/tokenizer_configs/flux/tokenizer_2

The folder holds T5 v1.1's `tokenizer.json` and `spiece.model`. The reference is `tokenizers` with that
file, whose `Metaspace` is set to write `▁` before the first word only: the files that come with ComfyUI and
diffusers say `first`, and differ from `always` only behind special tokens. Beside it are asked SentencePiece
itself, and transformers' T5Tokenizer made of the same vocabulary; where one of these differs is printed.

Writes crates/models/tests/fixtures/t5_tokens.json.gz: [[text, [id, …]], …], without the end token.
"""

import gzip
import json
import pathlib
import random
import sys
import unicodedata

import make_tokens
import sentencepiece
from tokenizers import Tokenizer, pre_tokenizers
from transformers import T5TokenizerFast

OUT = pathlib.Path(__file__).parents[2] / "crates/models/tests/fixtures/t5_tokens.json.gz"
END = 1

FIXED = [
    "<pad>",
    "a <pad> b</s>c <unk>d",
    "<extra_id_0>cat <extra_id_99> dog<extra_id_100>",
    " leading", "trailing ", "  two  spaces  ", "tab\tnew\nline\r\nreturn", "\u3000wide\u3000blank\u3000",
    "▁meta▁space ▁ ▁▁", "a ▁b", "zero\u200bwidth \u200d joiner\ufeff mark",
    "ﬁne ﬂow Ⅳ ½ ²³ ℌ ㎏ ㍿ ｆｕｌｌ ｗｉｄｔｈ ﾊﾝｶｸ ｶﾞ ﾊﾟ",
    "e\u0301 n\u0303 o\u0308 A\u030a \u1100\u1161\u11a8 \u0e4d\u0e32 \u0935\u093c",
    "नमस्ते दुनिया", "ไทยแลนด์ น้ำ", "བོད་ཡིག", "ქართული", "Հայերեն", "አማርኛ", "ខ្មែរ", "မြန်မာ", "සිංහල", "தமிழ்",
    "日本語のテキスト、句読点。「引用」", "한국어 문장입니다.", "العَرَبِيَّة النص", "עִבְרִית", "Ελληνικά ΟΔΥΣΣΕΥΣ", "Привет, мир!",
    "👨‍👩‍👧‍👦 family", "🏳️‍🌈 🇩🇪 👍🏽 ❤️", "𝕳𝖊𝖑𝖑𝖔 𝟙𝟚𝟛", "\U0001f600" * 20,
    "don't can't l'été d'accord", "Donaudampfschifffahrtsgesellschaft", "x" * 300, "the " * 300,
    "1234567890 3.14159 1e-5 0x1F 2nd", "a_b-c.d,e;f:g!h?i/j\\k", "\x00\x01 control \x7f\x85 chars",
    "\u0130ıi ŉ ǰ ẞ ß", "１２３ ①②③ ٣٤ ४५", "…—–“”‘’™©", "a\u00a0b\u2003c\u2028d\u2029e\u1680f",
    "Photo réaliste d’une forêt, brume du matin, lumière dorée", "Ein Bild von zwei Hunden auf der Straße",
    "un tablou cu o casă lângă lac", "a photo of a cat, " * 40,
]  # fmt: skip


def texts():
    """Those above, those of CLIP's fixture, and random ones over many scripts; reproducible."""
    rng = random.Random(20)
    words = make_tokens.WORDS + [word for text in FIXED for word in text.split()]
    yield from dict.fromkeys(FIXED + make_tokens.FIXED)
    for _ in range(150):
        blanks = rng.choice([" ", " ", " ", ", ", "  ", "\n", ""])
        yield blanks.join(rng.choices(words, k=rng.randint(1, 25)))
    letters = [chr(c) for c in range(1, 0x2FFFF) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    for _ in range(250):
        start = rng.randrange(len(letters))
        near = letters[start : start + rng.choice([30, 300, len(letters)])]
        yield "".join(rng.choices(near + [" "] * (len(near) // 8 + 1), k=rng.randint(1, 30)))


def main(folder):
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    fast = T5TokenizerFast.from_pretrained(folder)
    cases = []
    differs = {"sentencepiece": [], "transformers": []}
    for text in texts():
        ids = reference.encode(text, add_special_tokens=False).ids
        if sp.encode(text) != ids:
            differs["sentencepiece"].append(text)
        if fast(text)["input_ids"] != [*ids, END]:
            differs["transformers"].append(text)
        cases.append((text, ids))
    for other, among in differs.items():
        print(len(among), "differ from", other, *(repr(text[:60]) for text in among[:60]), sep="\n  ")
    data = json.dumps(cases, ensure_ascii=False, separators=(",", ":")).encode()
    OUT.write_bytes(gzip.compress(data, 9, mtime=0))
    print(len(cases), "texts,", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
