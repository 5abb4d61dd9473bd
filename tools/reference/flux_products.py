"""Counts the multiplications of Flux dev's transformer, for the test of crates/models/src/cost/flux.rs.

    python tools/reference/flux_products.py

Needs torch and diffusers; no weights are made.
"""

import torch
from diffusers import FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

# Width and height in pixels, batch.
CASES = [(512, 512, 1), (1024, 1024, 1), (520, 328, 3)]
WORDS = 256


def main():
    with torch.device("meta"):
        model = FluxTransformer2DModel(guidance_embeds=True)
        for width, height, batch in CASES:
            patches = -(-width // 16) * -(-height // 16)
            with FlopCounterMode(display=False) as counter:
                model(
                    hidden_states=torch.empty(batch, patches, 64),
                    encoder_hidden_states=torch.empty(batch, WORDS, 4096),
                    pooled_projections=torch.empty(batch, 768),
                    timestep=torch.empty(batch),
                    guidance=torch.empty(batch),
                    img_ids=torch.zeros(patches, 3),
                    txt_ids=torch.zeros(WORDS, 3),
                )
            print(f"{width}×{height}, batch {batch}: {counter.get_total_flops() // 2}")


if __name__ == "__main__":
    main()
