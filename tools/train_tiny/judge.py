"""Does a picture show what was asked for? Judged by colours and connected regions, nothing learnt.

The measure, simple enough to be written again in any language:

1. Background: of the pixels of the outermost frame (1/32 of the shorter side wide), at least 85 %
   have the named background as their nearest colour of the palette.
2. Regions: pixels that are nearer to the named shape's colour than to the named background, joined
   through their four neighbours. Regions of less than 1/200 of the picture are dust. What is left
   must be as many as were asked for.
3. Colour: the median colour of each region has the named colour as its nearest of the palette.
4. Shape: the region's area divided by that of its bounding box. A circle has pi/4, a square 1, a
   triangle 1/2; the ranges are in `FILL`. An outlined shape has a quarter less. Shapes are outlined
   where the pixel in the middle of the bounding box (of a triangle: two thirds down) is nearer to
   the background's colour, as counts for point 2, and full otherwise.
5. Nothing else: at most 4 % of the pixels are nearest to a colour of the palette that was not
   named and farther than 60 (of 255, Euclidean) from every blend of the two that were.

"Nearest" is by Euclidean distance of RGB bytes. For a place, the middle of the region's bounding
box is below 0.42 or above 0.58 of the side, or within 0.1 of the middle for the centre.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from pictures import COLOURS

FILL = {"triangle": (0.41, 0.64), "circle": (0.69, 0.87), "square": (0.88, 1.05)}
NAMES = list(COLOURS)
PALETTE = np.array([COLOURS[name] for name in NAMES], dtype=np.float64)


@dataclass(frozen=True)
class Wanted:
    """What a prompt asks for."""

    prompt: str
    kind: str
    colour: str
    background: str
    count: int = 1
    place: str | None = None
    outlined: bool = False


def distances(pixels) -> np.ndarray:
    """Distance of each pixel to each colour of the palette."""
    return np.linalg.norm(pixels[..., None, :].astype(np.float64) - PALETTE, axis=-1)


def regions(mask: np.ndarray) -> list[np.ndarray]:
    """Connected regions of a mask, each a list of [row, column]."""
    height, width = mask.shape
    seen, found = ~mask, []
    for row, column in zip(*np.nonzero(mask)):
        if seen[row, column]:
            continue
        seen[row, column] = True
        queue, region = deque([(row, column)]), []
        while queue:
            y, x = queue.popleft()
            region.append((y, x))
            for b, a in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= b < height and 0 <= a < width and not seen[b, a]:
                    seen[b, a] = True
                    queue.append((b, a))
        found.append(np.array(region))
    return found


def fill(region: np.ndarray) -> float:
    """The part of its bounding box that a region covers."""
    return len(region) / np.prod(np.ptp(region, axis=0) + 1)


def hollow(region: np.ndarray, kind: str) -> bool:
    """Whether the middle of a region is not part of it."""
    low, high = region.min(0), region.max(0)
    down = 2 / 3 if kind == "triangle" else 1 / 2
    middle = np.round(low + (high - low) * (down, 1 / 2))
    return not (region == middle).all(1).any()


def blend_distance(pixels, one, other) -> np.ndarray:
    """Distance of each pixel to the line between two colours."""
    one, other = np.array(one, float), np.array(other, float)
    along = other - one
    part = ((pixels - one) @ along / (along @ along)).clip(0, 1)
    return np.linalg.norm(pixels - one - part[..., None] * along, axis=-1)


def shapes(picture: np.ndarray, wanted: Wanted) -> list[np.ndarray]:
    """The regions that are not background."""
    away = distances(picture)
    mask = away[..., NAMES.index(wanted.colour)] < away[..., NAMES.index(wanted.background)]
    return [region for region in regions(mask) if len(region) >= mask.size / 200]


def faults(picture: np.ndarray, wanted: Wanted) -> list[str]:
    """What is wrong with a picture [height, width, 3]; nothing if it is right."""
    height, width, _ = picture.shape
    nearest = distances(picture).argmin(-1)
    colour, background = NAMES.index(wanted.colour), NAMES.index(wanted.background)
    found = []
    edge = max(1, min(height, width) // 32)
    frame = np.ones((height, width), bool)
    frame[edge:-edge, edge:-edge] = False
    if (nearest[frame] == background).mean() < 0.85:
        found.append("background")
    seen = shapes(picture, wanted)
    if len(seen) != wanted.count:
        found.append(f"count {len(seen)}")
    low, high = FILL[wanted.kind]
    for region in seen:
        median = np.median(picture[region[:, 0], region[:, 1]], axis=0)
        if distances(median).argmin() != colour:
            found.append(f"colour {NAMES[distances(median).argmin()]}")
        covered = fill(region) / (0.75 if wanted.outlined else 1.0)
        if not low <= covered <= high:
            found.append(f"shape {covered:.2f}")
        if hollow(region, wanted.kind) != wanted.outlined:
            found.append("full" if wanted.outlined else "hollow")
    blend = blend_distance(picture, COLOURS[wanted.colour], COLOURS[wanted.background])
    if ((nearest != colour) & (nearest != background) & (blend > 60)).mean() > 0.04:
        found.append("something else")
    if wanted.place and len(seen) == 1 and not placed(seen[0], wanted.place, height, width):
        found.append("place")
    return found


def placed(region, place: str, height: int, width: int) -> bool:
    """Whether the middle of a region's bounding box is at a place."""
    y, x = (region.min(0) + region.max(0) + 1) / 2 / (height, width)
    return {
        "left": x < 0.42,
        "right": x > 0.58,
        "top": y < 0.42,
        "bottom": y > 0.58,
        "centre": abs(x - 0.5) < 0.1 and abs(y - 0.5) < 0.1,
    }[place]
