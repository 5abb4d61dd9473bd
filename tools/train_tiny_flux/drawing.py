"""Draws the hundred prompts of `tools/train_tiny` with networks that predict a flow's velocity, and judges the pictures.

Euler over ComfyUI's `simple` schedule, 20 steps, guided by the empty prompt. The networks are the caller's.
"""

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "train_tiny"))
from check import judge, sheet, wanted_hundred  # noqa: E402

STEPS = 20
SHAPE = 16, 16, 16  # of a latent


def simple(shifted: list[float]) -> list[float]:
    """ComfyUI's `simple` schedule: every (len / steps)th of a model's times, the largest first."""
    return [shifted[-(1 + int(i * len(shifted) / STEPS))] for i in range(STEPS)] + [0.0]


@torch.no_grad()
def sample(networks, noise, captions, times, cfg: float):
    """Latents for captions, by Euler's method."""
    texts = networks.encode(captions)
    empty = networks.encode([""] * len(captions)) if cfg != 1 else None
    x = noise
    for now, then in zip(times, times[1:]):
        v = networks.velocity(x, now, texts)
        if empty is not None:
            v0 = networks.velocity(x, now, empty)
            v = v0 + cfg * (v - v0)
        x = x + (then - now) * v
    return x


def arguments(description: str) -> argparse.ArgumentParser:
    """What every model's command line may say."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--cfg", type=float, default=2.0, help="against the empty prompt")
    parser.add_argument("--some", type=int, default=100, help="how many of the prompts")
    parser.add_argument("--prompt", help="draw one picture of this, from ComfyUI's noise for the seed")
    parser.add_argument("--picture", type=Path, default=Path("picture.png"))
    return parser


def draw(networks, times, args):
    """Draws one prompt, or judges the hundred.

    `networks` encodes captions, predicts `velocity(x, time, texts)` and decodes latents to bytes [batch, height,
    width, 3].
    """
    torch.set_num_threads(1)
    noises = lambda seed: torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    if args.prompt is not None:
        latents = sample(networks, noises(args.seed)[None], [args.prompt], times, args.cfg)
        Image.fromarray(networks.decode(latents)[0]).save(args.picture)
        return
    asked = wanted_hundred()
    asked = asked[:: len(asked) // args.some]
    images = []
    for at in range(0, len(asked), 10):
        some = asked[at : at + 10]
        noise = torch.stack([noises(args.seed + at + i) for i in range(len(some))])
        latents = sample(networks, noise, [w.prompt for _, w in some], times, args.cfg)
        images += list(networks.decode(latents))
    judge(asked, images)
    if args.sheet:
        sheet(images, args.sheet)
