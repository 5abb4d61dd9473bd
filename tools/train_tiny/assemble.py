"""Puts the parts that were trained together into a checkpoint.

    python tools/train_tiny/assemble.py FOLDER OUT.safetensors [--start CHECKPOINT]

Reads FOLDER/diffusion.pt, decoder.pt and encoder.pt; a half of the autoencoder that is not there is
taken from CHECKPOINT. The autoencoder computes latents of SD 1.x' scale.
"""

import argparse
import json
from pathlib import Path

import torch

from networks import build_text_encoder, build_unet, build_vae, load, save
from train_vae import halves


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path)
    args = parser.parse_args()
    vae = load(args.start)[2] if args.start else build_vae()
    for name, half in halves(vae).items():
        if (args.folder / f"{name}.pt").exists() or not args.start:
            half.load_state_dict(torch.load(args.folder / f"{name}.pt"))
    text, unet = build_text_encoder(), build_unet()
    state = torch.load(args.folder / "diffusion.pt")
    text.load_state_dict(state["text"])
    unet.load_state_dict(state["unet"])
    notes = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.title": "tiny shapes",
        "modelspec.prediction_type": "epsilon",
        "modelspec.resolution": "128x128",
        "modelspec.license": "MIT OR Apache-2.0",
        "training": json.dumps({"steps": state["steps"], "seconds": state["seconds"]}),
    }
    save(args.out, text, unet, vae, notes)
    print(f"{args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
