"""Weights that need no file: any parameter's values follow from its name, its shape and a seed.

`crates/models/tests/common/seeded.rs` makes the same bits. The rule, all in unsigned 64-bit
arithmetic that wraps around:

    state      = fnv1a64(name as UTF-8) ^ seed
    bits(i)    = splitmix64's output function of (state + (i + 1) * 0x9E3779B97F4A7C15)
    uniform(i) = (bits(i) >> 40) / 2**23 - 1                 in [-1, 1), exact in float32
    value(i)   = offset + scale * uniform(i)                 two roundings to float32

`i` counts elements in row-major order. Offset and scale follow from the name and the shape, so that
activations keep a sound size through many layers:

    rank 1, name ends in "bias"     offset 0, scale 0.1
    rank 1 otherwise (norms)        offset 1, scale 0.1
    rank 2 and more                 offset 0, scale sqrt(3 / fan_in), fan_in = product of shape[1:]
    name ends in "pos_embed"        offset 0, scale 1: a table that is added to activations
"""

import math

import numpy as np

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def fnv1a64(name: str) -> int:
    """The 64-bit FNV-1a hash of a name."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return state


def uniform(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Values in [-1, 1) as float32."""
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a64(name) ^ seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    high = (z >> np.uint64(40)).astype(np.float32)
    return (high / np.float32(1 << 23) - np.float32(1)).reshape(shape)


def weight(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """The values of the parameter `name` as float32."""
    if name.endswith("pos_embed"):
        offset, scale = 0.0, 1.0
    elif len(shape) <= 1:
        offset, scale = (0.0 if name.endswith("bias") else 1.0), 0.1
    else:
        offset, scale = 0.0, math.sqrt(3.0 / math.prod(shape[1:]))
    return np.float32(offset) + np.float32(scale) * uniform(name, shape, seed)


def fill(module, rename=lambda name: name, seed: int = 0) -> dict[str, list[int]]:
    """Sets every parameter of a torch module, and returns the canonical names with their shapes.

    `rename` turns the module's parameter name into the name that is hashed (the canonical one), or
    None for a parameter that is left alone.
    """
    import torch

    shapes = {}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            canonical = rename(name)
            if canonical is None:
                continue
            shape = tuple(parameter.shape)
            shapes[canonical] = list(shape)
            parameter.copy_(torch.from_numpy(weight(canonical, shape, seed)))
    return shapes
