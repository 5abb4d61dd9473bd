"""Writes crates/models/tests/fixtures/upscaler.safetensors from spandrel's networks, and compact.pth.

    pip install spandrel
    python tools/reference/make_upscaler.py

As make_unet.py: weights and inputs follow from their names, which are those of the files; the fixture holds outputs
and metadata. `compact.pth` is a file as trainers save it: the weights and their average in a dict.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from spandrel import ModelLoader

import seeded

FIXTURES = Path(__file__).parents[2] / "crates/models/tests/fixtures"
SEED = 31


def rrdb(style, blocks, doublings, inputs=3, features=8, growth=32, plus=False):
    """The names and shapes of an ESRGAN file."""
    shapes = {}

    def conv(name, out, channels, kernel=3, bias=True):
        shapes[f"{name}.weight"] = [out, channels, kernel, kernel]
        if bias:
            shapes[f"{name}.bias"] = [out]

    listed = style == "listed"
    block = {"listed": "model.1.sub.{}.RDB{}.{}", "trunk": "RRDB_trunk.{}.RDB{}.{}", "body": "body.{}.rdb{}.{}"}[style]
    conv("model.0" if listed else "conv_first", features, inputs)
    for b in range(blocks):
        for r in range(1, 4):
            if plus:
                conv(block.format(b, r, "conv1x1"), growth, features, 1, False)
            for c in range(1, 6):
                name = block.format(b, r, f"conv{c}") + (".0" if listed else "")
                conv(name, growth if c < 5 else features, features + (c - 1) * growth)
    conv({"listed": f"model.1.sub.{blocks}", "trunk": "trunk_conv", "body": "conv_body"}[style], features, features)
    for d in range(1, doublings + 1):
        conv({"listed": f"model.{3 * d}", "trunk": f"upconv{d}", "body": f"conv_up{d}"}[style], features, features)
    high, last = f"model.{3 * doublings + 2}", f"model.{3 * doublings + 4}"
    conv(high if listed else ("HRconv" if style == "trunk" else "conv_hr"), features, features)
    conv(last if listed else "conv_last", 3, features)
    return shapes


def compact(convolutions, scale, features=8):
    shapes = {}
    for place in range(convolutions + 1):
        shapes[f"body.{2 * place}.weight"] = [features, features if place else 3, 3, 3]
        shapes[f"body.{2 * place}.bias"] = [features]
        shapes[f"body.{2 * place + 1}.weight"] = [features]
    last = 2 * convolutions + 2
    shapes[f"body.{last}.weight"] = [3 * scale * scale, features, 3, 3]
    shapes[f"body.{last}.bias"] = [3 * scale * scale]
    return shapes


def span(scale, features=6, centred=True):
    shapes = {}

    def conv(name, out, channels, kernel):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = [out, channels, kernel, kernel], [out]

    def convolution(name, out, channels):
        conv(f"{name}.sk", out, channels, 1)
        conv(f"{name}.conv.0", 2 * channels, channels, 1)
        conv(f"{name}.conv.1", 2 * out, 2 * channels, 3)
        conv(f"{name}.conv.2", out, 2 * out, 1)
        conv(f"{name}.eval_conv", out, channels, 3)

    convolution("conv_1", features, 3)
    for block in range(1, 7):
        for c in range(1, 4):
            convolution(f"block_{block}.c{c}_r", features, features)
    conv("conv_cat", features, 4 * features, 1)
    convolution("conv_2", features, features)
    conv("upsampler.0", 3 * scale * scale, features, 3)
    if not centred:
        shapes["no_norm"] = [1]
    return shapes


CASES = {
    "x4_listed": rrdb("listed", 2, 2),
    "x1_listed": rrdb("listed", 1, 0),
    "x8_listed": rrdb("listed", 1, 3),
    "plus_listed": rrdb("listed", 1, 1, plus=True),
    "x4_trunk": rrdb("trunk", 1, 2),
    "x4_body": rrdb("body", 1, 2, growth=32),
    "x2_unshuffled": rrdb("body", 1, 2, inputs=12),
    "x1_unshuffled": rrdb("body", 1, 2, inputs=48),
    "compact_x2": compact(2, 2),
    "compact_x1": compact(1, 1),
    "span_x2": span(2),
    "span_x4_as_it_is": span(4, centred=False),
}
PICTURE = (1, 3, 7, 10)


def main():
    picture = torch.from_numpy(seeded.uniform("picture", PICTURE, SEED) * 0.5 + 0.5)
    tensors, scales = {}, {}
    for case, shapes in CASES.items():
        state = {name: torch.from_numpy(seeded.weight(name, tuple(shape), SEED)) for name, shape in shapes.items()}
        model = ModelLoader().load_from_state_dict(dict(state))
        scales[case] = model.scale
        with torch.no_grad():
            tensors[case] = model.model.eval()(picture).contiguous()
        if case == "compact_x2":
            other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
            torch.save({"params": other, "params_ema": state}, FIXTURES / "compact.pth")
    metadata = {"cases": CASES, "scales": scales, "picture": PICTURE, "seed": SEED}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    path = FIXTURES / "upscaler.safetensors"
    save_file(tensors, path, metadata)
    print(path.name, path.stat().st_size, {name: float(np.abs(t.numpy()).max()) for name, t in tensors.items()}, scales)


if __name__ == "__main__":
    main()
