"""A hostile input, and the folders that such inputs live in."""

import dataclasses
import json
import pathlib
import random
import re
import shutil
import struct
import zlib


@dataclasses.dataclass
class Case:
    """One run of the program."""

    kind: str
    name: str
    arguments: list
    stdin: bytes | None = None
    # Bytes of address space; else that of all cases.
    address_space: int | None = None
    limits: list = dataclasses.field(default_factory=list)
    environment: dict = dataclasses.field(default_factory=dict)
    # Whether nobody reads what it prints.
    closes_output: bool = False
    # Exit codes, where the case is known to be right or wrong.
    expects: tuple | None = None


class Place:
    """A base folder with the shipped model, and files made for the cases."""

    def __init__(self, folder: pathlib.Path, repository: pathlib.Path):
        self.repository = repository
        self.base = folder / "base"
        self.files = folder / "files"
        self.works = folder / "works"
        for path in (self.files, self.works, self.base / "input", self.base / "output"):
            path.mkdir(parents=True)
        for kind in ("checkpoints", "loras"):
            shutil.copytree(repository / "models" / kind, self.base / "models" / kind)
        for kind in ("vae", "embeddings"):
            (self.base / "models" / kind).mkdir()
        for picture in (repository / "input").iterdir():
            shutil.copy(picture, self.base / "input")
        self.random = random.Random(20)

    @property
    def checkpoint(self) -> bytes:
        return (self.base / "models/checkpoints/tiny-shapes.safetensors").read_bytes()

    @property
    def lora(self) -> bytes:
        return (self.base / "models/loras/tiny-outlines.safetensors").read_bytes()

    def write(self, name: str, data) -> str:
        """A file of the cases' own; gives its path."""
        path = self.files / re.sub(r"[^A-Za-z0-9._-]", "_", name)
        if not isinstance(data, (bytes, str)):
            data = json.dumps(data)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return str(path)

    def put(self, folder: str, name: str, data: bytes) -> str:
        """A file in a folder of the base folder; gives its name there."""
        (self.base / folder / name).write_bytes(data)
        return name

    def work(self, case: Case) -> pathlib.Path:
        """An empty working directory."""
        path = self.works / re.sub(r"[^A-Za-z0-9]", "_", f"{case.kind}-{case.name}")
        path.mkdir()
        return path

    def run(self, kind: str, name: str, workflow, *more, **options) -> Case:
        """A run of a workflow, given as JSON or as the text of a file."""
        path = self.write(f"{kind}-{name}.json", workflow)
        arguments = ["run", path, "--base-dir", str(self.base), "--output-dir", "out", *more]
        return Case(kind, name, arguments, **options)

    def generate(self, kind: str, name: str, *more, ckpt="tiny-shapes.safetensors", **options) -> Case:
        """A picture of one step from a checkpoint."""
        arguments = ["generate", "--base-dir", str(self.base), "--ckpt", ckpt, "--prompt", "a red circle"]
        sizes = [] if "--width" in more else ["--width", "64", "--height", "64"]
        steps = [] if "--steps" in more else ["--steps", "1"]
        output = [] if "-o" in more else ["-o", "out.png"]
        return Case(kind, name, arguments + sizes + steps + output + list(more), **options)


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def text_to_image(**changes):
    """A workflow in API form; `changes` replace inputs: `sampler_steps=3` of the node `sampler`."""
    nodes = {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name="tiny-shapes.safetensors"),
        "good": node("CLIPTextEncode", text="a red circle", clip=["ckpt", 1]),
        "bad": node("CLIPTextEncode", text="", clip=["ckpt", 1]),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampler": node(
            "KSampler", model=["ckpt", 0], positive=["good", 0], negative=["bad", 0],
            latent_image=["empty", 0], seed=1, steps=1, cfg=4.0, sampler_name="euler",
            scheduler="normal", denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["ckpt", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="x"),
    }
    for key, value in changes.items():
        id, name = key.split("_", 1)
        nodes[id]["inputs"][name] = value
    return nodes


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, colour=2, rows: bytes | None = None, extra=b"") -> bytes:
    """A PNG file; without `rows`, all black."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 3)
    if rows is None:
        line = b"\0" * (1 + (width * channels * depth + 7) // 8)
        packer = zlib.compressobj(9)
        packed = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    else:
        packed = zlib.compress(rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", packed)
        + chunk(b"IEND", b"")
    )


def safetensors(header, data=b"") -> bytes:
    """A safetensors file with a header of JSON, or of these bytes."""
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data
