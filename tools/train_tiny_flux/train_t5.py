"""Gives the T5 encoder a start: it learns to tell what a caption says.

    python tools/train_tiny_flux/train_t5.py FOLDER [--minutes 1.5]

Writes FOLDER/t5.pt.
"""

import argparse
from pathlib import Path

import torch

from flux_networks import T5_END, T5_WIDTH, T5Words, build_t5, t5_states  # first: it adds the path

import telling

LENGTH = 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=1.5)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    words, t5 = T5Words(), build_t5()

    def read(captions):
        tokens = words.batch(captions, LENGTH)
        states = t5_states(t5, tokens)
        return states[tokens == T5_END], states.mean(1)

    telling.learn(t5, T5_WIDTH, lambda rng, scene: words.caption(rng, scene, LENGTH), read, args.minutes)
    torch.save(t5.state_dict(), args.folder / "t5.pt")


if __name__ == "__main__":
    main()
