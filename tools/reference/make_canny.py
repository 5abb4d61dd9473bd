"""Writes crates/pipeline/tests/fixtures/canny.json: edges by Kornia, whose function ComfyUI's node `Canny` is.

    pip install torch kornia==0.9.0
    python tools/reference/make_canny.py

Pictures are bytes row by row, edges 0 or 1 for each pixel.
"""

import json
from pathlib import Path

import torch
from kornia.filters import canny

OUT = Path(__file__).resolve().parents[2] / "crates/pipeline/tests/fixtures/canny.json"


def pictures():
    generator = torch.Generator().manual_seed(3)
    rough = torch.rand(1, 3, 5, 6, generator=generator)
    yield "smooth", torch.nn.functional.interpolate(rough, (24, 30), mode="bicubic").clamp(0, 1)
    yield "noise", torch.rand(2, 3, 12, 15, generator=generator)
    y, x = torch.meshgrid(torch.arange(22.0), torch.arange(26.0), indexing="ij")
    disc = ((y - 9.3) ** 2 + (x - 12.6) ** 2 < 47).float()
    yield "disc", torch.stack([disc, 0.3 + 0.5 * disc, 1 - disc])[None]
    yield "grey", torch.nn.functional.interpolate(torch.rand(1, 1, 4, 4, generator=generator), (17, 13), mode="bilinear")


def main():
    cases = []
    for name, picture in pictures():
        data = (picture * 255).round().byte()
        for low, high in [(0.1, 0.2), (0.2, 0.6), (0.4, 0.8)]:
            edges = canny(data.float() / 255, low, high)[1]
            if edges.any():
                batch, channels, height, width = data.shape
                cases.append(
                    {
                        "name": name,
                        "low": low,
                        "high": high,
                        "shape": [batch, height, width, channels],
                        "bytes": data.permute(0, 2, 3, 1).flatten().tolist(),
                        "edges": edges.byte().flatten().tolist(),
                    }
                )
    OUT.write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    print(OUT.name, OUT.stat().st_size, [(case["name"], case["low"], sum(case["edges"])) for case in cases])


if __name__ == "__main__":
    main()
