"""Multiplications of one forward pass of an MMDiT, as PyTorch counts them: what `distorch_models::cost` is held
against. No weights are needed.

    python tools/reference/mmdit_products.py
"""

import torch
from diffusers import SD3Transformer2DModel
from torch.utils.flop_counter import FlopCounterMode

import make_key_lists as keys


def products(config, rows, side, tokens):
    with torch.device("meta"):
        module = SD3Transformer2DModel(**config)
        latent = torch.zeros(rows, 16, side // 8, side // 8)
        text = torch.zeros(rows, tokens, 4096)
        with FlopCounterMode(display=False) as counter:
            module(latent, text, torch.zeros(rows, 2048), torch.zeros(rows))
    return counter.get_total_flops() // 2


if __name__ == "__main__":
    for name in ("SD3_MEDIUM", "SD35_MEDIUM", "SD35_LARGE"):
        for side, rows in ((512, 1), (1024, 2)):
            print(name, side, rows, products(getattr(keys, name), rows, side, 154))
