"""Trains a transformer and its text encoder on latents of drawn pictures, by processes that take the same steps.

What a network is and how its loss comes about is the caller's: `train_flux.py` and, for Z-Image's layout,
`../train_tiny_z_image/train_z_image.py`.
"""

import argparse
import copy
import datetime
import random
import socket
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1] / "train_tiny"))
import pictures  # noqa: E402
import scenes  # noqa: E402
from networks import load  # noqa: E402
from sixteen import sixteen  # noqa: E402

SEED = 2
COUNT = 24  # of pictures that a process draws for a step
DECAYING = 0.4  # last part of the steps, in which the rates go down
MATRIX_RATE, RATE = 2e-3, 2e-3
DECAY = 0.997  # of the averaged weights
NOISE_MIDDLE = 0.9  # of the logit of the time in training: much noise, where shapes and colours are decided
ASIDE = 0.1  # weight of the twelve directions of a latent that say nothing


def arguments(description: str) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path)
    parser.add_argument("shapes", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the largest steps")
    parser.add_argument("--arrangements", type=int, default=1, help="of a sentence, up to 3")
    parser.add_argument("--resume", action="store_true", help="go on from what FOLDER keeps")
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


def start(train, args):
    """Calls train(rank, args) in processes of one thread each, which belong to one group."""
    args.port = socket.create_server(("localhost", 0)).getsockname()[1]
    torch.multiprocessing.spawn(joined, (train, args), args.processes)


def joined(rank: int, train, args):
    """One of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        f"tcp://localhost:{args.port}",
        datetime.timedelta(hours=12),
        rank=rank,
        world_size=args.processes,
    )
    torch.manual_seed(SEED)
    train(rank, args)
    dist.destroy_process_group()


class Drawn:
    """Scenes with their latents of sixteen channels."""

    def __init__(self, rank: int, args: argparse.Namespace):
        self.rng, self.arrangements = random.Random(SEED + 1000 * rank), args.arrangements
        self.text, _, vae = load(args.shapes)
        self.sixteen = sixteen(vae)

    def batch(self):
        """COUNT scenes, and their latents [batch, 16, 16, 16]."""
        drawn = [scenes.scene(self.rng, self.arrangements) for _ in range(COUNT)]
        flat = torch.from_numpy(np.stack([pictures.latent(scene) for scene in drawn]))
        return drawn, self.sixteen.latents(flat)


def times(count: int) -> torch.Tensor:
    """Logit-normal times, spread evenly over a batch."""
    even = (torch.randperm(count) + torch.rand(count)) / count
    return torch.special.ndtri(even.clamp(1e-4, 1 - 1e-4)).mul(1.2).add(NOISE_MIDDLE).sigmoid()


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


def run(rank: int, args, drawn: Drawn, modules: dict, blocks, velocity, file: str):
    """Takes steps until there are args.steps, and keeps averaged weights and their number in a file of args.folder.

    `modules` are what is trained, by the names that the file has for them; the matrices of `blocks` take Muon's
    steps. `velocity(scenes, noisy, times)` is what the network predicts.
    """
    step, before = 0, 0.0
    if args.resume:
        state = torch.load(args.folder / file)
        for name, module in modules.items():
            module.load_state_dict(state[name])
        step, before = state["steps"], state["seconds"]
    averages = copy.deepcopy(modules)
    matrices = [p for block in blocks for p in block.parameters() if p.dim() == 2]
    inside = {id(p) for p in matrices}
    trained = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    others = [p for p in trained if id(p) not in inside]
    optimizers = [
        torch.optim.Muon(matrices, MATRIX_RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
    ]
    aside = drawn.sixteen.aside()

    def keep():
        state = {name: module.state_dict() for name, module in averages.items()}
        seconds = round(before + time.process_time() - began)
        torch.save(state | {"steps": step, "seconds": seconds}, args.folder / f"{file}.new")
        (args.folder / f"{file}.new").rename(args.folder / file)

    torch.manual_seed(SEED + 1 + rank)
    began, losses, first = time.process_time(), [], step
    while step < args.steps:
        shown, latents = drawn.batch()
        noise, at = torch.randn_like(latents), times(COUNT)
        part = at[:, None, None, None]
        found = velocity(shown, (1 - part) * latents + part * noise, at)
        loss = velocity_error(found - (noise - latents), aside)
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
            for name, module in modules.items():
                pairs = zip(averages[name].parameters(), module.parameters())
                ours, theirs = zip(*((a, b) for a, b in pairs if b.requires_grad))
                torch._foreach_lerp_(list(ours), list(theirs), 1 - decay)
        losses.append(loss.item())
        if rank == 0 and step % 50 == 0:
            seconds = time.process_time() - began
            print(f"{step} {seconds:.0f}s loss {np.mean(losses[-100:]):.4f}", flush=True)
        if rank == 0 and (step % 100 == 0 or step == args.steps):
            keep()
