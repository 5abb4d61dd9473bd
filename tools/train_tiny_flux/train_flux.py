"""Trains the transformer and the T5 encoder of the tiny Flux checkpoint, on latents of drawn pictures.

    python tools/train_tiny_flux/train_flux.py FOLDER SHAPES [--steps 3000]

CLIP comes from SHAPES, the first tiny checkpoint, and stays as it is; T5 starts from FOLDER/t5.pt. Keeps
FOLDER/flux.pt, whose averaged weights `assemble_flux.py` takes; `--resume` goes on from there.
"""

import torch

import training
from flux_networks import T5_LENGTH, T5Words, Transformer, build_t5, t5_states

from networks import Words

LENGTH = 18  # of the text in training, whose last token stands for all padding up to T5_LENGTH
# Parts of the captions that are empty, and that only CLIP or only T5 is told.
EMPTY, ONLY_CLIP, ONLY_T5 = 0.1, 0.1, 0.2


class Told:
    """What the encoders are told of scenes."""

    def __init__(self, drawn: training.Drawn):
        self.rng, self.text, self.t5, self.clip = drawn.rng, drawn.text, T5Words(), Words()
        self.pooled = {}

    def pool(self, captions) -> torch.Tensor:
        """CLIP's state of each caption's first end token, after its last norm."""
        new = sorted({caption for caption in captions if caption not in self.pooled})
        if new:
            with torch.no_grad():
                for caption, state in zip(new, self.text(self.clip.batch(new)[:, :32]).pooler_output):
                    self.pooled[caption] = state
        return torch.stack([self.pooled[caption] for caption in captions])

    def batch(self, scenes):
        """T5's tokens and CLIP's pooled states."""
        told = [self.t5.caption(self.rng, scene, LENGTH) for scene in scenes]
        for_clip, for_t5 = list(told), list(told)
        for i in range(len(told)):
            chance = self.rng.random()
            if chance < EMPTY + ONLY_T5:
                for_clip[i] = ""
            if chance < EMPTY or chance > 1 - ONLY_CLIP:
                for_t5[i] = ""
        return self.t5.batch(for_t5, LENGTH), self.pool(for_clip)


def train(rank: int, args):
    """One of the processes."""
    drawn = training.Drawn(rank, args)
    told = Told(drawn)
    t5, flux = build_t5(), Transformer()
    t5.load_state_dict(torch.load(args.folder / "t5.pt"))

    def velocity(scenes, noisy, at):
        tokens, pooled = told.batch(scenes)
        guidance = 1 + 4 * torch.rand(len(at))
        return flux(noisy, at, t5_states(t5, tokens), pooled, guidance, T5_LENGTH - LENGTH + 1)

    blocks = [flux.double_blocks, flux.single_blocks]
    training.run(rank, args, drawn, {"t5": t5, "flux": flux}, blocks, velocity, "flux.pt")


if __name__ == "__main__":
    training.start(train, training.arguments(__doc__.splitlines()[0]))
