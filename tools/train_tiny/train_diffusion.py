"""Trains the UNet and the text encoder of the tiny checkpoint, on latents of its autoencoder.

    python tools/train_tiny/train_diffusion.py FOLDER OUT.safetensors [--minutes 40]

Reads FOLDER/vae.pt and FOLDER/text.pt, writes the checkpoint OUT and keeps FOLDER/diffusion.pt, from which `--resume`
goes on. Most of the time goes into small pictures, which are cheap and teach the words.
"""

import argparse
import copy
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler

import pictures
from networks import SCALING_FACTOR, SCHEDULE, Words, build_text_encoder, build_unet, build_vae, save

SEED = 2
RATE = 1.2e-3
WITHOUT_CAPTION = 0.12
DECAY = 0.996  # of the averaged weights

# Pools of pictures: width, height, how many, batch.
SMALL = [(64, 64, 8000, 32)]
LARGE = [(128, 128, 2000, 12), (192, 128, 250, 8), (128, 192, 250, 8), (192, 192, 150, 5)]
# How often a batch of a size is drawn, first while the small ones lead, then for the large ones.
SHARES_SMALL = [1.0, 0.0, 0.0, 0.0, 0.0]
SHARES_LARGE = [0.25, 0.57, 0.07, 0.07, 0.04]


@torch.no_grad()
def encode_pool(vae, scenes, at_once=16):
    """Scenes of one size, and their latents' mean and deviation, scaled, in f16."""
    means, deviations = [], []
    for at in range(0, len(scenes), at_once):
        drawn = [pictures.draw(scene, finer=3) for scene in scenes[at : at + at_once]]
        x = torch.from_numpy(pictures.batch_of_bytes(drawn)).float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
        means.append((posterior.mean * SCALING_FACTOR).half())
        deviations.append((posterior.std * SCALING_FACTOR).half())
    return scenes, torch.cat(means), torch.cat(deviations)


def pools(folder: Path):
    """All pools, from the cache if there is one."""
    cache = folder / "latents.pt"
    if cache.exists():
        return torch.load(cache, weights_only=False)
    from train_vae import norms_in_f32

    vae = build_vae().eval()
    vae.load_state_dict(torch.load(folder / "vae.pt"))
    norms_in_f32(vae)
    rng = random.Random(SEED)
    start = time.time()
    found = []
    for width, height, count, _ in SMALL + LARGE:
        found.append(encode_pool(vae, [pictures.scene(rng, width, height) for _ in range(count)]))
        print(f"{count} pictures of {width} x {height} encoded, {time.time() - start:.0f}s", flush=True)
    torch.save(found, cache)
    return found


def noise_error(unet, alphas, latents, conditioning):
    """The error of the predicted noise; steps with little noise count less (min-SNR,
    https://arxiv.org/abs/2303.09556)."""
    timesteps = torch.randint(0, 1000, (len(latents),))
    alpha = alphas[timesteps][:, None, None, None]
    noise = torch.randn_like(latents)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    predicted = unet(noisy, timesteps, conditioning).sample
    ratio = (alpha / (1 - alpha)).flatten()
    weight = ratio.clamp(max=5.0) / ratio
    return (weight * (predicted - noise).square().mean((1, 2, 3))).mean()


