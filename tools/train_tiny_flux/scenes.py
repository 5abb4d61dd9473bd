"""Scenes of few arrangements, whose shapes keep to the transformer's tokens.

A token of the transformer is 16 x 16 pixels. Here the bounding box of a shape begins at the edge of a token, there are
three sizes, and a sentence has one arrangement, or up to three, one of which the noise chooses: attention with a single head
brings more of them only slowly to agree over a picture. The words are those of `pictures`.
"""

import random

import pictures
from pictures import Scene, Shape

TOKEN = 16
SIDE = 128
# Half the width of a shape.
SMALL, MIDDLE, LARGE = 16, 24, 32
# Where boxes begin, as columns and rows of tokens: one arrangement, and those that more of them add.
ANYWHERE = [(2, 2), (1, 2), (3, 2)]
PLACES = {"left": (1, 2), "right": (4, 2), "top": (2, 1), "bottom": (2, 4)}
TWO = [[(1, 3), (5, 3)], [(3, 1), (3, 5)]]
THREE = [[(1, 1), (5, 1), (3, 5)], [(3, 1), (1, 5), (5, 5)]]


def shape(kind: str, colour: str, r: int, at: tuple[int, int]) -> Shape:
    """A shape whose box begins at a token."""
    return Shape(kind, colour, at[0] * TOKEN + r, at[1] * TOKEN + r, r)


def placed(rng: random.Random, kind: str, colour: str, place: str | None, arrangements: int) -> Shape:
    """One shape at a place."""
    if place in PLACES:
        return shape(kind, colour, MIDDLE, PLACES[place])
    return shape(kind, colour, LARGE, (2, 2) if place else rng.choice(ANYWHERE[:arrangements]))


def scene(rng: random.Random, arrangements: int = 1) -> Scene:
    """A scene for training, of 128 x 128 pixels: one shape, two or three alike, or two that differ."""
    what = rng.choices(["one", "alike", "pair"], [60, 30, 10])[0]
    while True:
        background, colour, other = rng.choices(list(pictures.COLOURS), k=3)
        kind, other_kind = rng.choice(pictures.SHAPES), rng.choice(pictures.SHAPES)
        if not pictures.allowed(kind, colour, background):
            continue
        if what != "pair":
            break
        if pictures.allowed(other_kind, other, background) and colour != other:
            break
    if what == "one":
        place = rng.choice([*[None] * 5, *pictures.PLACES])
        return Scene(SIDE, SIDE, background, (placed(rng, kind, colour, place, arrangements),), place)
    if what == "alike":
        found = rng.choice(rng.choice([TWO, THREE])[:arrangements])
        return Scene(SIDE, SIDE, background, tuple(shape(kind, colour, SMALL, at) for at in found))
    left, right = TWO[0]
    pair = shape(kind, colour, SMALL, left), shape(other_kind, other, SMALL, right)
    return Scene(SIDE, SIDE, background, pair)
