"""Trains the transformer and the T5 encoder of the tiny Flux checkpoint, on latents of drawn pictures.

    python tools/train_tiny_flux/train_flux.py FOLDER SHAPES [--steps 3000]

CLIP comes from SHAPES, the first tiny checkpoint, and stays as it is; T5 starts from FOLDER/t5.pt. Keeps
FOLDER/flux.pt, whose averaged weights `assemble_flux.py` takes; `--resume` goes on from there.
"""

import argparse
import copy
import datetime
import math
import random
import socket
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from flux_networks import T5_LENGTH, T5Words, Transformer, build_t5, t5_states  # first: it adds the path
from sixteen import sixteen

import pictures
from networks import Words, load

SEED = 2
LENGTH = 18  # of the text in training, whose last token stands for all padding up to T5_LENGTH
# In the first part of the steps pictures have half the size, at the places of whole ones: they cost little
# and teach the words. The numbers are how many pictures a process draws for a step.
FIRST, SMALL, LARGE = 0.5, 48, 20
DECAYING = 0.4  # last part of the steps, in which the rates go down
MATRIX_RATE, RATE = 2e-3, 2e-3
DECAY = 0.997  # of the averaged weights
# Parts of the captions that are empty, and that only CLIP or only T5 is told.
EMPTY, ONLY_CLIP, ONLY_T5 = 0.1, 0.1, 0.2
NOISE_MIDDLE = 0.9  # of the logit of the time in training: much noise, where shapes and colours are decided
ASIDE = 0.1  # weight of the twelve directions of a latent that say nothing


def times(count: int) -> torch.Tensor:
    """Logit-normal times, spread evenly over a batch."""
    even = (torch.randperm(count) + torch.rand(count)) / count
    return torch.special.ndtri(even.clamp(1e-4, 1 - 1e-4)).mul(1.2).add(NOISE_MIDDLE).sigmoid()


class Data:
    """Batches of latents, captions' tokens and CLIP's pooled states."""

    def __init__(self, rng: random.Random, shapes: Path):
        self.rng, self.t5, self.clip = rng, T5Words(), Words()
        self.text, _, vae = load(shapes)
        self.sixteen = sixteen(vae)
        self.pooled = {}

    def pool(self, captions) -> torch.Tensor:
        """CLIP's state of each caption's first end token, after its last norm."""
        new = sorted({caption for caption in captions if caption not in self.pooled})
        if new:
            with torch.no_grad():
                for caption, state in zip(new, self.text(self.clip.batch(new)[:, :32]).pooler_output):
                    self.pooled[caption] = state
        return torch.stack([self.pooled[caption] for caption in captions])

    def batch(self, count: int, size: int):
        scenes = [pictures.scene(self.rng, size, size) for _ in range(count)]
        flat = torch.from_numpy(np.stack([pictures.latent(scene) for scene in scenes]))
        told = [self.t5.caption(self.rng, scene, LENGTH) for scene in scenes]
        for_clip, for_t5 = list(told), list(told)
        for i in range(count):
            chance = self.rng.random()
            if chance < EMPTY + ONLY_T5:
                for_clip[i] = ""
            if chance < EMPTY or chance > 1 - ONLY_CLIP:
                for_t5[i] = ""
        return (
            self.sixteen.latents(flat),
            self.t5.batch(for_t5, LENGTH),
            self.pool(for_clip),
        )


def velocity_error(error, aside: torch.Tensor):
    """Squared error, of which the part aside of the four directions that tell counts less."""
    along = error.square().mean()
    rest = torch.einsum("oc,bchw->bohw", aside, error).square().mean()
    return along - (1 - ASIDE) * rest


def share_gradients(parameters):
    """Averages gradients over the processes."""
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters])):
        p.grad.copy_(part.reshape(p.shape))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("shapes", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the largest steps")
    parser.add_argument("--resume", action="store_true", help="go on from FOLDER/flux.pt")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    args.port = socket.create_server(("localhost", 0)).getsockname()[1]
    torch.multiprocessing.spawn(train, (args,), args.processes)


def train(rank: int, args):
    """One of the processes, each with one thread and pictures of its own; all take the same steps."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        f"tcp://localhost:{args.port}",
        datetime.timedelta(hours=12),
        rank=rank,
        world_size=args.processes,
    )
    torch.manual_seed(SEED)
    data = Data(random.Random(SEED + 1000 * rank), args.shapes)
    t5, flux = build_t5(), Transformer()
    t5.load_state_dict(torch.load(args.folder / "t5.pt"))
    step, before = 0, 0.0
    if args.resume:
        state = torch.load(args.folder / "flux.pt")
        t5.load_state_dict(state["t5"])
        flux.load_state_dict(state["flux"])
        step, before = state["steps"], state["seconds"]
    modules = t5, flux
    averages = copy.deepcopy(modules)
    matrices = [p for m in (flux.double_blocks, flux.single_blocks) for p in m.parameters() if p.dim() == 2]
    inside = {id(p) for p in matrices}
    others = [p for module in modules for p in module.parameters() if id(p) not in inside]
    optimizers = [
        torch.optim.Muon(matrices, MATRIX_RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
    ]
    aside = data.sixteen.aside()

    def loss_of(latents, tokens, pooled, noise, at, guidance, stride):
        part = at[:, None, None, None]
        noisy = (1 - part) * latents + part * noise
        copies = T5_LENGTH - LENGTH + 1
        found = flux(noisy, at, t5_states(t5, tokens), pooled, guidance, copies, stride)
        return velocity_error(found - (noise - latents), aside)

    def keep():
        state = {"t5": averages[0].state_dict(), "flux": averages[1].state_dict()}
        seconds = round(before + time.process_time() - start)
        torch.save(state | {"steps": step, "seconds": seconds}, args.folder / "flux.new")
        (args.folder / "flux.new").rename(args.folder / "flux.pt")

    torch.manual_seed(SEED + 1 + rank)
    start, losses, first = time.process_time(), [], step
    while step < args.steps:
        count, size = (SMALL, 64) if step < FIRST * args.steps else (LARGE, 128)
        noise, at = torch.randn(count, 16, size // 8, size // 8), times(count)
        guidance = 1 + 4 * torch.rand(count)
        loss = loss_of(*data.batch(count, size), noise, at, guidance, 128 // size)
        down = min(1, (1 - step / args.steps) / DECAYING)
        for optimizer, rate in zip(optimizers, (MATRIX_RATE, RATE)):
            for group in optimizer.param_groups:
                group["lr"] = args.rate * rate * min((step - first + 1) / 50, down)
            optimizer.zero_grad()
        loss.backward()
        share_gradients([*matrices, *others])
        torch.nn.utils.clip_grad_norm_([*matrices, *others], 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        decay = min(DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, module in zip(averages, modules):
                torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)
        losses.append(loss.item())
        if rank == 0 and step % 50 == 0:
            seconds = time.process_time() - start
            print(f"{step} {seconds:.0f}s loss {np.mean(losses[-100:]):.4f}", flush=True)
        if rank == 0 and (step % 100 == 0 or step == args.steps):
            keep()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
