"""Gives the tiny checkpoint's text encoder a start: it learns to tell what a caption says.

    python tools/train_tiny/train_text.py FOLDER [--minutes 2.5]

Writes FOLDER/text.pt. From the last hidden state of any token behind the caption, one linear layer
each must tell the background, the number of shapes, the kinds, colours and the place. The layers
are thrown away. Trained from nothing together with the UNet, the words take far longer to matter.
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import pictures
from networks import END, TEXT_WIDTH, Words, build_text_encoder

SEED = 4
RATE = 2e-3
UNSAID = None
COLOURS, KINDS = [UNSAID, *pictures.COLOURS], [UNSAID, *pictures.SHAPES]
QUESTIONS = [COLOURS, [1, 2, 3], KINDS, COLOURS, KINDS, COLOURS, [UNSAID, *pictures.PLACES]]


def answers(scene, caption: str) -> list[int]:
    """What a caption says of its scene, as an index into the choices of each question."""
    first, last = scene.shapes[0], scene.shapes[-1]
    alike = first.colour == last.colour
    said = caption.replace(",", "").split()
    place = scene.place if scene.place in said else UNSAID
    told = f"{scene.background} background" in caption or caption.endswith(f" on {scene.background}")
    found = [
        scene.background if told else UNSAID,
        len(scene.shapes),
        first.kind,
        first.colour,
        UNSAID if alike else last.kind,
        UNSAID if alike else last.colour,
        place,
    ]
    return [choices.index(answer) for choices, answer in zip(QUESTIONS, found)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=2.5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    words = Words()
    text = build_text_encoder().train()
    heads = torch.nn.ModuleList(torch.nn.Linear(TEXT_WIDTH, len(choices)) for choices in QUESTIONS)
    parameters = [*text.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    start, step = time.time(), 0
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        scenes = [pictures.scene(rng, 64, 64) for _ in range(32)]
        captions = [pictures.caption(rng, scene) for scene in scenes]
        tokens = words.batch(captions)
        wanted = torch.tensor([answers(*pair) for pair in zip(scenes, captions)])
        hidden = text(tokens).last_hidden_state
        # The average over all tokens behind the caption, and one of them.
        behind = (tokens == END).float()
        mean = (hidden * behind[..., None]).sum(1) / behind.sum(1, keepdim=True)
        some = hidden[torch.arange(len(tokens)), torch.multinomial(behind, 1)[:, 0]]
        loss, right = 0.0, []
        for head, answer in zip(heads, wanted.T):
            loss = loss + F.cross_entropy(head(mean), answer) + F.cross_entropy(head(some), answer)
            right.append((head(some).argmax(-1) == answer).float().mean().item())
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            told = [f"{part:.2f}" for part in right]
            print(f"{step} {time.time() - start:.0f}s loss {loss:.3f}, right", told, flush=True)
    torch.save(text.state_dict(), args.folder / "text.pt")
    print(f"{step} steps in {time.time() - start:.0f}s")


if __name__ == "__main__":
    main()
