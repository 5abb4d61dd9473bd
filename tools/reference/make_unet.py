"""Writes crates/models/tests/fixtures/unet_*.safetensors from diffusers' UNet2DConditionModel.

    python tools/reference/make_unet.py

Weights and inputs follow from their names (seeded.py), so a file holds the outputs, and as metadata
the configuration, the parameters' names and shapes, and the calls. Needs torch, diffusers and safetensors.
"""

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file

import seeded
from single_file import check, unet_name

FIXTURES = Path(__file__).parents[2] / "crates/models/tests/fixtures"
SEED = 20

CROSS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"


def blocks(depths):
    down = [(CROSS if depth else PLAIN).format("Down") for depth in depths]
    up = [(CROSS if depth else PLAIN).format("Up") for depth in reversed(depths)]
    return {"down_block_types": down, "up_block_types": up}


# Name: (channels of the first level, multiples, transformer depths per level, depth in the middle,
# heads, linear projections, input channels, width of the context, pooled width for an ADM model)
CASES = {
    "sd1": (32, [1, 2, 4, 4], [1, 1, 1, 0], 1, {"count": 8}, False, 4, 24, None),
    "sd1_inpaint": (32, [1, 2], [1, 0], 1, {"count": 4}, False, 9, 24, None),
    "sd2": (64, [1, 2], [1, 0], 1, {"width": 32}, True, 4, 40, None),
    "sdxl": (32, [1, 2, 4], [0, 2, 3], 3, {"width": 16}, True, 4, 48, 20),
    "refiner": (32, [1, 2, 3, 3], [0, 2, 2, 0], 2, {"width": 32}, True, 4, 32, 12),
}
# Batch, height, width, text tokens, timesteps.
CALLS = [(2, 8, 8, 7, [1.0, 999.0]), (1, 13, 10, 77, [500.5]), (1, 16, 24, 5, [37.0])]
TIME_WIDTH = 8


def build(channels, mults, depths, middle, heads, linear, inputs, context, pooled):
    widths = [channels * mult for mult in mults]
    counts = [heads["count"] if "count" in heads else width // heads["width"] for width in widths]
    adm = None if pooled is None else pooled + 6 * TIME_WIDTH
    extra = {} if adm is None else {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": adm,
    }
    module = UNet2DConditionModel(
        sample_size=8,
        in_channels=inputs,
        block_out_channels=widths,
        layers_per_block=2,
        # The last level's depth is the middle's as well.
        transformer_layers_per_block=[max(depth, 1) for depth in depths[:-1]] + [middle],
        attention_head_dim=counts,
        use_linear_projection=linear,
        cross_attention_dim=context,
        **blocks(depths),
        **extra,
    ).eval()
    config = {
        "in_channels": inputs,
        "out_channels": 4,
        "model_channels": channels,
        "channel_mult": mults,
        "num_res_blocks": [2] * len(mults),
        "transformer_depth": [depth for depth in depths for _ in range(2)],
        "middle_res_blocks": 2,
        "transformer_depth_middle": middle,
        "transformer_depth_output": [depth for depth in reversed(depths) for _ in range(3)],
        "context_dim": context,
        "heads": heads,
        "linear_projections": linear,
        "adm_in_channels": adm,
    }
    return module, config


def main():
    for case, arguments in CASES.items():
        module, config = build(*arguments)
        shapes = seeded.fill(module, lambda name: unet_name(name, module.config), SEED)
        original = {
            "model.diffusion_model." + unet_name(name, module.config): parameter
            for name, parameter in module.named_parameters()
        }
        check(module, convert_ldm_unet_checkpoint(original, dict(module.config)))

        tensors, calls = {}, []
        for i, (batch, height, width, tokens, timesteps) in enumerate(CALLS):
            x = (batch, config["in_channels"], height, width)
            context = (batch, tokens, config["context_dim"])
            given = {
                name: torch.from_numpy(seeded.uniform(f"{name}.{i}", shape, SEED))
                for name, shape in [("x", x), ("context", context)]
            }
            added = None
            if config["adm_in_channels"] is not None:
                text = (batch, config["adm_in_channels"] - 6 * TIME_WIDTH)
                text = torch.from_numpy(seeded.uniform(f"pooled.{i}", text, SEED))
                times = torch.tensor([[512.0, 768, 0, 16, 1024, 1024]] * batch)
                added = {"text_embeds": text, "time_ids": times}
                embedded = module.add_time_proj(times.flatten()).reshape(batch, -1)
                tensors[f"y.{i}"] = torch.cat([text, embedded], 1).contiguous()
            with torch.no_grad():
                out = module(
                    given["x"], torch.tensor(timesteps), given["context"], added_cond_kwargs=added
                ).sample
            tensors[f"out.{i}"] = out.contiguous()
            calls.append({"x": x, "context": context, "timesteps": timesteps})
        metadata = {"config": config, "params": shapes, "calls": calls, "seed": SEED}
        metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
        path = FIXTURES / f"unet_{case}.safetensors"
        FIXTURES.mkdir(exist_ok=True)
        save_file(tensors, path, metadata)
        print(path.name, path.stat().st_size, sum(torch.tensor(s).prod().item() for s in shapes.values()))


if __name__ == "__main__":
    main()