class Trainer:
    """The networks, their averages, and what a step needs."""

    def __init__(self, folder: Path):
        self.rng = random.Random(SEED)
        self.pools = pools(folder)
        self.batches = [batch for *_, batch in SMALL + LARGE]
        self.words = Words()
        self.unet, self.text = build_unet().train(), build_text_encoder().train()
        self.text.load_state_dict(torch.load(folder / "text.pt"))
        self.averages = [copy.deepcopy(self.unet), copy.deepcopy(self.text)]
        self.optimizer = torch.optim.AdamW(
            [*self.unet.parameters(), *self.text.parameters()],
            RATE,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
        )
        self.alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
        self.step = 0
        self.words_are_fixed = False

    def batch(self, large: bool):
        """Latents, and the tokens of their captions."""
        which = self.rng.choices(range(len(self.pools)), SHARES_LARGE if large else SHARES_SMALL)[0]
        scenes, means, deviations = self.pools[which]
        at = self.rng.sample(range(len(scenes)), self.batches[which])
        captions = [
            "" if self.rng.random() < WITHOUT_CAPTION else pictures.caption(self.rng, scenes[i])
            for i in at
        ]
        means, deviations = means[at].float(), deviations[at].float()
        return means + deviations * torch.randn_like(means), self.words.batch(captions)

    def train_step(self, rate: float, large: bool) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        latents, tokens = self.batch(large)
        with torch.set_grad_enabled(not self.words_are_fixed):
            conditioning = self.text(tokens).last_hidden_state
        loss = noise_error(self.unet, self.alphas, latents, conditioning)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, module in zip(self.averages, (self.unet, self.text)):
                for slow, fast in zip(average.parameters(), module.parameters()):
                    slow.lerp_(fast, 1 - decay)
        return loss.item()

    def new_words(self, weights):
        """Exchanges the text encoder and forgets the optimizer's memory of the old one."""
        self.text.load_state_dict(weights)
        self.averages[1].load_state_dict(weights)
        for parameter in self.text.parameters():
            self.optimizer.state.pop(parameter, None)

    def fix_words(self):
        """Leaves the text encoder as it is from now on, which makes steps cheaper."""
        self.words_are_fixed = True
        self.text.requires_grad_(False)
        self.averages[1].load_state_dict(self.text.state_dict())

    def state(self, seconds: float):
        return {
            "unet": self.unet.state_dict(),
            "text": self.text.state_dict(),
            "averages": [average.state_dict() for average in self.averages],
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": seconds,
        }

    def restore(self, state) -> float:
        self.unet.load_state_dict(state["unet"])
        self.text.load_state_dict(state["text"])
        for average, values in zip(self.averages, state["averages"]):
            average.load_state_dict(values)
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["fused"] = True
        self.step = state["step"]
        self.rng = random.Random(SEED + self.step)
        return state["seconds"]


def export(trainer: Trainer, folder: Path, out: Path, seconds: float):
    """Writes the averaged weights with the autoencoder."""
    vae = build_vae()
    vae.load_state_dict(torch.load(folder / "vae.pt"))
    unet, text = trainer.averages
    notes = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.title": "tiny shapes",
        "modelspec.prediction_type": "epsilon",
        "modelspec.resolution": "128x128",
        "modelspec.license": "MIT OR Apache-2.0",
        "training": json.dumps({"steps": trainer.step, "seconds": round(seconds)}),
    }
    save(out, text, unet, vae, notes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=40, help="of training, without the encoding")
    parser.add_argument("--small", type=float, default=0.55, help="part of the time for small pictures only")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--new-words", action="store_true", help="take FOLDER/text.pt when resuming")
    parser.add_argument("--fix-words", action="store_true", help="train the UNet only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    trainer = Trainer(args.folder)
    kept = args.folder / "diffusion.pt"
    start_of_words = copy.deepcopy(trainer.text.state_dict())
    before = trainer.restore(torch.load(kept)) if args.resume else 0.0
    if args.new_words:
        trainer.new_words(start_of_words)
    if args.fix_words:
        trainer.fix_words()
    start, saved, losses = time.time() - before, time.time(), []
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        rate = RATE * min(1, (trainer.step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        losses.append(trainer.train_step(rate, done > args.small))
        if trainer.step % 100 == 0:
            print(f"{trainer.step} {time.time() - start:.0f}s loss {np.mean(losses[-100:]):.4f}", flush=True)
        if time.time() - saved > 180:
            torch.save(trainer.state(time.time() - start), kept.with_suffix(".new"))
            kept.with_suffix(".new").rename(kept)
            export(trainer, args.folder, args.out, time.time() - start)
            saved = time.time()
    torch.save(trainer.state(time.time() - start), kept)
    export(trainer, args.folder, args.out, time.time() - start)
    print(f"{trainer.step} steps in {time.time() - start:.0f}s; {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
