"""Trains the transformer and the text encoder of the tiny Z-Image, on latents of drawn pictures.

    python tools/train_tiny_z_image/train_z_image.py FOLDER SHAPES [--steps 3000]

SHAPES is the first tiny checkpoint, whose autoencoder says what latents are; the encoder starts from FOLDER/qwen.pt.
Keeps FOLDER/z_image.pt, whose averaged weights `assemble_z_image.py` takes; `--resume` goes on from there.
"""

import torch

from z_image_networks import QwenWords, Transformer, build_qwen, qwen_states  # first: it adds the path

import training

EMPTY = 0.1  # part of the captions


def train(rank: int, args):
    """One of the processes."""
    drawn, words = training.Drawn(rank, args), QwenWords()
    qwen, transformer = build_qwen(), Transformer()
    qwen.load_state_dict(torch.load(args.folder / "qwen.pt"))
    # Nothing reads what the last layer and norm make.
    qwen.layers[-1].requires_grad_(False), qwen.norm.requires_grad_(False)
    transformer.x_pad_token.requires_grad_(False)  # a picture has 64 tokens: none is missing

    def velocity(scenes, noisy, at):
        captions = ["" if drawn.rng.random() < EMPTY else words.caption(drawn.rng, scene) for scene in scenes]
        tokens, counts = words.batch(captions)
        return transformer(noisy, at, qwen_states(qwen, tokens), counts)

    blocks = [transformer.noise_refiner, transformer.context_refiner, transformer.layers]
    modules = {"qwen": qwen, "transformer": transformer}
    training.run(rank, args, drawn, modules, blocks, velocity, "z_image.pt")


if __name__ == "__main__":
    training.start(train, training.arguments(__doc__.splitlines()[0]))
