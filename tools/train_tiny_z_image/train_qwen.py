"""Gives the tiny Z-Image's text encoder a start: it learns to tell what a caption says.

    python tools/train_tiny_z_image/train_qwen.py FOLDER [--minutes 2]

Writes FOLDER/qwen.pt.
"""

import argparse
from pathlib import Path

import torch

from z_image_networks import TEXT_WIDTH, QwenWords, build_qwen, qwen_states  # first: it adds the path

import telling


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=2)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    words, qwen = QwenWords(), build_qwen()

    def read(captions):
        tokens, counts = words.batch(captions)
        states = qwen_states(qwen, tokens)
        own = (torch.arange(tokens.shape[1])[None] < counts[:, None]).float()[..., None]
        last = states[torch.arange(len(tokens)), counts - 1]
        return last, (states * own).sum(1) / counts[:, None]

    telling.learn(qwen, TEXT_WIDTH, words.caption, read, args.minutes)
    torch.save(qwen.state_dict(), args.folder / "qwen.pt")


if __name__ == "__main__":
    main()
