"""Trains the autoencoder of the tiny checkpoint, and scales its latents to SD 1.x' factor.

    python tools/train_tiny/train_vae.py FOLDER [--minutes 20]

Writes FOLDER/vae.pt. Some pictures have outlined shapes, which no caption names, so that what
fine-tuning adds can be encoded too.
"""

import argparse
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import pictures
from networks import SCALING_FACTOR, build_vae

SEED = 1
KL = 1e-4  # per latent value; small, but enough to keep the latents smooth
RATE = 2e-3
# Parts of the time after which all blocks take part, on pictures of 64, and then on those of 128.
WHOLE, LARGE = 0.8, 0.92


def picture(rng: random.Random, size: int) -> np.ndarray:
    """A picture [size, size, 3], whole or the surroundings of a corner of one of its shapes."""
    side = rng.choice([64, 128, 128, 192]) if size < 128 else size
    scene = pictures.scene(rng, side, side)
    if rng.random() < 0.25:
        scene = pictures.outlined(scene)
    left, top, right, bottom = rng.choice(scene.shapes).box()
    x, y = (
        round(min(max(rng.choice(ends) + rng.uniform(-0.8, -0.2) * size, 0), side - size))
        for ends in [(left, right), (top, bottom)]
    )
    return pictures.draw(scene, finer=3)[y : y + size, x : x + size]


def batch(rng: random.Random, count: int, size: int) -> torch.Tensor:
    """Pictures from -1 to 1."""
    found = pictures.batch_of_bytes([picture(rng, size) for _ in range(count)])
    return torch.from_numpy(found).float() / 127.5 - 1


def loss_of(vae, x):
    """Absolute and squared error of the reconstruction, and the divergence from unit noise."""
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample.float()
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    error = F.l1_loss(y, x)
    return error + F.mse_loss(y, x) + KL * kl, error, kl


def costly_blocks(vae):
    """The residual blocks of high resolution, where most of the time would go."""
    up = vae.decoder.up_blocks
    return [vae.encoder.down_blocks[0].resnets[0], up[2].resnets[1], *up[3].resnets]


def norms_in_f32(vae):
    """Keeps autocast off the norms, whose bf16 kernels are slow."""
    for norm in vae.modules():
        if isinstance(norm, torch.nn.GroupNorm):
            norm.forward = lambda x, n=norm: F.group_norm(
                x.float(), n.num_groups, n.weight, n.bias, n.eps
            )


@torch.no_grad()
def scale_latents(vae, x):
    """Moves shift and scale between the convolutions around the latent: afterwards each channel
    of the mean has mean 0 and deviation 1 / 0.18215, and pictures come out as before."""
    mean = vae.encode(x).latent_dist.mean
    shift, spread = mean.mean((0, 2, 3)), mean.std((0, 2, 3))
    factor = 1 / (SCALING_FACTOR * spread)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] *= factor[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - shift) * factor
    quant.bias[4:] += 2 * factor.log()
    post.bias += post.weight[:, :, 0, 0] @ shift
    post.weight /= factor[None, :, None, None]


@torch.no_grad()
def show(vae, x, path: Path):
    """Pictures above their reconstructions."""
    y = vae.decode(vae.encode(x).latent_dist.mean).sample
    rows = torch.cat([torch.cat(list(x), 2), torch.cat(list(y), 2)], 1)
    bytes_ = ((rows.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    Image.fromarray(bytes_.numpy()).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--start", type=Path, help="weights to go on from: vae-unscaled.pt")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    args.folder.mkdir(parents=True, exist_ok=True)
    held = batch(random.Random(1000), 8, 128)

    vae = build_vae()
    if args.start:
        vae.load_state_dict(torch.load(args.start))
    # Blocks that start as the identity can be left out at first and come in later.
    for block in costly_blocks(vae) if not args.start else []:
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)
    optimizer = torch.optim.AdamW(vae.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.0)
    average = torch.optim.swa_utils.AveragedModel(
        vae, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    norms_in_f32(vae)
    for block in costly_blocks(vae):
        block.forward = lambda x, temb=None: x

    start, step = time.time(), 0
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        if done > WHOLE and "forward" in vars(costly_blocks(vae)[0]):
            print(f"all blocks from step {step} on", flush=True)
            for block in costly_blocks(vae):
                del block.forward
        count, size = (32, 32) if done < WHOLE else (8, 64) if done < LARGE else (2, 128)
        x = batch(rng, count, size)
        rate = RATE * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-5
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            loss, error, kl = loss_of(vae, x)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(vae)
        if step % 100 == 0:
            print(f"{step} {time.time() - start:.0f}s error {error:.4f} kl {kl:.2f}", flush=True)
        if step % 400 == 0:
            show(average.module, held, args.folder / "vae.png")
            torch.save(average.module.state_dict(), args.folder / "vae-unscaled.pt")
        step += 1

    vae = average.module.eval()
    with torch.no_grad():
        before = vae.decode(vae.encode(held).latent_dist.mean).sample
    scale_latents(vae, batch(random.Random(2000), 64, 128))
    with torch.no_grad():
        latents = vae.encode(held).latent_dist
        after = vae.decode(latents.mean).sample
    print(f"{step} steps in {time.time() - start:.0f}s; error on held-out pictures {F.l1_loss(after, held):.4f}")
    print("scaling changed the pictures by", (after - before).abs().max().item())
    print("deviation of scaled latents", (latents.mean * SCALING_FACTOR).std((0, 2, 3)).tolist())
    print("their noise", (latents.std * SCALING_FACTOR).mean((0, 2, 3)).tolist())
    show(vae, held, args.folder / "vae.png")
    torch.save(vae.state_dict(), args.folder / "vae.pt")


if __name__ == "__main__":
    main()
