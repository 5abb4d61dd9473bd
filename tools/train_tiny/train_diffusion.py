"""Trains the UNet of the tiny checkpoint, on latents of pictures that are drawn as they are needed.

    python tools/train_tiny/train_diffusion.py FOLDER [--minutes 60] [--start CHECKPOINT]

Text encoder and UNet start from CHECKPOINT, or from FOLDER/text.pt and nothing. The text encoder
learns with `--words` only. Keeps FOLDER/diffusion.pt, whose averaged weights `assemble.py` takes.
"""

import argparse
import copy
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler

import pictures
from networks import SCHEDULE, Words, build_text_encoder, build_unet, load

SEED = 2
RATE = 1e-3
WITHOUT_CAPTION = 0.12
DECAY = 0.998  # of the averaged weights
# Sizes of pictures, how many are a batch, and how often they are drawn: in the first part of the time,
# and then. Small pictures cost little and teach the words.
SIZES = {
    (64, 64): (16, 0.5, 0.1),
    (128, 128): (8, 0.5, 0.8),
    (192, 128): (5, 0.0, 0.03),
    (128, 192): (5, 0.0, 0.03),
    (192, 192): (3, 0.0, 0.04),
}


def batch(rng: random.Random, words: Words, width: int, height: int, count: int, change=lambda scene: scene):
    """Latents of as many pictures, and the tokens of their captions."""
    scenes = [pictures.scene(rng, width, height) for _ in range(count)]
    captions = [
        "" if rng.random() < WITHOUT_CAPTION else pictures.caption(rng, scene) for scene in scenes
    ]
    latents = np.stack([pictures.latent(change(scene)) for scene in scenes])
    return torch.from_numpy(latents), words.batch(captions)


def noise_error(unet, alphas, latents, conditioning):
    """The error of the predicted noise; steps with little noise count less (min-SNR,
    https://arxiv.org/abs/2303.09556). The timesteps of a batch are spread evenly."""
    count = len(latents)
    timesteps = ((torch.randperm(count) + torch.rand(count)) * (1000 / count)).long().clamp(max=999)
    alpha = alphas[timesteps][:, None, None, None]
    noise = torch.randn_like(latents)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    predicted = unet(noisy, timesteps, conditioning).sample
    ratio = (alpha / (1 - alpha)).flatten()
    weight = ratio.clamp(max=5.0) / ratio
    return (weight * (predicted - noise).square().mean((1, 2, 3))).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--start", type=Path, help="a checkpoint whose weights to start from")
    parser.add_argument("--first", type=float, default=0.35, help="part of the time with more small pictures")
    parser.add_argument("--rate", type=float, default=RATE, help="the largest step")
    parser.add_argument("--words", action="store_true", help="train the text encoder too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    if args.start:
        text, unet, _ = load(args.start)
    else:
        text, unet = build_text_encoder(), build_unet()
        text.load_state_dict(torch.load(args.folder / "text.pt"))
    text.requires_grad_(args.words), unet.requires_grad_(True)
    words = Words()
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
    averages = [copy.deepcopy(text), copy.deepcopy(unet)]
    parameters = [p for module in (text, unet) for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)

    def keep(seconds: float):
        state = dict(zip(("text", "unet"), (average.state_dict() for average in averages)))
        torch.save(state | {"steps": step, "seconds": round(seconds)}, args.folder / "diffusion.new")
        (args.folder / "diffusion.new").rename(args.folder / "diffusion.pt")

    start, saved, step, losses = time.time(), time.time(), 0, []
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        shares = [first if done < args.first else then for _, first, then in SIZES.values()]
        (width, height), (count, *_) = rng.choices(list(SIZES.items()), shares)[0]
        latents, tokens = batch(rng, words, width, height, count)
        loss = noise_error(unet, alphas, latents, text(tokens).last_hidden_state)
        for group in optimizer.param_groups:
            warm = min(1, (step + 1) / 50)
            group["lr"] = args.rate * warm * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        decay = min(DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, module in zip(averages, (text, unet)):
                for slow, fast in zip(average.parameters(), module.parameters()):
                    slow.lerp_(fast, 1 - decay)
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"{step} {time.time() - start:.0f}s loss {np.mean(losses[-100:]):.4f}", flush=True)
        if time.time() - saved > 180:
            keep(time.time() - start)
            saved = time.time()
    keep(time.time() - start)
    print(f"{step} steps in {time.time() - start:.0f}s")


if __name__ == "__main__":
    main()
