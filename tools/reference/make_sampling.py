"""Makes the fixtures of crates/sampling/tests from other people's implementations.

    pip install torch k-diffusion==0.1.1 diffusers torchsde scipy
    python tools/reference/make_sampling.py

- noise.json: torch.randn on the CPU, torchsde's Brownian tree.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch

# The package's own start imports evaluation code, whose requirements sampling does not need.
package = types.ModuleType("k_diffusion")
package.__path__ = [str(Path(importlib.util.find_spec("k_diffusion").origin).parent)]
sys.modules["k_diffusion"] = package

FIXTURES = Path(__file__).resolve().parents[2] / "crates/sampling/tests/fixtures"
MASK = (1 << 64) - 1


def digest(tensor):
    """FNV-1a over the 32-bit patterns: equal digests mean equal bits."""
    value = 0xCBF29CE484222325
    for word in tensor.contiguous().view(torch.int32).flatten().tolist():
        value = ((value ^ (word & 0xFFFFFFFF)) * 0x100000001B3) & MASK
    return f"{value:016x}"


def write(name, value):
    path = FIXTURES / name
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")
    print(name, path.stat().st_size)


def torch_randn():
    """Digests of torch.randn: each case is one seed and the shapes drawn one after the other."""
    seeds = [0, 1, 42, 1234567890123, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
    cases = [(7, [[n] for n in range(1, 41)])]
    cases += [(seed, [[1, 4, 64, 64]]) for seed in seeds]
    cases += [(seed, [[1, 4, 128, 128]]) for seed in seeds[:3]]
    cases += [(seed, [[n]]) for n in range(1, 41) for seed in (42, 2**63 + n)]
    cases += [(5, [[2, 4, 13, 11]]), (6, [[3, 16, 7, 9], [3, 16, 7, 9]]), (8, [[1, 4, 1, 1]])]
    cases += [(9, [[3], [5], [1, 4, 8, 8], [7], [16], [15], [1], [2, 4, 33, 17]])]
    cases += [(seed, [[4, 4, 96, 64]]) for seed in (3, 2**40 + 5)]
    out = []
    for seed, shapes in cases:
        generator = torch.Generator().manual_seed(seed)
        digests = [digest(torch.randn(shape, generator=generator)) for shape in shapes]
        out.append({"seed": str(seed), "shapes": shapes, "digests": digests})
    return out


def brownian():
    """k-diffusion's Brownian noise: the values for queries in the order a sampler makes them."""
    from k_diffusion.sampling import BrownianTreeNoiseSampler

    out = []
    for seed, shape, sigmas in [
        (42, [1, 4, 4, 4], [14.614642, 7.25, 3.1, 1.4, 0.5, 0.0291675]),
        (2**40 + 3, [1, 4, 3, 1], [14.614642, 11.9, 0.5, 0.1]),
        (0, [1, 1, 5, 5], [1.0, 0.5, 0.0078125]),
        (2**64 - 1, [2, 4, 2, 2], [80.0, 3.7, 0.03]),
    ]:
        x = torch.zeros(shape)
        sigmas = torch.tensor(sigmas)
        sampler = BrownianTreeNoiseSampler(x, sigmas.min(), sigmas.max(), seed=seed)
        queries = [(a, b) for a, b in zip(sigmas[:-1], sigmas[1:])] + [(sigmas[0], sigmas[-1])]
        out.append(
            {
                "seed": str(seed),
                "shape": shape,
                "sigmas": [s.item() for s in sigmas],
                "queries": [[a.item(), b.item()] for a, b in queries],
                "noise": [sampler(a, b).flatten().tolist() for a, b in queries],
            }
        )
    return out


if __name__ == "__main__":
    FIXTURES.mkdir(parents=True, exist_ok=True)
    write("noise.json", {"torch": torch.__version__, "randn": torch_randn(), "brownian": brownian()})
