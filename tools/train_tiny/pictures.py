"""The pictures that the tiny checkpoint knows, and the sentences that describe them.

A `Scene` says what is in a picture; `draw` paints it, `caption` words it in one of several ways.
Everything follows from the random generator that is passed in.
"""

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 40),
    "orange": (255, 140, 0),
    "yellow": (250, 230, 50),
    "green": (30, 160, 60),
    "blue": (30, 70, 220),
    "purple": (140, 40, 170),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
}
NUMBERED = {name: number for number, name in enumerate(COLOURS)}
# Where each colour is in the autoencoder's latent space. Near to what an autoencoder that was trained
# freely had made of them, but moved apart: no colour is nearer than 1.28 to a blend of two others, which
# is what a cell on an edge shows. Each channel has mean 0 and deviation 1.
LATENTS = {
    "red": (0.41, -0.04, -0.64, -1.32),
    "orange": (0.35, 1.52, 0.04, -0.97),
    "yellow": (1.77, 0.94, 0.54, -0.62),
    "green": (-1.04, -0.99, 1.01, 1.54),
    "blue": (-1.54, -0.70, -0.77, 0.29),
    "purple": (0.00, 0.18, -1.49, 0.16),
    "black": (-0.74, -1.66, -0.49, 1.47),
    "white": (0.78, 0.74, 1.80, -0.56),
}
SHAPES = ["circle", "square", "triangle"]
HOLE = 0.5  # of the width of an outlined shape
NUMBERS = {1: "one", 2: "two", 3: "three"}
# Where the middle of a shape may be, in parts of the width and of the height.
PLACES = {
    "left": ((0.22, 0.32), (0.40, 0.60)),
    "right": ((0.68, 0.78), (0.40, 0.60)),
    "top": ((0.40, 0.60), (0.22, 0.32)),
    "bottom": ((0.40, 0.60), (0.68, 0.78)),
    "centre": ((0.48, 0.52), (0.48, 0.52)),
}

# No training picture shows these, so that a model that draws them has learnt words, not pictures.
HELD_OUT_SHAPES = [  # a shape of a colour
    ("blue", "triangle"),
    ("orange", "square"),
    ("purple", "circle"),
    ("black", "triangle"),
]
HELD_OUT_BACKGROUNDS = [  # a shape of the first colour on a background of the second
    ("yellow", "purple"),
    ("red", "green"),
    ("white", "blue"),
    ("orange", "black"),
    ("green", "yellow"),
]


@dataclass(frozen=True)
class Shape:
    """One shape. `x` and `y` are its middle and `r` half its width, in pixels.

    An outlined shape is hollow: its inner half shows the background.
    """

    kind: str
    colour: str
    x: float
    y: float
    r: float
    outlined: bool = False

    def box(self):
        """The bounding box."""
        return self.x - self.r, self.y - self.r, self.x + self.r, self.y + self.r


@dataclass(frozen=True)
class Scene:
    """A picture. `place` is where its one shape is, if the caption may say so."""

    width: int
    height: int
    background: str
    shapes: tuple[Shape, ...]
    place: str | None = None


def allowed(kind: str, colour: str, background: str) -> bool:
    """Whether training may show this."""
    return (
        colour != background
        and (colour, kind) not in HELD_OUT_SHAPES
        and (colour, background) not in HELD_OUT_BACKGROUNDS
    )


def scene(rng: random.Random, width: int, height: int) -> Scene:
    """A scene for training: one shape, two or three alike, or two that differ."""
    what = rng.choices(["one", "alike", "pair"], [60, 30, 10])[0]
    while True:
        background, colour, other = rng.choices(list(COLOURS), k=3)
        kind, other_kind = rng.choice(SHAPES), rng.choice(SHAPES)
        if not allowed(kind, colour, background):
            continue
        if what != "pair":
            break
        if allowed(other_kind, other, background) and colour != other:
            break
    side = min(width, height)
    if what == "one":
        place = rng.choice([None, None, *PLACES])
        r = side * (rng.uniform(0.20, 0.32) if place in (None, "centre") else rng.uniform(0.17, 0.22))
        return Scene(width, height, background, (one(rng, kind, colour, width, height, r, place),), place)
    if what == "alike":
        count = rng.choice([2, 3])
        r = side * (rng.uniform(0.15, 0.19) if count == 2 else rng.uniform(0.12, 0.15))
        return Scene(width, height, background, apart(rng, kind, colour, width, height, r, count))
    pair = []
    for where, kind, colour in [("left", kind, colour), ("right", other_kind, other)]:
        pair.append(one(rng, kind, colour, width, height, side * rng.uniform(0.15, 0.20), where))
    return Scene(width, height, background, tuple(pair))


def outlined(scene: Scene) -> Scene:
    """The same scene with hollow shapes."""
    return replace(scene, shapes=tuple(replace(shape, outlined=True) for shape in scene.shapes))


def one(rng, kind, colour, width, height, r, place) -> Shape:
    """A shape at a place, or anywhere."""
    if place is None:
        margin = r + side_margin(width, height)
        x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
    else:
        across, down = PLACES[place]
        x, y = rng.uniform(*across) * width, rng.uniform(*down) * height
    return Shape(kind, colour, x, y, r)


