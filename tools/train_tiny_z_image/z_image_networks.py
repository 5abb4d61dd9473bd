"""The networks of the tiny Z-Image, in the layout of its three files.

The transformer is written out here, in the names and the order of operations of the original, because
diffusers' class takes pictures and prompts one by one, which is slow in training. `check_z_image.py` draws with
diffusers' `ZImageTransformer2DModel` and transformers' `Qwen3Model`.
"""

import functools
import gzip
import math
import sys
from pathlib import Path

import tiktoken
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen3Config, Qwen3Model

sys.path.insert(0, str(Path(__file__).parents[1] / "train_tiny_flux"))
from flux_networks import CHANNELS, PATCH, turn, wave  # noqa: E402  first: it adds the path

import pictures  # noqa: E402

VOCABULARY = Path(__file__).parents[2] / "crates/models/data/qwen/vocabulary.gz"
ROWS = 151_936  # of Qwen3's token table
START, END = 151_644, 151_645  # of a turn of a chat
TEXT_WIDTH, TEXT_LAYERS = 64, 3
WIDTH, HEADS = 128, 4
HEAD = WIDTH // HEADS
AXES = (8, 12, 12)  # of a head's width, for an index, rows and columns: in the proportions of 32, 48 and 48
REFINERS, LAYERS = 1, 6
FEED_FORWARD = WIDTH * 8 // 3
TIME = 1024
MULTIPLE = 32  # of tokens, which learned ones fill up


def build_qwen() -> Qwen3Model:
    """Qwen3's architecture and vocabulary, small. Its token table stays as it is: signs alone, which eight bits hold."""
    model = Qwen3Model(
        Qwen3Config(
            vocab_size=ROWS,
            hidden_size=TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            intermediate_size=2 * TEXT_WIDTH,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            rms_norm_eps=1e-6,
            use_cache=False,
        )
    )
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table.copy_(0.5 * table.sign())
    table.requires_grad_(False)
    return model


def qwen_states(qwen: Qwen3Model, tokens: torch.Tensor) -> torch.Tensor:
    """The states [batch, tokens, width] behind the last layer but one, without the last norm.

    Attention looks back only, so padding behind a text changes nothing of it.
    """
    x = qwen.embed_tokens(tokens)
    turns = qwen.rotary_emb(x, torch.arange(tokens.shape[1])[None])
    ahead = torch.full((tokens.shape[1],) * 2, -math.inf).triu(1)[None, None]
    for layer in qwen.layers[:-1]:
        x = layer(x, attention_mask=ahead, position_embeddings=turns)
    return x


