"""Puts the parts of the tiny Z-Image into three files, as ComfyUI's separate loaders take them.

    python tools/train_tiny_z_image/assemble_z_image.py FOLDER SHAPES MODELS

Writes diffusion_models/tiny-z-image.safetensors and vae/tiny-z-image-ae.safetensors in f16, and
text_encoders/tiny-qwen3.safetensors, whose token table is in fp8, under the folder MODELS. Transformer and encoder are the
averaged weights of FOLDER/z_image.pt; the autoencoder comes from SHAPES, the first tiny checkpoint.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from z_image_networks import Transformer, build_qwen  # first: it adds the path

from assemble_flux import original_vae
from networks import load
from sixteen import widened

FILES = {
    "transformer": "diffusion_models/tiny-z-image.safetensors",
    "qwen": "text_encoders/tiny-qwen3.safetensors",
    "vae": "vae/tiny-z-image-ae.safetensors",
}
TABLE = "model.embed_tokens.weight"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("shapes", type=Path)
    parser.add_argument("models", type=Path)
    args = parser.parse_args()
    state = torch.load(args.folder / "z_image.pt")
    transformer, qwen = Transformer(), build_qwen()
    transformer.load_state_dict(state["transformer"])
    qwen.load_state_dict(state["qwen"])
    tensors = {
        "transformer": dict(transformer.named_parameters()),
        "qwen": {f"model.{name}": value for name, value in qwen.named_parameters()},
        "vae": original_vae(widened(load(args.shapes)[2])),
    }
    training = json.dumps({"steps": state["steps"], "seconds": state["seconds"]})
    for part, file in FILES.items():
        dtype = lambda name: torch.float8_e4m3fn if name == TABLE else torch.float16
        stored = {name: value.detach().to(dtype(name)).contiguous() for name, value in tensors[part].items()}
        for name, value in stored.items():
            assert value.float().isfinite().all(), name
            assert value.dtype != torch.float8_e4m3fn or (value.float() == tensors[part][name]).all(), name
        path = args.models / file
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(stored, path, {"modelspec.license": "MIT OR Apache-2.0", "training": training})
        print(f"{file}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
