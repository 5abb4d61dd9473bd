"""Multiplications of one forward pass of a UNet, as PyTorch counts them: what `distorch_models::cost` is
held against. No weights are needed.

    python tools/reference/unet_products.py
"""

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

SD15 = dict(
    sample_size=64,
    block_out_channels=(320, 640, 1280, 1280),
    cross_attention_dim=768,
    attention_head_dim=8,
)
SDXL = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    cross_attention_dim=2048,
    attention_head_dim=(5, 10, 20),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)


def products(config, rows, side, context):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        latent = torch.zeros(rows, 4, side // 8, side // 8)
        text = torch.zeros(rows, 77, context)
        added = {"text_embeds": torch.zeros(rows, 1280), "time_ids": torch.zeros(rows, 6)}
        time = torch.zeros(rows)
        with FlopCounterMode(display=False) as counter:
            unet(latent, time, text, added_cond_kwargs=added)
    return counter.get_total_flops() // 2


if __name__ == "__main__":
    for name, config, sides, context in (("sd15", SD15, (256, 512), 768), ("sdxl", SDXL, (1024,), 2048)):
        for side in sides:
            for rows in (1, 2):
                print(name, side, rows, products(config, rows, side, context))
