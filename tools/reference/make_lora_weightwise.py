"""Writes crates/models/tests/fixtures/lora_weightwise_sd1.safetensors: merged weights of a tiny UNet with adapters
whose change depends on the weight: GLoRA, OFT, BOFT, and DoRA as ComfyUI applies it.

    pip install numpy
    python tools/reference/make_lora_weightwise.py

An independent computation in float64, straight from the formulas in docs/lora.md: rotations are whole matrices
that the weight is multiplied by, none is applied block by block. Two files follow one another, so that the second
one meets a changed weight. The form of the fixture is that of make_lora.py.
"""

import json
import struct
from pathlib import Path

import numpy as np

import seeded

FIXTURES = Path(__file__).parents[2] / "crates/models/tests/fixtures"
SEED = 5
PREFIX = "model.diffusion_model."
EPSILON = float(np.finfo(np.float32).eps)
VISIBLE = 1e-3


class Adapter:
    """The tensors of one layer's adapter, which are made as they are asked for."""

    def __init__(self, module, shape, file):
        self.module, self.shape, self.file = module, shape, file
        self.rows, self.inputs = shape[0], shape[1]
        self.kernel = int(np.prod(shape[2:]))

    def tensor(self, ending, *shape):
        key = f"{self.module}.{ending}"
        self.file["tensors"][key] = list(shape)
        return seeded.weight(key, tuple(shape), self.file["seed"]).astype(float) * self.file["gain"]

    def scalar(self, ending, value):
        self.file["values"][f"{self.module}.{ending}"] = value
        return value


def lora(a, weight, strength):
    up, down = a.tensor("lora_up.weight", a.rows, 3), a.tensor("lora_down.weight", 3, *a.shape[1:])
    return up @ down.reshape(3, -1), a.scalar("alpha", 2.0) / 3


def loha(a, weight, strength):
    width = a.inputs * a.kernel
    first = a.tensor("hada_w1_a", a.rows, 3) @ a.tensor("hada_w1_b", 3, width)
    second = a.tensor("hada_w2_a", a.rows, 3) @ a.tensor("hada_w2_b", 3, width)
    return first * second, 1.0


def glora_older(a, weight, strength):
    width = a.inputs * a.kernel
    a1, a2 = a.tensor("a1.weight", 3, *a.shape[1:]), a.tensor("a2.weight", width, 3)
    b1, b2 = a.tensor("b1.weight", 3, *a.shape[1:]), a.tensor("b2.weight", a.rows, 3)
    return b2 @ b1.reshape(3, -1) + weight @ a2 @ a1.reshape(3, -1), a.scalar("alpha", 2.0) / 3


def glora_newer(a, weight, strength):
    a1, a2 = a.tensor("a1.weight", a.inputs, 3), a.tensor("a2.weight", 3, a.inputs)
    b1, b2 = a.tensor("b1.weight", a.rows, 3), a.tensor("b2.weight", 3, *a.shape[1:])
    change = np.zeros((a.rows, a.inputs, a.kernel))
    for place in range(a.kernel):
        change[:, :, place] = weight.reshape(a.rows, a.inputs, a.kernel)[:, :, place] @ (a1 @ a2)
    return change.reshape(a.rows, -1) + b1 @ b2.reshape(3, -1), 1.0


def rotations(blocks, limit):
    q = blocks - np.swapaxes(blocks, -1, -2)
    norm = np.sqrt((q**2).sum()) + 1e-8
    if 0 < limit < norm:
        q = q * limit / norm
    identity = np.eye(q.shape[-1])
    return (identity + q) @ np.linalg.inv(identity - q)


def block_diagonal(blocks):
    size = blocks.shape[-1]
    whole = np.zeros((len(blocks) * size,) * 2)
    for at, block in enumerate(blocks):
        whole[at * size : (at + 1) * size, at * size : (at + 1) * size] = block
    return whole


