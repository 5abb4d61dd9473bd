"""Trains a LoRA for the tiny checkpoint, in whose pictures all shapes are outlined.

    python tools/train_tiny/train_lora.py CHECKPOINT OUT.safetensors [--minutes 6]

Captions are those of full shapes: the patch changes the style, no word asks for it. It holds every
linear layer and 1x1 convolution of the UNet's transformers and the 3x3 convolutions of its residual
blocks, named as kohya's sd-scripts does: `lora_unet_`, the path in diffusers' UNet with underscores,
then `.lora_down.weight` [rank, in, ...], `.lora_up.weight` [out, rank, ...] and `.alpha`.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from peft import LoraConfig
from safetensors.torch import save_file

import pictures
from networks import SCHEDULE, Words, load
from train_diffusion import batch, noise_error

SEED = 5
RANK, ALPHA = 8, 8
RATE = 2e-3
SIZE, COUNT = 128, 8
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
LAYERS += ["conv1", "conv2"]


def kohya(unet) -> dict[str, torch.Tensor]:
    """The patch under kohya's names, in f16."""
    found = {}
    for name, module in unet.named_modules():
        if hasattr(module, "lora_A"):
            key = "lora_unet_" + name.replace(".", "_")
            found[f"{key}.lora_down.weight"] = module.lora_A["default"].weight
            found[f"{key}.lora_up.weight"] = module.lora_B["default"].weight
            found[f"{key}.alpha"] = torch.tensor(float(ALPHA))
    return {key: value.detach().half().contiguous() for key, value in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    text, unet, _ = load(args.checkpoint)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=LAYERS))
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, RATE, betas=(0.9, 0.99), weight_decay=0.0)
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
    words = Words()
    start, step, losses = time.time(), 0, []
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        latents, tokens = batch(rng, words, SIZE, SIZE, COUNT, change=pictures.outlined)
        loss = noise_error(unet, alphas, latents, text(tokens).last_hidden_state)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if step % 50 == 0:
            print(f"{step} {time.time() - start:.0f}s loss {np.mean(losses[-50:]):.4f}", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    seconds = round(time.time() - start)
    notes = {
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(RANK),
        "ss_network_alpha": str(ALPHA),
        "modelspec.title": "outlined shapes",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.license": "MIT OR Apache-2.0",
        "training": json.dumps({"steps": step, "seconds": seconds}),
    }
    save_file(kohya(unet), args.out, notes)
    print(f"{step} steps in {seconds}s; {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
