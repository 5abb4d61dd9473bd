"""Writes crates/models/tests/fixtures/tiles.json: pictures put together from tiles.

    pip install numpy
    python tools/reference/make_tiles.py

Every tile and the weight of every pixel are written out in float64, by ComfyUI's formula and with none of the
program's short cuts. What becomes of a tile depends on places within the tile, so that the weights show.
"""

import json
from pathlib import Path

import numpy as np

FIXTURE = Path(__file__).parents[2] / "crates/models/tests/fixtures/tiles.json"


def source(height, width):
    y, x = np.mgrid[:height, :width]
    return np.sin(0.7 * y) + np.cos(0.45 * x) + 0.03 * y * x % 1


def convert(tile, side, up):
    """Repeats pixels or takes the means of whole blocks, and adds what depends on the place in the tile."""
    if up:
        out = tile.repeat(side, 0).repeat(side, 1)
    else:
        height, width = (length // side for length in tile.shape)
        out = tile[: height * side, : width * side].reshape(height, side, width, side).mean((1, 3))
    y, x = np.mgrid[: out.shape[0], : out.shape[1]]
    return out + 0.02 * y - 0.013 * x


def one_pass(picture, tile, overlap, side, up):
    scaled = lambda value: round(value * side) if up else round(value / side)
    if all(length <= limit for length, limit in zip(picture.shape, tile)):
        return convert(picture, side, up)
    size = [length * side if up else length // side for length in picture.shape]
    total, weights = np.zeros(size), np.zeros(size)
    starts = [
        range(0, length - overlap, limit - overlap) if length > limit else [0]
        for length, limit in zip(picture.shape, tile)
    ]
    fade = scaled(overlap)
    for top in starts[0]:
        for left in starts[1]:
            part = convert(picture[top : top + tile[0], left : left + tile[1]], side, up)
            weight = np.ones_like(part)
            for axis, length in enumerate(part.shape):
                if fade >= length:
                    continue
                for k in range(fade):
                    for row in (k, length - 1 - k):
                        weight[(slice(None),) * axis + (row,)] *= (k + 1) / fade
            place = tuple(slice(scaled(start), scaled(start) + n) for start, n in zip((top, left), part.shape))
            total[place] += part * weight
            weights[place] += weight
    return total / weights


def main():
    cases = []
    for up, side, sizes, tilings in [
        # In latent pixels: one square tile would do; short tiles; many.
        (True, 2, [(9, 6), (12, 16), (5, 23)], [(16, 4), (12, 3), (8, 2), (6, 1)]),
        (True, 1, [(20, 20)], [(16, 5)]),
        # In pixels: overlaps of no whole latent pixel; an overlap of half a tile where that matters to no pass.
        (False, 4, [(48, 40), (24, 60)], [(32, 8), (32, 14), (24, 10), (64, 32)]),
    ]:
        for height, width in sizes:
            for tile, overlap in tilings:
                passes = [(tile, tile), (2 * tile, tile // 2), (tile // 2, 2 * tile)]
                try:
                    with np.errstate(invalid="raise"):
                        out = sum(one_pass(source(height, width), p, overlap, side, up) for p in passes) / 3
                except (FloatingPointError, ValueError):
                    continue  # gaps, which are refused
                cases.append(
                    {
                        "up": up, "side": side, "height": height, "width": width, "tile": tile, "overlap": overlap,
                        "expected": [round(value, 4) for value in out.flatten().tolist()],
                    }
                )
    FIXTURE.write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    print(FIXTURE.name, FIXTURE.stat().st_size, len(cases), [(c["up"], c["height"], c["width"], c["tile"], c["overlap"]) for c in cases])


main()
