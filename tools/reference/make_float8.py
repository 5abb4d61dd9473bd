"""Writes the value of every byte in PyTorch's two 8-bit float formats, as f32 bits.

    python tools/reference/make_float8.py
"""

import json
from pathlib import Path

import torch

FIXTURE = Path(__file__).parents[2] / "crates/checkpoint/tests/fixtures/float8.json"
FORMATS = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def f32_bits(dtype: torch.dtype) -> list[int]:
    every_byte = torch.arange(256, dtype=torch.uint8)
    bits = every_byte.view(dtype).to(torch.float32).view(torch.int32)
    return [value & 0xFFFFFFFF for value in bits.tolist()]


if __name__ == "__main__":
    values = {name: f32_bits(dtype) for name, dtype in FORMATS.items()}
    FIXTURE.parent.mkdir(parents=True, exist_ok=True)
    FIXTURE.write_text(json.dumps(values) + "\n")
