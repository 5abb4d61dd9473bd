"""Model files, LoRAs and latents: broken, cut, lying about what they hold."""

import json
import os
import struct
import zipfile

from case import Case, node, safetensors, text_to_image

U64 = 2**64 - 1

HEADERS = {
    "no-header": b"", "empty-object": b"{}", "list": b"[]", "number": b"7", "nul": b"\0" * 64,
    "deep": b"[" * 500_000, "deep-object": b'{"a":' * 100_000, "no-utf8": b'{"\xff\xfe": 1}',
    "blank": b" " * 1_000_000, "digits": b'{"a": ' + b"9" * 500_000 + b"}",
}

TENSORS = {
    "beyond-end": {"dtype": "F32", "shape": [1 << 20], "data_offsets": [0, 4 << 20]},
    "backwards": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]},
    "negative": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
    "overflow": {"dtype": "F32", "shape": [1 << 32, 1 << 32, 1 << 32], "data_offsets": [0, 16]},
    "zero-overflow": {"dtype": "F32", "shape": [1 << 62, 1 << 62, 0], "data_offsets": [0, 0]},
    "last-offset": {"dtype": "F32", "shape": [4], "data_offsets": [U64 - 16, U64]},
    "unknown-dtype": {"dtype": "F128", "shape": [4], "data_offsets": [0, 16]},
    "many-dimensions": {"dtype": "U8", "shape": [1] * 100_000, "data_offsets": [0, 1]},
    "scalar": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
    "null": None,
    "text": {"dtype": 5, "shape": "x", "data_offsets": {}},
}


def header_of(file: bytes):
    length = struct.unpack("<Q", file[:8])[0]
    return json.loads(file[8 : 8 + length]), 8 + length


def changed(file: bytes, change) -> bytes:
    """The file with another header; its data stays."""
    header, start = header_of(file)
    header = change(header)
    return safetensors(header, file[start:])


def shapes(size):
    def change(header):
        for name, tensor in header.items():
            if name != "__metadata__" and tensor["shape"]:
                tensor["shape"] = [size] * len(tensor["shape"])
        return header

    return change


def cases(place):
    kind = "model files"
    checkpoint, lora = place.checkpoint, place.lora
    files = {f"header-{name}": safetensors(header) for name, header in HEADERS.items()}
    for name, tensor in TENSORS.items():
        files[f"tensor-{name}"] = safetensors({"model.diffusion_model.input_blocks.0.0.weight": tensor}, b"\0" * 16)
    files |= {
        "empty": b"", "one-byte": b"\1", "length-most": struct.pack("<Q", U64) + b"{}",
        "length-beyond": struct.pack("<Q", 1 << 40) + b"{}", "length-cut": checkpoint[:5],
        "picture": (place.base / "input/blue_square.png").read_bytes(), "text": b"hello\n" * 1000,
        "html": b"<!DOCTYPE html><html><body>Not found</body></html>",
        "error-json": b'{"error": "Access to model is restricted"}',
        "gguf": b"GGUF" + struct.pack("<IQQ", 3, U64, U64), "gguf-cut": b"GGUF\3\0\0\0",
        "pickle-deep": b"\x80\x02" + b"(" * 200_000 + b".", "pickle-memo": b"\x80\x02}q\xff" * 1000 + b".",
        "pickle-tuples": b"\x80\x02" + b")" + b"\x85" * 300_000 + b".",
        "pickle-lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "pickle-call": b"cos\nsystem\n(S'true'\ntR.", "pickle-long": b"\x80\x02\x8b\xff\xff\xff\x7f",
        "shapes-0": changed(checkpoint, shapes(0)), "shapes-1": changed(checkpoint, shapes(1)),
        "zip-empty": zipped(place, "empty", {}), "zip-deep": zipped(place, "deep", {"a/data.pkl": b"\x80\x02" + b"(" * 100_000}),
        "zip-bomb": zipped(place, "bomb", {"a/data.pkl": b"\0" * (200 << 20)}, zipfile.ZIP_DEFLATED),
        "zip-bytes": b"PK\3\4" + b"\xff" * 200, "many": safetensors(
            {f"t{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
        ),
    }
    for count in (1, 2, 3):
        broken = bytearray(checkpoint)
        for _ in range(50):
            broken[place.random.randrange(header_of(checkpoint)[1])] = place.random.randrange(256)
        files[f"noise-{count}"] = bytes(broken)

    def prefix(header):
        return {name if name.startswith("_") else f"x.{name}": tensor for name, tensor in header.items()}

    files["renamed"] = changed(checkpoint, prefix)
    for index, (name, data) in enumerate(files.items()):
        path = place.write(f"file-{name}.{'ckpt' if 'pickle' in name or 'zip' in name else 'safetensors'}", data)
        yield Case(kind, f"inspect-{name}", ["inspect", path])
        if index % 3 == 0 or name.startswith("shapes"):
            ckpt = place.put("models/checkpoints", os.path.basename(path), data)
            yield place.generate(kind, f"generate-{name}", ckpt=ckpt)
    for cut in range(1, 10):
        data = checkpoint[: len(checkpoint) * cut // 10]
        ckpt = place.put("models/checkpoints", f"cut-{cut}.safetensors", data)
        yield place.generate("truncated", f"checkpoint-{cut}", ckpt=ckpt)
    # Weights that are no numbers.
    header, start = header_of(checkpoint)
    for name, part in (("unet", "model.diffusion_model."), ("vae", "first_stage_model."), ("text", "cond_stage_model.")):
        data = bytearray(checkpoint)
        for key, tensor in header.items():
            if key.startswith(part) and key.endswith("weight"):
                begin, end = (start + offset for offset in tensor["data_offsets"])
                data[begin:end] = b"\xff" * (end - begin)
        ckpt = place.put("models/checkpoints", f"nan-{name}.safetensors", bytes(data))
        yield place.generate(kind, f"nan-{name}", ckpt=ckpt, expects=(1,))
        yield place.generate(kind, f"nan-{name}-allowed", "--allow-nan", ckpt=ckpt, expects=(0,))
    yield from loras(place, lora)
    yield from latents(place)
    yield from unusual(place)


def zipped(place, name, entries, compression=zipfile.ZIP_STORED):
    path = place.files / f"{name}.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return path.read_bytes()


def loras(place, lora):
    header, _ = header_of(lora)
    first = next(name for name in header if name != "__metadata__")

    def one(change):
        def changes(header):
            for name in [name for name in header if name != "__metadata__"]:
                change(header, name)
            return header

        return changed(lora, changes)

    def transposed(header, name):
        header[name]["shape"] = header[name]["shape"][::-1]

    def flat(header, name):
        shape = header[name]["shape"]
        count = 1
        for side in shape:
            count *= side
        header[name]["shape"] = [count]

    def renamed(header, name):
        header[f"lora_unet_nowhere_{name}"] = header.pop(name)

    def halved(header, name):
        if "up" in name:
            del header[name]

    files = {
        "empty": b"", "no-tensors": safetensors({}), "checkpoint": place.checkpoint, "transposed": one(transposed),
        "flat": one(flat), "nowhere": one(renamed), "halves": one(halved), "cut": lora[:-1000],
        "zero": changed(lora, shapes(0)),
        "deep": safetensors(HEADERS["deep"]), "one": safetensors({first: TENSORS["scalar"]}, b"\0" * 16),
        "nan": lora[: header_of(lora)[1]] + b"\xff" * (len(lora) - header_of(lora)[1]),
    }
    for name, data in files.items():
        file = place.put("models/loras", f"{name}.safetensors", data)
        yield place.generate("LoRAs", f"lora-{name}", "--lora", f"{file}:1")
    for strength in ("1e38", "-1e38", "0", "20", "-20", "1e-45"):
        yield place.generate("LoRAs", f"strength-{strength}", "--lora", f"tiny-outlines.safetensors:{strength}")
    many = ["--lora", "tiny-outlines.safetensors:0.01"] * 40
    yield place.generate("LoRAs", "many", *many)


def latents(place):
    for name, shape, count in (
        ("sound", [1, 4, 8, 8], 256), ("one", [1, 4, 1, 1], 4), ("none", [1, 4, 0, 8], 0), ("empty", [0, 4, 8, 8], 0),
        ("channels", [1, 3, 8, 8], 192), ("flat", [256], 256), ("video", [1, 4, 2, 8, 8], 512), ("thin", [1, 4, 1, 500], 2000),
    ):
        data = b"\0\0\x80\x3f" * count
        for value in ("", "-nan"):
            data = b"\xff\xff\xff\x7f" * count if value else data
            tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, len(data)]}
            marker = {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]}
            file = safetensors({"latent_tensor": tensor, "latent_format_version_0": marker}, data)
            latent = place.put("input", f"{name}{value}.latent", file)
            nodes = text_to_image(sampler_latent_image=["load", 0], sampler_denoise=0.5)
            nodes["load"] = node("LoadLatent", latent=latent)
            yield place.run("model files", f"latent-{name}{value}", nodes)


