"""Gives a text encoder a start: it learns to tell what a caption says.

Like `tools/train_tiny/train_text.py` does it for CLIP: from the state of a caption's last token, and from the
average of all states, one linear layer each must tell what the caption says. The layers are thrown away.
"""

import math
import random
import time

import torch
import torch.nn.functional as F

import scenes
from train_text import QUESTIONS, answers

SEED, RATE, COUNT = 4, 3e-3, 64


def learn(encoder, width: int, caption, read, minutes: float):
    """Trains the encoder for minutes of processor time. `caption(rng, scene)` describes a scene; `read(captions)` is the state of each caption's last
    token and the average of all, [batch, width] each."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    heads = torch.nn.ModuleList(torch.nn.Linear(2 * width, len(choices)) for choices in QUESTIONS)
    parameters = [p for p in [*encoder.parameters(), *heads.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    start, step = time.process_time(), 0
    while (done := (time.process_time() - start) / (60 * minutes)) < 1:
        drawn = [scenes.scene(rng) for _ in range(COUNT)]
        captions = [caption(rng, scene) for scene in drawn]
        wanted = torch.tensor([answers(*pair) for pair in zip(drawn, captions)])
        told = torch.cat(read(captions), 1)
        loss, right = 0.0, []
        for head, answer in zip(heads, wanted.T):
            # From either half alone too.
            keep = (torch.rand(len(told), 2) < 0.7).float().repeat_interleave(width, 1)
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
            print(f"{step} {time.process_time() - start:.0f}s loss {loss:.3f}, right", [f"{part:.2f}" for part in right], flush=True)
    print(f"{step} steps in {time.process_time() - start:.0f}s")
