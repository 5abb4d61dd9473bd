"""The networks of the tiny Flux checkpoint, in the one-file layout of Flux.1.

The transformer is written out here, in the names and the order of operations of the original
(black-forest-labs/flux, `flux/model.py` and `flux/modules/layers.py`), because training wants two things
that diffusers' class does not have: one padding token that stands for many, and a loop over one head
without the copies of many. `check.py` compares it with diffusers' `FluxTransformer2DModel`.
"""

import functools
import gzip
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from sentencepiece import SentencePieceProcessor
from torch import nn
from transformers import T5Config, T5EncoderModel

sys.path.insert(0, str(Path(__file__).parents[1] / "train_tiny"))
import pictures  # noqa: E402

VOCABULARY = Path(__file__).parents[2] / "crates/models/data/t5/spiece.model.gz"
T5_LENGTH = 256  # to which ComfyUI pads Flux's T5 tokens
T5_END, T5_PAD = 1, 0
T5_WIDTH = 64
WIDTH = 128  # Flux's heads are 128 wide, so there is one
HEAD = 128
AXES = (16, 56, 56)  # of a head's width, for an unused axis, rows and columns
DOUBLE, SINGLE = 2, 6
CLIP_WIDTH = 64
CHANNELS, PATCH = 16, 2
SCALE, SHIFT = 0.3611, 0.1159  # of Flux's latents


def build_t5() -> T5EncoderModel:
    """T5 1.1's architecture and vocabulary, two layers, one head."""
    model = T5EncoderModel(
        T5Config(
            vocab_size=32128,
            d_model=T5_WIDTH,
            d_kv=64,
            d_ff=2 * T5_WIDTH,
            num_layers=2,
            num_heads=1,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )
    # Words that training never sees keep these values; equal sizes take up less room when compressed.
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table.copy_(0.5 * table.sign())
    return model


def t5_states(t5: T5EncoderModel, tokens: torch.Tensor, length: int = T5_LENGTH) -> torch.Tensor:
    """The last hidden states [batch, tokens, width], without a mask.

    The last token of each row, which is padding, stands for all that follow up to `length`: it weighs in
    attention as they would together.
    """
    block, count = t5.encoder, tokens.shape[1]
    hidden = block.embed_tokens(tokens)
    bias = block.block[0].layer[0].SelfAttention.compute_bias(count, length)
    bias = torch.cat([bias[..., : count - 1], bias[..., count - 1 :].logsumexp(-1, keepdim=True)], -1)
    for layer in block.block:
        norm, attention = layer.layer[0].layer_norm, layer.layer[0].SelfAttention
        x = norm(hidden)
        q, k, v = (part(x)[:, None] for part in (attention.q, attention.k, attention.v))
        # T5 does not divide by the root of the width.
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        hidden = hidden + attention.o(x[:, 0])
        hidden = layer.layer[1](hidden)
    return block.final_layer_norm(hidden)


def wave(at: torch.Tensor, width: int = 256) -> torch.Tensor:
    """Cosines and sines of 1000 times a number of each row."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
    angle = 1000 * at[:, None] * frequencies
    return torch.cat([angle.cos(), angle.sin()], -1)


@functools.cache
def rotations(height: int, width: int, text: int) -> torch.Tensor:
    """The rotary embedding [text + height * width, HEAD / 2] as complex numbers; text is at 0."""
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    image = F.pad(torch.stack([rows, columns], 1).double(), (1, 0))
    ids = torch.cat([torch.zeros(text, 3, dtype=torch.float64), image])
    parts = []
    for axis, size in enumerate(AXES):
        frequencies = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        parts.append(ids[:, axis, None] * frequencies)
    angle = torch.cat(parts, -1)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def turn(x, turns):
    """Rotates neighbouring pairs of channels."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2)


class Scale(nn.Module):
    """RMS norm of a head's queries or keys."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(HEAD))

    def forward(self, x):
        return F.rms_norm(x, (HEAD,), self.scale, 1e-6)


class QkNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.query_norm, self.key_norm = Scale(), Scale()


class Attention(nn.Module):
    """Weights of one stream's attention."""

    def __init__(self):
        super().__init__()
        self.qkv, self.norm, self.proj = nn.Linear(WIDTH, 3 * WIDTH), QkNorm(), nn.Linear(WIDTH, WIDTH)

    def split(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.norm.query_norm(q), self.norm.key_norm(k), v


class Modulation(nn.Module):
    """Shift, scale and gate of each sublayer from the conditioning vector."""

    def __init__(self, parts: int):
        super().__init__()
        self.parts, self.lin = parts, nn.Linear(WIDTH, parts * WIDTH)

    def forward(self, vector):
        return self.lin(F.silu(vector))[:, None].chunk(self.parts, -1)


def modulated(x, shift, scale):
    """The layer norm of x, scaled and shifted."""
    return torch.addcmul(shift, F.layer_norm(x, (WIDTH,), eps=1e-6), 1 + scale)


def attend(q, k, v, turns, bias):
    """Attention with one head."""
    q, k = turn(q, turns), turn(k, turns)
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], attn_mask=bias)[:, 0]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU("tanh"), nn.Linear(4 * WIDTH, WIDTH))


class DoubleBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.img_mod, self.txt_mod = Modulation(6), Modulation(6)
        self.img_attn, self.txt_attn = Attention(), Attention()
        self.img_mlp, self.txt_mlp = mlp(), mlp()

    def forward(self, image, text, vector, turns, bias):
        a, b = self.img_mod(vector), self.txt_mod(vector)
        qkv = zip(
            self.txt_attn.split(modulated(text, b[0], b[1])),
            self.img_attn.split(modulated(image, a[0], a[1])),
        )
        seen = attend(*(torch.cat(pair, 1) for pair in qkv), turns, bias)
        at = text.shape[1]
        text = torch.addcmul(text, b[2], self.txt_attn.proj(seen[:, :at]))
        image = torch.addcmul(image, a[2], self.img_attn.proj(seen[:, at:]))
        text = torch.addcmul(text, b[5], self.txt_mlp(modulated(text, b[3], b[4])))
        image = torch.addcmul(image, a[5], self.img_mlp(modulated(image, a[3], a[4])))
        return image, text


class SingleBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.modulation, self.norm = Modulation(3), QkNorm()
        self.linear1, self.linear2 = nn.Linear(WIDTH, 7 * WIDTH), nn.Linear(5 * WIDTH, WIDTH)

    def forward(self, x, vector, turns, bias):
        shift, scale, gate = self.modulation(vector)
        q, k, v, wide = self.linear1(modulated(x, shift, scale)).split([WIDTH] * 3 + [4 * WIDTH], -1)
        seen = attend(self.norm.query_norm(q), self.norm.key_norm(k), v, turns, bias)
        out = self.linear2(torch.cat([seen, F.gelu(wide, approximate="tanh")], -1))
        return torch.addcmul(x, gate, out)


class Embedder(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(width, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.out_layer(F.silu(self.in_layer(x)))


class LastLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, CHANNELS * PATCH * PATCH)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH))

    def forward(self, x, vector):
        shift, scale = self.adaLN_modulation(vector)[:, None].chunk(2, -1)
        return self.linear(modulated(x, shift, scale))


class Transformer(nn.Module):
    """Flux.1 dev's transformer, one head wide."""

    def __init__(self):
        super().__init__()
        self.img_in = nn.Linear(CHANNELS * PATCH * PATCH, WIDTH)
        self.txt_in = nn.Linear(T5_WIDTH, WIDTH)
        self.time_in, self.guidance_in, self.vector_in = Embedder(256), Embedder(256), Embedder(CLIP_WIDTH)
        self.double_blocks = nn.ModuleList(DoubleBlock() for _ in range(DOUBLE))
        self.single_blocks = nn.ModuleList(SingleBlock() for _ in range(SINGLE))
        self.final_layer = LastLayer()
        # Each block starts as the identity, and the prediction as 0.
        last = [self.final_layer.linear, self.final_layer.adaLN_modulation[1]]
        for module in [*(m.lin for m in self.modules() if isinstance(m, Modulation)), *last]:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, latents, times, states, pooled, guidance, copies: int = 1):
        """The velocity of `latents` [batch, 16, height, width] at `times` (1 is noise).

        The last text state counts `copies` times in what attends to it.
        """
        height, width = latents.shape[2] // PATCH, latents.shape[3] // PATCH
        image = self.img_in(patches(latents))
        text = self.txt_in(states)
        vector = self.time_in(wave(times)) + self.guidance_in(wave(guidance)) + self.vector_in(pooled)
        turns = rotations(height, width, text.shape[1])
        bias = None
        if copies > 1:
            bias = torch.zeros(1, 1, 1, text.shape[1] + height * width)
            bias[..., text.shape[1] - 1] = math.log(copies)
        for block in self.double_blocks:
            image, text = block(image, text, vector, turns, bias)
        x = torch.cat([text, image], 1)
        for block in self.single_blocks:
            x = block(x, vector, turns, bias)
        return unpatched(self.final_layer(x[:, text.shape[1] :], vector), height, width)


def patches(latents):
    """[batch, channels, height, width] as [batch, tokens, channels * 4]."""
    count, channels, height, width = latents.shape
    x = latents.reshape(count, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(count, (height // PATCH) * (width // PATCH), -1)


def unpatched(tokens, height: int, width: int):
    """The reverse of `patches`."""
    x = tokens.reshape(len(tokens), height, width, CHANNELS, PATCH, PATCH)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), CHANNELS, height * PATCH, width * PATCH)


class T5Words:
    """Captions as T5 tokens with the end token, padded with 0."""

    def __init__(self):
        pieces = gzip.decompress(VOCABULARY.read_bytes())
        self.tokenizer, self.known = SentencePieceProcessor(model_proto=pieces), {}

    def ids(self, caption: str) -> list[int]:
        if caption not in self.known:
            self.known[caption] = self.tokenizer.encode(caption) + [T5_END]
        return self.known[caption]

    def batch(self, captions, length: int) -> torch.Tensor:
        rows = [ids + [T5_PAD] * (length - len(ids)) for ids in map(self.ids, captions)]
        return torch.tensor(rows)

    def caption(self, rng, scene, length: int) -> str:
        """A caption that leaves room for at least one padding token."""
        while len(self.ids(found := pictures.caption(rng, scene))) >= length:
            pass
        return found