@functools.cache
def rotations(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rotary embeddings [tokens, 1, HEAD / 2] of pictures and of texts of MULTIPLE tokens, as complex numbers.

    A text's tokens count from 1 on; the picture's have the number behind.
    """
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    image = torch.stack([torch.full_like(rows, MULTIPLE + 1), rows, columns], 1)
    text = F.pad(torch.arange(1, MULTIPLE + 1)[:, None], (0, 2))
    found = []
    for ids in (image, text):
        parts = []
        for axis, size in enumerate(AXES):
            frequencies = 256.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
            parts.append(ids[:, axis, None].double() * frequencies)
        angle = torch.cat(parts, -1)[:, None]
        found.append(torch.polar(torch.ones_like(angle), angle).to(torch.complex64))
    return found[0], found[1]


class Norm(nn.RMSNorm):
    def __init__(self, width: int):
        super().__init__(width, eps=1e-5)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.q_norm, self.k_norm = Norm(HEAD), Norm(HEAD)

    def forward(self, x, turns):
        q, k, v = (part.unflatten(-1, (HEADS, HEAD)) for part in self.qkv(x).chunk(3, -1))
        q, k = turn(self.q_norm(q), turns), turn(self.k_norm(k), turns)
        seen = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)))
        return self.out(seen.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w3 = (nn.Linear(WIDTH, FEED_FORWARD, bias=False) for _ in range(2))
        self.w2 = nn.Linear(FEED_FORWARD, WIDTH, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, is_modulated: bool):
        super().__init__()
        self.attention, self.feed_forward = Attention(), FeedForward()
        self.attention_norm1, self.attention_norm2 = Norm(WIDTH), Norm(WIDTH)
        self.ffn_norm1, self.ffn_norm2 = Norm(WIDTH), Norm(WIDTH)
        if is_modulated:
            self.adaLN_modulation = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH))

    def forward(self, x, turns, time=None):
        if time is None:
            x = x + self.attention_norm2(self.attention(self.attention_norm1(x), turns))
            return x + self.ffn_norm2(self.feed_forward(self.ffn_norm1(x)))
        a, b, c, d = self.adaLN_modulation(time)[:, None].chunk(4, -1)
        seen = self.attention(self.attention_norm1(x) * (1 + a), turns)
        x = torch.addcmul(x, b.tanh(), self.attention_norm2(seen))
        fed = self.feed_forward(self.ffn_norm1(x) * (1 + c))
        return torch.addcmul(x, d.tanh(), self.ffn_norm2(fed))


class TimeEmbedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, TIME), nn.SiLU(), nn.Linear(TIME, WIDTH))

    def forward(self, at):
        return self.mlp(wave(at))


class LastLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, CHANNELS * PATCH * PATCH)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x, time):
        return self.linear(F.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + self.adaLN_modulation(time)[:, None]))


class Transformer(nn.Module):
    """Z-Image's transformer, four heads wide."""

    def __init__(self):
        super().__init__()
        self.x_embedder = nn.Linear(CHANNELS * PATCH * PATCH, WIDTH)
        self.cap_embedder = nn.Sequential(Norm(TEXT_WIDTH), nn.Linear(TEXT_WIDTH, WIDTH))
        self.t_embedder = TimeEmbedder()
        self.noise_refiner = nn.ModuleList(Block(True) for _ in range(REFINERS))
        self.context_refiner = nn.ModuleList(Block(False) for _ in range(REFINERS))
        self.layers = nn.ModuleList(Block(True) for _ in range(LAYERS))
        self.x_pad_token, self.cap_pad_token = (nn.Parameter(0.02 * torch.randn(1, WIDTH)) for _ in range(2))
        self.final_layer = LastLayer()
        # Each block that the time modulates starts as the identity, and the prediction as 0.
        gates = [block.adaLN_modulation[0] for block in [*self.noise_refiner, *self.layers]]
        for module in [*gates, self.final_layer.linear, self.final_layer.adaLN_modulation[1]]:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, latents, times, states, counts):
        """The velocity of `latents` [batch, 16, height, width] at `times` (1 is noise).

        Of a caption's states [batch, MULTIPLE, width] the first of `counts` are its; learned ones stand for the others. There
        must be a multiple of MULTIPLE places in the picture.
        """
        height, width = latents.shape[2] // PATCH, latents.shape[3] // PATCH
        time = self.t_embedder(1 - times)
        for_image, for_text = rotations(height, width)
        image = self.x_embedder(patches(latents))
        for block in self.noise_refiner:
            image = block(image, for_image, time)
        own = torch.arange(MULTIPLE)[None] < counts[:, None]
        text = torch.where(own[..., None], self.cap_embedder(states), self.cap_pad_token)
        for block in self.context_refiner:
            text = block(text, for_text)
        x, turns = torch.cat([image, text], 1), torch.cat([for_image, for_text])
        for block in self.layers:
            x = block(x, turns, time)
        # The original predicts the way from noise to picture.
        return -unpatched(self.final_layer(x[:, : height * width], time), height, width)


def patches(latents):
    """[batch, channels, height, width] as [batch, tokens, 4 * channels]."""
    count, channels, height, width = latents.shape
    x = latents.reshape(count, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(count, (height // PATCH) * (width // PATCH), -1)


def unpatched(tokens, height: int, width: int):
    """The reverse of `patches`."""
    x = tokens.reshape(len(tokens), height, width, PATCH, PATCH, CHANNELS)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), CHANNELS, height * PATCH, width * PATCH)


def tokenizer() -> tiktoken.Encoding:
    """Qwen's byte-level tokenizer, made of the program's own vocabulary."""
    packed, ranks, at = gzip.decompress(VOCABULARY.read_bytes()), {}, 0
    while at < len(packed):
        ranks[packed[at + 1 : at + 1 + packed[at]]] = len(ranks)
        at += 1 + packed[at]
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    others = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    return tiktoken.Encoding("qwen", pat_str=f"{words}|{others}", mergeable_ranks=ranks, special_tokens={})


class QwenWords:
    """Captions as tokens of a user's turn of a chat with the beginning of the answer, as Z-Image reads them."""

    def __init__(self):
        self.tokenizer, self.known = tokenizer(), {}

    def ids(self, caption: str) -> list[int]:
        if caption not in self.known:
            plain = lambda text: self.tokenizer.encode(text)
            asked = [START, *plain("user\n" + caption), END, *plain("\n")]
            self.known[caption] = [*asked, START, *plain("assistant\n")]
        return self.known[caption]

    def batch(self, captions) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [batch, MULTIPLE], padded behind, and how many of each row are the caption's."""
        rows = [self.ids(caption) for caption in captions]
        tokens = torch.tensor([ids + [0] * (MULTIPLE - len(ids)) for ids in rows])
        return tokens, torch.tensor([len(ids) for ids in rows])

    def caption(self, rng, scene) -> str:
        """A caption that has room."""
        while len(self.ids(found := pictures.caption(rng, scene))) > MULTIPLE:
            pass
        return found
