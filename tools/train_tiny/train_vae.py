"""Trains the autoencoder of the tiny checkpoint towards latents that are known beforehand.

    python tools/train_tiny/train_vae.py {decoder,encoder} FOLDER [--minutes 60] [--start CHECKPOINT]

What the latent of a picture is, `pictures.latent` says: coarse averages of colours. So the decoder
learns to draw the picture of such a latent while the encoder learns to find it and the UNet to make
it, each for itself. The decoder sees latents with noise and draws clean pictures all the same, which
forgives the UNet small errors. Some pictures have outlined shapes, for what fine-tuning adds.

Writes FOLDER/decoder.pt or FOLDER/encoder.pt: the averaged weights of that half.
"""

import argparse
import math
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import pictures
from networks import SCALING_FACTOR, build_vae, load

SEED = 1
RATES = {"decoder": 1e-3, "encoder": 1e-3}
NOISE = 0.35  # the largest deviation of the noise that the decoder sees
DEVIATION = 0.03  # that the encoder says its latents have
DECAY = 0.98
# Parts of the time after which all blocks take part, and after which pictures are whole.
ALL, WHOLE = 0.5, 0.85


def halves(vae):
    """The layers of each half."""
    return {
        "encoder": torch.nn.ModuleList([vae.encoder, vae.quant_conv]),
        "decoder": torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]),
    }


def costly_blocks(vae):
    """The decoder's residual blocks of high resolution, where most of the time would go."""
    up = vae.decoder.up_blocks
    return [up[2].resnets[1], *up[3].resnets]


def scene(rng: random.Random, size: int):
    """A picture of 128 pixels, or a part of it around the edge of a shape."""
    found = pictures.scene(rng, 128, 128)
    if rng.random() < 0.25:
        found = pictures.outlined(found)
    if size == 128:
        return found
    at = rng.choice(found.shapes)
    x, y = (
        round(min(max(centre + rng.uniform(-1.3, 1.3) * at.r - size / 2, 0), 128 - size))
        for centre in (at.x, at.y)
    )
    shapes = tuple(replace(shape, x=shape.x - x, y=shape.y - y) for shape in found.shapes)
    return replace(found, width=size, height=size, shapes=shapes)


def batch(rng: random.Random, count: int, size: int):
    """Pictures from -1 to 1, and their latents."""
    scenes = [scene(rng, size) for _ in range(count)]
    drawn = pictures.batch_of_bytes([pictures.draw(scene, finer=3) for scene in scenes])
    latents = np.stack([pictures.latent(scene) for scene in scenes])
    return torch.from_numpy(drawn).float() / 127.5 - 1, torch.from_numpy(latents)


def decoder_loss(vae, x, latents):
    """Absolute and squared error of the picture of a latent with noise."""
    noise = NOISE * torch.rand(len(x), 1, 1, 1) * torch.randn_like(latents)
    error = vae.decode((latents + noise) / SCALING_FACTOR).sample - x
    return error.abs().mean() + error.square().mean()


def encoder_loss(vae, x, latents):
    """Squared error of the latent, and of the logarithm of its deviation."""
    posterior = vae.encode(x).latent_dist
    error = posterior.mean * SCALING_FACTOR - latents
    deviation = posterior.logvar / 2 - math.log(DEVIATION / SCALING_FACTOR)
    return error.square().mean() + 0.3 * error.abs().mean() + 0.01 * deviation.square().mean()


@torch.no_grad()
def show(vae, part: str, x, latents, path: Path):
    """Pictures above what the half makes of them or of their latents, plain and with noise."""
    if part == "encoder":
        rows = [x, vae.decode(vae.encode(x).latent_dist.mean).sample]
    else:
        noise = 0.2 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
        rows = [x, *(vae.decode(z / SCALING_FACTOR).sample for z in (latents, latents + noise))]
    rows = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    bytes_ = ((rows.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    Image.fromarray(bytes_.numpy()).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=RATES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--start", type=Path, help="a checkpoint whose weights to start from")
    parser.add_argument("--resume", action="store_true", help="go on from FOLDER/PART.pt, all blocks at once")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    args.folder.mkdir(parents=True, exist_ok=True)
    held = batch(random.Random(1000), 8, 128)
    vae = (load(args.start)[2] if args.start else build_vae()).requires_grad_(True)
    half = halves(vae)[args.part]
    if args.resume:
        half.load_state_dict(torch.load(args.folder / f"{args.part}.pt"))
    # These blocks start as the identity, so that they can be left out at first and come in later.
    late = costly_blocks(vae) if args.part == "decoder" and not args.resume else []
    for block in late:
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)
    average = torch.optim.swa_utils.AveragedModel(
        vae, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(DECAY)
    )
    rate = RATES[args.part]
    optimizer = torch.optim.AdamW(half.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    for block in late:
        block.forward = lambda x, temb=None: x
    loss_of = {"decoder": decoder_loss, "encoder": encoder_loss}[args.part]

    def keep():
        torch.save(halves(average.module)[args.part].state_dict(), args.folder / f"{args.part}.pt")
        show(average.module, args.part, *held, args.folder / f"{args.part}.png")

    start, saved, step, losses = time.time(), time.time(), 0, []
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        if done > ALL and late:
            print(f"all blocks from step {step} on", flush=True)
            for block in late:
                del block.forward
            late = []
        count, size = (8, 64) if done < WHOLE else (3, 128)
        for group in optimizer.param_groups:
            warm = min(1, (step + 1) / 50)
            group["lr"] = rate * warm * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        loss = loss_of(vae, *batch(rng, count, size))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(half.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(vae)
        losses.append(loss.item())
        step += 1
        if step % 50 == 0:
            print(f"{step} {time.time() - start:.0f}s {size} loss {np.mean(losses[-50:]):.4f}", flush=True)
        if time.time() - saved > 90:
            keep()
            saved = time.time()
    keep()
    print(f"{step} steps in {time.time() - start:.0f}s")


if __name__ == "__main__":
    main()
