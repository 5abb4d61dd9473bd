"""Puts the parts of the tiny Flux checkpoint into one file, in f16.

    python tools/train_tiny_flux/assemble_flux.py FOLDER SHAPES OUT.safetensors

Transformer and T5 are the averaged weights of FOLDER/flux.pt; CLIP and the autoencoder come from SHAPES,
the first tiny checkpoint.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from flux_networks import Transformer, build_t5  # first: it adds the path
from sixteen import widened

from networks import load
from single_file import vae_name

TRANSFORMER = "model.diffusion_model."
CLIP = "text_encoders.clip_l.transformer.text_model."
T5 = "text_encoders.t5xxl.transformer."
VAE = "vae."


def original_vae(vae: AutoencoderKL) -> dict:
    """The autoencoder's tensors by the original's names."""
    found = {}
    for name, value in vae.named_parameters():
        # The original's attention projects with 1x1 convolutions.
        square = ".attentions." in name and value.dim() == 2
        found[vae_name(name, vae.config)] = value[:, :, None, None] if square else value
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("shapes", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    state = torch.load(args.folder / "flux.pt")
    flux, t5 = Transformer(), build_t5()
    flux.load_state_dict(state["flux"])
    t5.load_state_dict(state["t5"])
    clip, _, vae = load(args.shapes)
    wide = widened(vae)
    tensors = {TRANSFORMER + name: value for name, value in flux.named_parameters()}
    tensors |= {CLIP + name.removeprefix("text_model."): value for name, value in clip.named_parameters()}
    tensors |= {T5 + name: value for name, value in t5.named_parameters()}
    tensors |= {VAE + name: value for name, value in original_vae(wide).items()}
    half = {key: value.detach().to(torch.float16).contiguous() for key, value in tensors.items()}
    for key, value in half.items():
        assert value.isfinite().all(), key
    notes = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "flux-1-dev",
        "modelspec.title": "tiny flux",
        "modelspec.resolution": "128x128",
        "modelspec.license": "MIT OR Apache-2.0",
        "training": json.dumps({"steps": state["steps"], "seconds": state["seconds"]}),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(half, args.out, notes)
    print(f"{args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
