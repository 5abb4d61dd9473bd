"""The shipped checkpoint's pictures: the same bits wherever its weights live, and near the CPU's.

Beside the CPU's picture in f32: in f32 the device may round other sums otherwise, which moves a value of 255 by
one here and there; in f16 the whole way from noise to picture is rounded to 11 bits. Docs/gpu.md states it.
"""

import pathlib
import shutil

import kit
import png

CHECKPOINT = "tiny-shapes.safetensors"
PROMPT = "a red circle on a white background"
# Mean and largest difference to the CPU's f32 picture, of 255.
TOLERANCES = {"f32": (0.1, 8), "f16": (2.0, 96), "bf16": (6.0, 192)}


def generate(stage, name, *options, limit=None):
    path = stage.settings.path(f"{name}.png")
    side = stage.sizes["side"]
    stage.distorch(
        "generate", "--base-dir", stage.settings.repository, "--ckpt", CHECKPOINT, "--prompt", PROMPT,
        "--seed", "6", "--cfg", "2", "--steps", stage.sizes["steps"], "--width", side, "--height", side,
        "--output", path, "--overwrite", *options, limit=limit, env=kit.minimal_tuning(stage.settings.work),
    )
    return path


def placements(device, layouts):
    """Names and options: all on the device, half and all elsewhere, pinned and not."""
    yield "resident", []
    for share in (50, 100):
        for pin in (False, True):
            for layout in layouts:
                name = f"{share}% elsewhere, {layout}{', pinned' if pin else ''}"
                allocation = f"{device},{100 - share}%;cpu,{share}%"
                options = ["--expert-mode-allocations", allocation, "--layout", layout]
                yield name, options + ["--pin" if pin else "--no-pin"]


def run(stage):
    settings = stage.settings
    with stage.part("the CPU's picture"):
        reference = generate(stage, "cpu", "--device", "cpu", "--dtype", "f32")
    if not pathlib.Path(settings.path("cpu.png")).is_file():
        raise kit.Failed("without the CPU's picture there is nothing to compare with")
    for dtype in stage.sizes["dtypes"]:
        first = None
        for number, (name, options) in enumerate(placements(settings.placed_on, stage.sizes["layouts"])):
            with stage.part(f"{dtype}, {name}"):
                picture = generate(
                    stage, f"{dtype}-{number}", "--device", settings.placed_on, "--dtype", dtype, *settings.simulate, *options
                )
                if first is None:
                    first = picture
                    beside_the_cpu(stage, dtype, picture, reference)
                    shutil.copy(picture, pathlib.Path(settings.out, f"{dtype}.png"))
                else:
                    same = png.pixels(picture) == png.pixels(first)
                    stage.check(f"{dtype}, {name}: the bits of the resident one", same)
                    stage.add("same", {"dtype": dtype, "placement": name, "same": same})


def beside_the_cpu(stage, dtype, picture, reference):
    mean, largest = png.difference(picture, reference)
    most_mean, most = TOLERANCES[dtype]
    stage.add("beside_the_cpu", {"dtype": dtype, "mean": mean, "largest": largest, "tolerance": [most_mean, most]})
    near = mean <= most_mean and largest <= most
    stage.check(f"{dtype} is near the CPU's picture", near, f"mean {mean:.3f}, largest {largest} of 255")