def oft(a, weight, strength, limit=None):
    size = 8 if a.rows % 8 == 0 else 4
    blocks = a.tensor("oft_blocks", a.rows // size, size, size)
    limit = 0.0 if limit is None else a.scalar("alpha", limit)
    turn = block_diagonal(rotations(blocks, limit)).T
    return strength * (turn - np.eye(a.rows)) @ weight, 1.0


def oft_limited(a, weight, strength):
    a.tensor("rescale", a.rows, *[1] * (len(a.shape) - 1))  # is not used
    return oft(a, weight, strength, 0.5)


def boft(a, weight, strength, limit=None, rescaled=False):
    stages, size = 2, 4
    blocks = a.tensor("oft_blocks", stages, a.rows // size, size, size)
    limit = 0.0 if limit is None else a.scalar("alpha", limit)
    whole = np.eye(a.rows)
    for stage, stage_rotations in enumerate(rotations(blocks, limit)):
        order = np.arange(a.rows).reshape(-1, 2, 2**stage * (size // 2)).transpose(0, 2, 1).flatten()
        permutation = np.eye(a.rows)[order]
        turn = strength * block_diagonal(stage_rotations) + (1 - strength) * np.eye(a.rows)
        whole = permutation.T @ turn @ permutation @ whole
    if rescaled:
        whole = a.tensor("rescale", a.rows, *[1] * (len(a.shape) - 1)).reshape(-1, 1) * whole
    return whole @ weight - weight, 1.0


def boft_limited(a, weight, strength):
    return boft(a, weight, strength, 0.7, rescaled=True)


def dora(kind, of_inputs=False):
    def decomposed(a, weight, strength):
        change, scale = kind(a, weight, strength)
        changed = weight + change * (a.file["values"].get(f"{a.module}.alpha", 0.0) if kind is oft_limited else scale)
        if of_inputs:
            lengths = a.tensor("dora_scale", 1, a.inputs, *[1] * (len(a.shape) - 2)).reshape(-1)
            parts = changed.reshape(a.rows, a.inputs, a.kernel)
            norms = np.sqrt((parts**2).sum((0, 2)))
            result = (parts * (lengths / (norms + EPSILON))[None, :, None]).reshape(a.rows, -1)
        else:
            lengths = a.tensor("dora_scale", a.rows, *[1] * (len(a.shape) - 1)).reshape(-1)
            norms = np.sqrt((weight**2).sum(1))
            result = changed * (lengths / (norms + EPSILON))[:, None]
        return result - weight, 1.0

    return decomposed


KINDS = [
    glora_older, glora_newer, oft, oft_limited, boft, boft_limited, dora(lora), dora(lora, of_inputs=True), dora(loha),
    dora(glora_newer), dora(oft_limited), lora,
]


def read_metadata(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])["__metadata__"]


def write(path, tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, values in sorted(tensors.items()):
        stored = np.ascontiguousarray(values, np.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(stored)]}
        data += stored
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    keys = json.loads(read_metadata(FIXTURES / "lora_dora_sd1.safetensors")["checkpoint"])
    shapes = {key.removeprefix(PREFIX).removesuffix(".weight"): shape for key, shape in keys.items()}
    layers = [(name, shape) for name, shape in shapes.items() if len(shape) > 1 and shape[0] % 8 == 0]
    files = [
        {"tensors": {}, "values": {}, "metadata": {}, "strengths": [strength, 1], "seed": SEED + at, "gain": gain}
        for at, (strength, gain) in enumerate([(0.8, 1), (-0.4, 1), (1, 1)])
    ]
    tensors = {}
    # Every fifth layer is enough of each kind.
    for at, (layer, shape) in enumerate(layers[::5]):
        base = seeded.weight(f"{layer}.weight", tuple(shape), SEED).astype(float).reshape(shape[0], -1)
        weight = base
        for number, file in enumerate(files):
            kind = KINDS[(at + 5 * number) % len(KINDS)]
            strength = file["strengths"][0]
            adapter = Adapter(f"lora_unet_{layer.replace('.', '_')}", shape, file)
            change, scale = kind(adapter, weight, strength)
            weight = weight + strength * scale * change
        probe = f"probe:{layer}.weight"
        vector = seeded.uniform(probe, (weight.shape[1],), SEED).astype(float)
        new, old = weight @ vector, base @ vector
        assert np.abs(new - old).max() > VISIBLE * np.abs(new).max(), layer
        tensors[probe] = new.astype(np.float32)
    metadata = {"checkpoint": keys, "loras": files, "calls": [], "seed": SEED}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    path = FIXTURES / "lora_weightwise_sd1.safetensors"
    write(path, tensors, metadata)
    print(path.name, path.stat().st_size, len(tensors))


main()