def unusual(place):
    """What is no file."""
    for folder, name in (("models/checkpoints", "pipe.safetensors"), ("models/loras", "pipe.safetensors"), ("input", "pipe.png"), ("input", "pipe.latent")):
        os.mkfifo(place.base / folder / name)
    kind = "pipes and folders"
    yield place.generate(kind, "checkpoint-pipe", ckpt="pipe.safetensors")
    yield place.generate(kind, "lora-pipe", "--lora", "pipe.safetensors:1")
    yield place.generate(kind, "picture-pipe", "--image", str(place.base / "input/pipe.png"))
    nodes = text_to_image(sampler_latent_image=["load", 0])
    nodes["load"] = node("LoadLatent", latent="pipe.latent")
    yield place.run(kind, "latent-pipe", nodes)
    yield Case(kind, "inspect-pipe", ["inspect", str(place.base / "models/checkpoints/pipe.safetensors")])
    os.mkfifo(place.files / "pipe.json")
    yield Case(kind, "workflow-pipe", ["run", str(place.files / "pipe.json"), "--base-dir", str(place.base)])
    yield Case(kind, "workflow-zero", ["run", "/dev/zero", "--base-dir", str(place.base)])
    yield Case(kind, "workflow-random", ["run", "/dev/urandom", "--base-dir", str(place.base)])
    yield Case(kind, "blocks-pipe", ["plan", "--blocks", str(place.files / "pipe.json")])
    (place.base / "models/checkpoints/folder.safetensors").mkdir()
    yield place.generate(kind, "checkpoint-folder", ckpt="folder.safetensors")
    for name, target in (("dangling", "/nothing"), ("itself", "itself.safetensors"), ("zero", "/dev/zero"), ("tty", "/dev/tty")):
        (place.base / f"models/checkpoints/{name}.safetensors").symlink_to(target)
        yield place.generate(kind, f"checkpoint-{name}", ckpt=f"{name}.safetensors")
    loop = place.base / "models/vae/loop"
    loop.symlink_to(place.base / "models")
    yield Case(kind, "folder-loop", ["models", "--base-dir", str(place.base)])
    sparse = place.base / "models/checkpoints/sparse.safetensors"
    header = json.dumps({"model.diffusion_model.x": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
    with sparse.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + (1 << 40))
    yield place.generate(kind, "checkpoint-sparse", ckpt="sparse.safetensors")
