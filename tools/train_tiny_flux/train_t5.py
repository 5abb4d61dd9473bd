"""Gives the T5 encoder a start: it learns to tell what a caption says.

    python tools/train_tiny_flux/train_t5.py FOLDER [--minutes 1.5]

Like `tools/train_tiny/train_text.py` does it for CLIP: from the state of the end token, and from the
average of all states, one linear layer each must tell what the caption says. The layers are thrown away.
Writes FOLDER/t5.pt.
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from flux_networks import T5_END, T5_WIDTH, T5Words, build_t5, t5_states  # first: it adds the path

import pictures
from train_text import QUESTIONS, answers

SEED, RATE, LENGTH = 4, 3e-3, 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=1.5)
    args = parser.parse_args()
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    words, t5 = T5Words(), build_t5()
    heads = torch.nn.ModuleList(torch.nn.Linear(2 * T5_WIDTH, len(choices)) for choices in QUESTIONS)
    parameters = [*t5.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    start, step = time.time(), 0
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        scenes = [pictures.scene(rng, 64, 64) for _ in range(64)]
        captions = [words.caption(rng, scene, LENGTH) for scene in scenes]
        tokens = words.batch(captions, LENGTH)
        wanted = torch.tensor([answers(*pair) for pair in zip(scenes, captions)])
        hidden = t5_states(t5, tokens)
        end = hidden[tokens == T5_END]
        told = torch.cat([end, hidden.mean(1)], 1)
        loss, right = 0.0, []
        for head, answer in zip(heads, wanted.T):
            # From either half alone too.
            keep = (torch.rand(len(told), 2) < 0.7).float().repeat_interleave(T5_WIDTH, 1)
            guess = head(told * keep)
            loss = loss + F.cross_entropy(head(told), answer) + F.cross_entropy(guess, answer)
            right.append((guess.argmax(-1) == answer).float().mean().item())
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            told = [f"{part:.2f}" for part in right]
            print(f"{step} {time.time() - start:.0f}s loss {loss:.3f}, right", told, flush=True)
    torch.save(t5.state_dict(), args.folder / "t5.pt")
    print(f"{step} steps in {time.time() - start:.0f}s")


if __name__ == "__main__":
    main()
