"""Writes crates/models/tests/fixtures/fp8.safetensors: what diffusers' transformers make of weights that went through
scaled 8-bit floats.

    python tools/reference/make_fp8.py

Matrices and convolutions are divided by a scale, rounded to E4M3 towards zero and multiplied again; everything else is rounded to f16,
as crates/models/tests/common/allocations.rs writes them. The file holds the outputs for the calls of flux_schnell and
mmdit_sd35_medium.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import make_flux
import make_lora
import make_mmdit
import seeded

FIXTURES = Path(__file__).parents[2] / "crates/models/tests/fixtures"
SCALE = 1 / 128


def rounded(name, shape, seed):
    values = torch.from_numpy(seeded.weight(name, tuple(shape), seed))
    if len(shape) > 1 and name.endswith(".weight"):
        scaled = values / SCALE
        near = scaled.to(torch.float8_e4m3fn)
        # Codes are in the order of their numbers: the one before is the next towards zero.
        codes = near.view(torch.uint8) - (near.float().abs() > scaled.abs()).byte()
        return codes.view(torch.float8_e4m3fn).float() * SCALE
    return values.half().float()


def calls(fixture):
    with safe_open(FIXTURES / fixture, "pt") as file:
        metadata = file.metadata()
    return {key: json.loads(value) for key, value in metadata.items()}


def flux():
    about = calls("flux_schnell.safetensors")
    latent, inputs, head, heads, double, single, guided = make_flux.CASES["schnell"]
    part = make_lora.flux(
        dict(
            in_channels=4 * inputs,
            out_channels=4 * latent,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=head,
            num_attention_heads=heads,
            joint_attention_dim=24,
            pooled_projection_dim=20,
            guidance_embeds=guided,
            axes_dims_rope=make_flux.AXES[head],
        ),
        make_flux.SEED,
    )
    base = torch.cat([rounded(name, shape, make_flux.SEED).flatten() for name, shape in part.params.items()])
    part.module.load_state_dict({name: base[ids] for name, ids in part.numbers.items()})
    for i in range(2):
        shapes = about["calls"][i]["shapes"]
        given = {n: torch.from_numpy(seeded.uniform(f"{n}.{i}", tuple(s), make_flux.SEED)) for n, s in shapes.items()}
        x, ids = make_flux.packed(given["x"])
        out = part.module(
            hidden_states=x,
            encoder_hidden_states=given["context"],
            pooled_projections=given["vector"],
            timestep=torch.tensor(about["calls"][i]["timesteps"]),
            img_ids=ids,
            txt_ids=torch.zeros(shapes["context"][1], 3),
        ).sample
        yield f"flux.{i}", make_flux.unpacked(out, *shapes["x"][2:]).contiguous()


def mmdit():
    about = calls("mmdit_sd35_medium.safetensors")
    module, _ = make_mmdit.build(*make_mmdit.CASES["sd35_medium"])
    shapes = make_mmdit.keys.sd3_tensors(module)
    canonical = {name: name if "." in name else f"{name}.{name}" for name in shapes}
    weights = {name: rounded(canonical[name], shape, make_mmdit.SEED) for name, shape in shapes.items()}
    module.load_state_dict(make_mmdit.convert_sd3_transformer_checkpoint_to_diffusers(weights))
    for i in range(2):
        call = about["calls"][i]
        names = ("x", "context", "pooled")
        given = [torch.from_numpy(seeded.uniform(f"{n}.{i}", tuple(call[n]), make_mmdit.SEED)) for n in names]
        yield f"mmdit.{i}", make_mmdit.call(module, *given, call["timesteps"], call["skip"])


@torch.no_grad()
def main():
    tensors = dict(flux()) | dict(mmdit())
    save_file(tensors, FIXTURES / "fp8.safetensors", {"calls": "2"})
    print({name: list(tensor.shape) for name, tensor in tensors.items()})


if __name__ == "__main__":
    main()
