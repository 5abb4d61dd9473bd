"""Generates 100 pictures from the tiny checkpoint with diffusers and judges them.

    python tools/train_tiny/check.py CHECKPOINT [--lora LORA] [--sheet SHEET.png] [--size 128]

Prints the share of right pictures, overall and by what was asked for. `judge.py` says what is right.
With `--lora`, the shapes must be outlined with the patch and full without it.
"""

import argparse
import collections
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

import pictures
from judge import Wanted, faults, hollow, shapes
from networks import SCHEDULE, Words, load

GUIDANCE, STEPS = 2.0, 20


def wanted_hundred(seed: int = 3) -> list[tuple[str, Wanted]]:
    """100 prompts with the group that each belongs to; never twice the same."""
    rng = random.Random(seed)
    found = [
        ("plain", wish("circle", "red", "white")),
        ("plain", wish("square", "blue", "yellow")),
    ]
    for colour, kind in pictures.HELD_OUT_SHAPES:
        for background in rng.sample([b for b in pictures.COLOURS if b != colour], 4):
            if (colour, background) not in pictures.HELD_OUT_BACKGROUNDS:
                found.append(("held-out shape", wish(kind, colour, background)))
    for colour, background in pictures.HELD_OUT_BACKGROUNDS:
        for kind in pictures.SHAPES:
            if (colour, kind) not in pictures.HELD_OUT_SHAPES:
                found.append(("held-out background", wish(kind, colour, background)))
    groups = ["plain"] * 6 + ["place"] * 2 + ["count"] * 2
    while len(found) < 100:
        group = groups[len(found) % len(groups)]
        colour, background = rng.sample(list(pictures.COLOURS), 2)
        kind = rng.choice(pictures.SHAPES)
        if not pictures.allowed(kind, colour, background):
            continue
        count = rng.choice([2, 3]) if group == "count" else 1
        place = rng.choice(list(pictures.PLACES)) if group == "place" else None
        new = group, wish(kind, colour, background, count, place)
        if new not in found:
            found.append(new)
    return found


def wish(kind, colour, background, count=1, place=None) -> Wanted:
    """A prompt and what it means."""
    what = pictures.thing(pictures.Shape(kind, colour, 0, 0, 0))
    if count > 1:
        what = f"{pictures.NUMBERS[count]} {colour} {kind}s"
    where = {"left": "on the left of", "right": "on the right of", "top": "at the top of"}
    where |= {"bottom": "at the bottom of", "centre": "in the centre of", None: "on"}
    article = "an" if background[0] in "aeiou" else "a"
    prompt = f"{what} {where[place]} {article} {background} background"
    return Wanted(prompt, kind, colour, background, count, place)


def pipeline(checkpoint: Path) -> StableDiffusionPipeline:
    """diffusers' pipeline around the networks of a file."""
    text, unet, vae = load(checkpoint)
    found = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=None,
        unet=unet,
        scheduler=EulerDiscreteScheduler(timestep_spacing="linspace", steps_offset=1, **SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    found.set_progress_bar_config(disable=True)
    return found


def add_lora(pipe, path: Path, strength: float = 1.0):
    """Adds kohya's low-rank patches to the UNet's weights."""
    modules = {}
    for name, module in pipe.unet.named_modules():
        modules["lora_unet_" + name.replace(".", "_")] = module
    tensors = load_file(path)
    for name in {key.split(".")[0] for key in tensors}:
        down, up = (tensors[f"{name}.lora_{part}.weight"].float() for part in ("down", "up"))
        scale = tensors[f"{name}.alpha"].float() / down.shape[0]
        weight = modules[name].weight
        weight += strength * scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)


@torch.no_grad()
def generate(pipe, prompts: list[str], width: int, height: int, seed: int, at_once: int = 10):
    """A picture for each prompt, each with a seed of its own, as bytes."""
    words = Words()
    encode = lambda texts: pipe.text_encoder(words.batch(texts)).last_hidden_state
    found = []
    for at in range(0, len(prompts), at_once):
        some = prompts[at : at + at_once]
        seeds = [torch.Generator().manual_seed(seed + at + i) for i in range(len(some))]
        shape = 1, 4, height // 8, width // 8
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in seeds])
        images = pipe(
            prompt_embeds=encode(some),
            negative_prompt_embeds=encode([""] * len(some)),
            latents=noise,
            width=width,
            height=height,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="np",
        ).images
        found += list((images * 255).round().astype(np.uint8))
    return found


def sheet(images, path: Path, columns: int = 10):
    """All pictures in rows."""
    rows = [np.concatenate(images[i : i + columns], 1) for i in range(0, len(images), columns)]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    Image.fromarray(np.concatenate(rows)).save(path)


def judge(asked: list[tuple[str, Wanted]], images):
    """Prints what is wrong with each picture, and how many of each group are right."""
    tally = collections.defaultdict(lambda: [0, 0])
    for i, ((group, wanted), image) in enumerate(zip(asked, images)):
        wrong = faults(image, wanted)
        for name in (group, "all"):
            tally[name][0] += not wrong
            tally[name][1] += 1
        if wrong:
            print(f"  {i:3} {wanted.prompt}: {', '.join(wrong)}")
    for group, (right, of) in tally.items():
        print(f"{group}: {right} of {of} right")


def check_hundred(pipe, args):
    asked = wanted_hundred()
    images = generate(pipe, [wanted.prompt for _, wanted in asked], args.size, args.size, args.seed)
    judge(asked, images)
    if args.sheet:
        sheet(images, args.sheet)


def check_outlines(pipe, args):
    asked = [wanted for group, wanted in wanted_hundred() if group == "plain"][:30]
    prompts = [wanted.prompt for wanted in asked]
    without = generate(pipe, prompts, args.size, args.size, args.seed)
    add_lora(pipe, args.lora)
    patched = generate(pipe, prompts, args.size, args.size, args.seed)
    for name, images in [("without the patch", without), ("with the patch", patched)]:
        seen = [(w.kind, r) for w, image in zip(asked, images) for r in shapes(image, w)]
        print(f"{name}: {sum(hollow(r, kind) for kind, r in seen)} of {len(seen)} shapes are outlined")
        wishes = [replace(wanted, outlined=images is patched) for wanted in asked]
        right = sum(not faults(image, wish) for image, wish in zip(images, wishes))
        print(f"{name}: {right} of {len(asked)} pictures right in all else too")
    if args.sheet:
        sheet(without + patched, args.sheet)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = pipeline(args.checkpoint)
    check_outlines(pipe, args) if args.lora else check_hundred(pipe, args)


if __name__ == "__main__":
    main()
