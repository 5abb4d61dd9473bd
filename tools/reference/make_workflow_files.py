"""Makes the files that the tests of crates/workflow load, and what is in them.

    pip install torch numpy safetensors
    python tools/reference/make_workflow_files.py

- latents/*: latents saved with safetensors.torch.
- inpaint.json: the picture and mask of VAEEncodeForInpaint, and the mask of ImagePadForOutpaint,
  computed with PyTorch.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

FIXTURES = Path(__file__).resolve().parents[2] / "crates/workflow/tests/fixtures"


def make_latents():
    folder = FIXTURES / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    values = torch.arange(2 * 4 * 3 * 5, dtype=torch.float32).reshape(2, 4, 3, 5) / 64 - 1
    marker = {"latent_format_version_0": torch.tensor([])}
    metadata = {"prompt": "{}"}
    save_file({"latent_tensor": values, **marker}, folder / "new.latent", metadata)
    save_file({"latent_tensor": values.half()}, folder / "old.latent")
    save_file({"latent_tensor": values[0]}, folder / "three.latent")
    save_file({"other": values}, folder / "other.latent")


def inpaint_case(height, width, mask_size, grow, seed):
    """Grey under the mask; the mask grown by a convolution with ones."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 101, (1, height, width, 3), generator=generator) / 100
    mask = (torch.rand(1, *mask_size, generator=generator) > 0.8).float()
    resized = torch.nn.functional.interpolate(mask[:, None], size=(height, width), mode="bilinear")
    rows, columns = height // 8 * 8, width // 8 * 8
    top, left = height % 8 // 2, width % 8 // 2
    cut = pixels[:, top : top + rows, left : left + columns]
    resized = resized[:, :, top : top + rows, left : left + columns]
    hard = resized.round()
    grown = hard
    if grow:
        square = torch.ones(1, 1, grow, grow)
        grown = torch.nn.functional.conv2d(hard, square, padding=math.ceil((grow - 1) / 2))
        grown = grown.clamp(0, 1)[:, :, :rows, :columns].round()
    grey = torch.where(hard[:, 0, :, :, None] > 0, torch.full_like(cut, 0.5), cut)
    return {
        "height": height, "width": width, "grow": grow, "mask_shape": list(mask.shape),
        "pixels": digits(pixels), "mask": mask.int().flatten().tolist(),
        "shape": list(grey.shape), "grey": digits(grey), "grown": grown.int().flatten().tolist(),
    }


def digits(x):
    return [round(v, 5) for v in x.flatten().tolist()]


def outpaint_case(height, width, border, feathering):
    """The mask by distances: zero inside, rising as the square towards sides with a border."""
    left, top, right, bottom = border
    y, x = np.mgrid[0:height, 0:width].astype(float)
    distances = [d for d, b in ((y, top), (height - y, bottom), (x, left), (width - x, right)) if b]
    inside = np.zeros((height, width))
    if distances and 0 < feathering < min(height, width) / 2:
        nearest = np.minimum.reduce(distances)
        inside = (np.clip(feathering - nearest, 0, None) / feathering) ** 2
    mask = np.ones((height + top + bottom, width + left + right))
    mask[top : top + height, left : left + width] = inside
    return {
        "height": height, "width": width, "border": border, "feathering": feathering,
        "mask": [round(v, 6) for v in mask.flatten().tolist()],
    }


def main():
    make_latents()
    inpaint = {
        "inpaint": [
            inpaint_case(16, 24, (16, 24), 6, 1),
            inpaint_case(19, 13, (7, 5), 0, 2),
            inpaint_case(17, 18, (9, 9), 5, 3),
            inpaint_case(16, 16, (4, 4), 1, 4),
        ],
        "outpaint": [
            outpaint_case(12, 11, (8, 0, 0, 0), 4),
            outpaint_case(12, 15, (0, 8, 8, 16), 5),
            outpaint_case(10, 12, (8, 8, 8, 8), 5),
            outpaint_case(6, 6, (0, 0, 0, 0), 2),
        ],
    }
    for name, value in {"inpaint.json": inpaint}.items():
        path = FIXTURES / name
        path.write_text(json.dumps(value, separators=(",", ":")) + "\n")
        print(name, path.stat().st_size)


if __name__ == "__main__":
    main()