def apart(rng, kind, colour, width, height, r, count) -> tuple[Shape, ...]:
    """Shapes that do not touch, anywhere."""
    gap = 3 * side_margin(width, height)
    while True:
        found = [one(rng, kind, colour, width, height, r, None) for _ in range(count)]
        pairs = [(a, b) for i, a in enumerate(found) for b in found[:i]]
        if all(max(abs(a.x - b.x), abs(a.y - b.y)) > 2 * r + gap for a, b in pairs):
            return tuple(found)


def side_margin(width: int, height: int) -> float:
    """What shapes keep from the edge."""
    return 0.03 * min(width, height)


def corners(shape: Shape, size: float) -> list[tuple[float, float]]:
    """The corners of a shape that has corners, or of its hole."""
    x, y, r = shape.x, shape.y, shape.r
    if shape.kind == "square":
        return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]
    if shape.kind == "triangle":
        # The hole keeps the triangle's centre of mass, a sixth of its height below the middle.
        y += 0.3 * r * (1 / size - 1)
        return [(x, y - 0.9 * r), (x + r, y + 0.9 * r), (x - r, y + 0.9 * r)]
    raise ValueError(f"no shape is called {shape.kind!r}")


def paint(scene: Scene, palette, finer: int, mode: str = "RGB") -> Image.Image:
    """The scene with hard edges, drawn larger."""
    image = Image.new(mode, (scene.width * finer, scene.height * finer), palette[scene.background])
    pen = ImageDraw.Draw(image)
    for shape in scene.shapes:
        for size, colour in [(1.0, shape.colour), (HOLE, scene.background)][: 1 + shape.outlined]:
            part = replace(
                shape, x=shape.x * finer, y=shape.y * finer, r=shape.r * finer * size
            )
            if shape.kind == "circle":
                pen.ellipse(part.box(), palette[colour])
            else:
                pen.polygon(corners(part, size), palette[colour])
    return image


def draw(scene: Scene, finer: int = 4) -> np.ndarray:
    """The picture, [height, width, 3] bytes, with smooth edges: drawn larger and averaged."""
    image = paint(scene, COLOURS, finer)
    return np.asarray(image.resize((scene.width, scene.height), Image.Resampling.BOX))


def latent(scene: Scene, finer: int = 3) -> np.ndarray:
    """The latent that stands for the picture, [4, height / 8, width / 8], scaled to deviation 1:
    of each cell of 8 x 8 pixels the average of its colours' points in `LATENTS`."""
    image = np.asarray(paint(scene, NUMBERED, finer, "L"))
    height, width, side = scene.height // 8, scene.width // 8, 8 * finer
    cells = image.reshape(height, side, width, side)
    found = np.zeros((4, height, width), dtype=np.float32)
    for colour in {scene.background, *(shape.colour for shape in scene.shapes)}:
        part = np.count_nonzero(cells == NUMBERED[colour], (1, 3)) / side**2
        found += np.array(LATENTS[colour], dtype=np.float32)[:, None, None] * part.astype(np.float32)
    return found


def thing(shape: Shape) -> str:
    """A shape as words: `a red circle`, `an orange triangle`."""
    return f"{'an' if shape.colour[0] in 'aeiou' else 'a'} {shape.colour} {shape.kind}"


def caption(rng: random.Random, scene: Scene) -> str:
    """One of the ways to describe a scene."""
    first = scene.shapes[0]
    if len(scene.shapes) == 1 and scene.place and rng.random() < 0.8:
        return placed_caption(rng, thing(first), scene)
    if len(scene.shapes) == 1:
        what = thing(first)
    elif all(shape.colour == first.colour for shape in scene.shapes):
        what = f"{NUMBERS[len(scene.shapes)]} {first.colour} {first.kind}s"
    else:
        left, right = (thing(shape) for shape in scene.shapes)
        what = rng.choice(
            [
                f"{left} to the left of {right}",
                f"{left} on the left and {right} on the right",
                f"{right} to the right of {left}",
                f"{left} and {right}",
            ]
        )
    return worded(rng, what, scene.background)


def worded(rng: random.Random, what: str, background: str) -> str:
    """What is on a background, in several wordings; the first is the usual one."""
    ways = {
        f"{what} on a {background} background": 8,
        f"{what}, {background} background": 3,
        f"{what} on {background}": 2,
        f"a picture of {what} on a {background} background": 2,
        f"{what} in front of a {background} background": 1,
        f"a {background} background with {what}": 2,
        what: 1,
    }
    return rng.choices(list(ways), ways.values())[0].replace("a orange", "an orange")


def placed_caption(rng: random.Random, what: str, scene: Scene) -> str:
    """A caption that says where the shape is."""
    where = {
        "left": "on the left",
        "right": "on the right",
        "top": "at the top",
        "bottom": "at the bottom",
        "centre": "in the centre",
    }[scene.place]
    return rng.choice(
        [
            f"{what} {where} of a {scene.background} background",
            f"{what} {where}, {scene.background} background",
            f"{what} {where} on a {scene.background} background",
        ]
    ).replace("a orange", "an orange")


def batch_of_bytes(pictures) -> np.ndarray:
    """Pictures of one size as [batch, 3, height, width] bytes."""
    return np.stack([picture.transpose(2, 0, 1) for picture in pictures])
