"""Writes crates/models/tests/fixtures/unet_freeu.safetensors: a small UNet of diffusers with FreeU.

    python tools/reference/make_freeu.py

The filter of the skip connections is diffusers' own. Which stages are changed follows the authors' code:
those whose backbone has four or two times the model's channels (diffusers goes by the number of the up
block instead). The second version raises the backbone by its mean over channels, brought to 0 to 1.
Weights, inputs and metadata are as in make_unet.py.
"""

import json

import torch
from diffusers.models.unets import unet_2d_blocks
from diffusers.utils.torch_utils import fourier_filter
from safetensors.torch import save_file

import seeded
from make_unet import FIXTURES, SEED, build
from single_file import unet_name

CHANNELS = 32
CASE = (CHANNELS, [1, 2, 4], [0, 1, 0], 1, {"count": 4}, False, 4, 24, None)
CALLS = [(2, 8, 8, 7, [1.0, 999.0]), (1, 13, 10, 5, [500.5]), (1, 4, 12, 3, [37.0])]
NUMBERS = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}


def joined(version):
    def apply(resolution_idx, hidden_states, res_hidden_states, *, b1, b2, s1, s2):
        channels = hidden_states.shape[1]
        scales = {4 * CHANNELS: (b1, s1), 2 * CHANNELS: (b2, s2)}.get(channels)
        if scales is None:
            return hidden_states, res_hidden_states
        b, s = scales
        if version == 2:
            mean = hidden_states.mean(1, keepdim=True)
            low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
            b = (b - 1) * (mean - low) / (high - low) + 1
        half = channels // 2
        raised = torch.cat([hidden_states[:, :half] * b, hidden_states[:, half:]], 1)
        return raised, fourier_filter(res_hidden_states, threshold=1, scale=s)

    return apply


def main():
    module, config = build(*CASE)
    shapes = seeded.fill(module, lambda name: unet_name(name, module.config), SEED)
    module.enable_freeu(**NUMBERS)
    tensors, calls = {}, []
    for i, (batch, height, width, tokens, timesteps) in enumerate(CALLS):
        x, context = (batch, 4, height, width), (batch, tokens, config["context_dim"])
        given = [
            torch.from_numpy(seeded.uniform(f"{name}.{i}", shape, SEED))
            for name, shape in [("x", x), ("context", context)]
        ]
        for version in (1, 2):
            unet_2d_blocks.apply_freeu = joined(version)
            with torch.no_grad():
                out = module(given[0], torch.tensor(timesteps), given[1]).sample
            tensors[f"v{version}.{i}"] = out.contiguous()
        calls.append({"x": x, "context": context, "timesteps": timesteps})
    metadata = {
        "config": config, "params": shapes, "calls": calls, "seed": SEED, "numbers": NUMBERS
    }
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    path = FIXTURES / "unet_freeu.safetensors"
    save_file(tensors, path, metadata)
    print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
