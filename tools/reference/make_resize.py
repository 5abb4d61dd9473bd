"""Makes crates/pipeline/tests/fixtures/resize.json: pictures at other sizes.

    pip install torch numpy pillow
    python tools/reference/make_resize.py

- nearest-exact, bilinear, area, bicubic: torch.nn.functional.interpolate.
- lanczos: PIL's Image.resize on 8-bit pictures, at sizes where all versions make the width first
  (Pillow 13 makes the height first where that shrinks much more than the width).
- bislerp: the published formula on top of PyTorch's bilinear coordinates, in float32.

Data is [batch, height, width, channels], as the crate has it.
"""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

FIXTURE = Path(__file__).resolve().parents[2] / "crates/pipeline/tests/fixtures/resize.json"


def latent_like(generator):
    """Three channels, with pixels of length 0, of one direction and of opposite ones side by side."""
    x = torch.randn(2, 5, 7, 3, generator=generator)
    x[0, 2, 3] = 0
    x[0, 4, 5] = x[0, 4, 4]
    x[1, 1, 4] = -x[1, 1, 3]
    return x


def inputs():
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (1, 9, 13, 3), generator=generator)
    alpha = torch.randint(0, 256, (1, 8, 6, 4), generator=generator)
    alpha[0, 0, :3, 3] = torch.tensor([0, 255, 1])
    exact = {
        "latent": latent_like(generator),
        # Whole bytes a little above: a value of 0 to 1 is cut off to 8 bits.
        "picture": (pixels + 0.25).clamp(max=255) / 255,
        "alpha": (alpha + 0.25).clamp(max=255) / 255,
        "mask": torch.rand(3, 5, 4, 1, generator=generator),
    }
    # Of few digits, so that the file holds them as they are.
    return {name: (x * 1000).round() / 1000 for name, x in exact.items()}


def along(x, dim, length):
    """Turns the vectors of channels (the last dimension) along one dimension."""
    old = x.shape[dim]
    ramp = torch.arange(old, dtype=torch.float32)[None, None]
    place = torch.nn.functional.interpolate(ramp, size=length, mode="linear")[0, 0]
    low = place.floor().long()
    high = (low + 1).clamp(max=old - 1)
    share = (place - low).reshape([-1 if d == dim else 1 for d in range(4)])
    a, b = x.index_select(dim, low), x.index_select(dim, high)
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    unit_a = torch.where(length_a == 0, torch.zeros_like(a), a / length_a)
    unit_b = torch.where(length_b == 0, torch.zeros_like(b), b / length_b)
    dot = (unit_a * unit_b).sum(-1, keepdim=True)
    angle = dot.acos()
    turned = ((1 - share) * angle).sin() / angle.sin() * unit_a + (share * angle).sin() / angle.sin() * unit_b
    turned = turned * (length_a * (1 - share) + length_b * share)
    turned = torch.where(dot > 1 - 1e-5, a, turned)
    return torch.where(dot < 1e-5 - 1, a * (1 - share) + b * share, turned)


def lanczos(x, size):
    pictures = (x * 255).clamp(0, 255).numpy().astype(np.uint8)
    resized = [Image.fromarray(p).resize((size[1], size[0]), Image.Resampling.LANCZOS) for p in pictures]
    return torch.from_numpy(np.stack([np.array(p) for p in resized]).astype(np.float32) / 255)


def resize(method, x, size):
    if method == "bislerp":
        return along(along(x, 2, size[1]), 1, size[0])
    if method == "lanczos":
        return lanczos(x, size)
    y = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2), size=size, mode=method)
    return y.permute(0, 2, 3, 1)


# Larger, smaller, one side each way, the same, one pixel, and no whole ratio.
SIZES = {
    "latent": [(10, 14), (3, 4), (5, 7), (4, 11), (1, 1), (6, 7)],
    "picture": [(18, 26), (4, 5), (9, 13), (9, 7), (12, 30)],
    "alpha": [(11, 4), (10, 9)],
    "mask": [(13, 3)],
}
METHODS = {
    "latent": ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"],
    "picture": ["lanczos"],
    "alpha": ["lanczos", "bicubic"],
    "mask": ["bilinear", "nearest-exact"],
}


def values(x):
    return [round(v, 6) for v in x.flatten().tolist()]


def main():
    pictures = inputs()
    out = {"inputs": {}, "cases": []}
    for name, x in pictures.items():
        out["inputs"][name] = {"shape": list(x.shape), "values": values(x)}
        for method in METHODS[name]:
            for size in SIZES[name]:
                y = resize(method, x, size)
                assert not y.isnan().any()
                case = {"method": method, "input": name, "shape": list(y.shape)}
                out["cases"].append({**case, "values": values(y)})
    FIXTURE.parent.mkdir(parents=True, exist_ok=True)
    FIXTURE.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(FIXTURE.name, FIXTURE.stat().st_size, len(out["cases"]))


if __name__ == "__main__":
    main()
