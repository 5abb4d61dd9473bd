"""Writes crates/models/tests/fixtures/tiny_vae.safetensors from diffusers' AutoencoderTiny.

    python tools/reference/make_tiny_vae.py

As make_unet.py: weights and inputs follow from their names, which are those of TAESD's own files; the fixture holds
outputs and metadata. diffusers' modules are numbered alike but for the decoder, whose first is not one of its own.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

import seeded

FIXTURES = Path(__file__).parents[2] / "crates/models/tests/fixtures"
SEED = 32
CHANNELS = 8
PICTURES = [(2, 16, 24), (1, 40, 32)]
LATENTS = [(1, 3, 5), (2, 4, 2)]


def own_name(name):
    """TAESD's name of a parameter: `decoder.layers.2.conv.0.weight` is `3.conv.0.weight` of the decoder's file."""
    half, _, place, rest = name.split(".", 3)
    return f"{half}.{int(place) + (half == 'decoder')}.{rest}"


def main():
    tensors, params = {}, {}
    for latent in (4, 16):
        module = AutoencoderTiny(
            encoder_block_out_channels=(CHANNELS,) * 4,
            decoder_block_out_channels=(CHANNELS,) * 4,
            latent_channels=latent,
        ).eval()
        shapes = seeded.fill(module, own_name, SEED)
        for half in ("encoder", "decoder"):
            params[f"{half}.{latent}"] = {
                name.removeprefix(half + "."): shape for name, shape in shapes.items() if name.startswith(half)
            }
        with torch.no_grad():
            for i, (batch, height, width) in enumerate(PICTURES):
                picture = torch.from_numpy(seeded.uniform(f"picture.{i}", (batch, 3, height, width), SEED))
                # diffusers' encoder takes pictures from -1 to 1, and its decoder makes such ones.
                tensors[f"encoded.{latent}.{i}"] = module.encoder(picture).contiguous()
            for i, (batch, height, width) in enumerate(LATENTS):
                z = torch.from_numpy(4 * seeded.uniform(f"latent.{i}", (batch, latent, height, width), SEED))
                tensors[f"decoded.{latent}.{i}"] = module.decoder(z).contiguous()
    metadata = {"params": params, "pictures": PICTURES, "latents": LATENTS, "seed": SEED}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    path = FIXTURES / "tiny_vae.safetensors"
    save_file(tensors, path, metadata)
    path.chmod(0o644)
    print(path.name, path.stat().st_size, {name: float(t.abs().max()) for name, t in tensors.items()})


if __name__ == "__main__":
    main()
