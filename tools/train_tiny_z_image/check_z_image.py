"""Generates 100 pictures from the tiny Z-Image and judges them.

    python tools/train_tiny_z_image/check_z_image.py MODELS [--sheet SHEET.png]
    python tools/train_tiny_z_image/check_z_image.py MODELS --prompt 'a red circle' --seed 1 --picture OUT.png

MODELS is the folder of the three files that `assemble_z_image.py` writes. The prompts and the rules are those of
`tools/train_tiny`, the schedule has Z-Image's shift of 3. The networks are diffusers' and transformers' classes, which makes
this the reference that distorch is compared with.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import ZImageTransformer2DModel
from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file

from z_image_networks import (  # first: it adds the path
    AXES, CHANNELS, HEADS, LAYERS, REFINERS, TEXT_WIDTH, WIDTH, QwenWords, build_qwen,
)

import drawing
from assemble_z_image import FILES
from check_flux import autoencoder, decoded

SHIFT = 3


class Networks:
    """The three networks, in f32."""

    def __init__(self, models: Path):
        part = lambda name: {key: value.float() for key, value in load_file(models / FILES[name]).items()}
        self.words, self.qwen = QwenWords(), build_qwen()
        self.qwen.load_state_dict({name.removeprefix("model."): value for name, value in part("qwen").items()})
        self.transformer = ZImageTransformer2DModel(
            in_channels=CHANNELS,
            dim=WIDTH,
            n_layers=LAYERS,
            n_refiner_layers=REFINERS,
            n_heads=HEADS,
            n_kv_heads=HEADS,
            cap_feat_dim=TEXT_WIDTH,
            axes_dims=list(AXES),
            axes_lens=[256, 64, 64],
        )
        self.transformer.load_state_dict(convert_z_image_transformer_checkpoint_to_diffusers(part("transformer")))
        self.vae = autoencoder(part("vae"))
        for module in (self.qwen, self.transformer, self.vae):
            module.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, captions):
        """Each caption's states [tokens, width] behind the last layer but one."""
        rows = [torch.tensor([self.words.ids(caption)]) for caption in captions]
        return [self.qwen(input_ids=row, output_hidden_states=True).hidden_states[-2][0] for row in rows]

    @torch.no_grad()
    def velocity(self, x, time: float, texts):
        """The transformer's prediction for latents [batch, 16, height, width]."""
        found = self.transformer(list(x.unsqueeze(2)), torch.full((len(x),), 1 - time), texts).sample
        return -torch.stack(list(found)).squeeze(2)

    def decode(self, x) -> np.ndarray:
        """Bytes [batch, height, width, 3]."""
        return decoded(self.vae, x)


def main():
    parser = drawing.arguments(__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    args = parser.parse_args()
    shifted = [SHIFT * t / (1 + (SHIFT - 1) * t) for t in (i / 1000 for i in range(1, 1001))]
    drawing.draw(Networks(args.models), drawing.simple(shifted), args)


if __name__ == "__main__":
    main()
