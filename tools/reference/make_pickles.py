"""Writes the PyTorch files that `crates/checkpoint/tests/open.rs` reads.

    python tools/reference/make_pickles.py crates/checkpoint/tests/fixtures/pickles

Each file is written by torch.save (where it says so, changed by hand afterwards), loaded back with
torch.load, and what came back is written to expected.json: the tensors in their order with dtype,
shape and the bytes of the contiguous tensor in hexadecimal. Files that must be refused are listed
with a part of the error. Needs torch and numpy; made with torch 2.15.
"""

import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy
import torch

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def lightning():
    """Classes that look like those a Lightning checkpoint names."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        sys.modules[part] = types.ModuleType(part)

    class ModelCheckpoint:
        def __init__(self):
            self.mode = "min"

    ModelCheckpoint.__module__ = name
    ModelCheckpoint.__qualname__ = "ModelCheckpoint"
    sys.modules[name].ModelCheckpoint = ModelCheckpoint
    return ModelCheckpoint


def dtypes():
    values = torch.tensor([[0, 1, -2], [3.5, -4.25, 100]], dtype=torch.float64)
    return {f"t.{name}": values.abs().to(dtype) if name == "U8" else values.to(dtype) for dtype, name in DTYPES.items()}


def views():
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    half = torch.arange(24, dtype=torch.float16).reshape(2, 3, 4, 1)
    bytes_ = torch.arange(16, dtype=torch.uint8).reshape(4, 4)
    return {
        "whole": base,
        "shared": base,
        "offset": base[1],
        "transposed": base[0].T,
        "permuted": base.permute(2, 0, 1),
        "stepped": base[:, ::2, 1::3],
        "column": base[:, 2, 3],
        "scalar": base[2, 1, 0],
        "expanded": base[0, 0, 2].expand(2, 3),
        "rows_repeated": base[0, 0].expand(3, 5),
        "channels_last": half.permute(3, 0, 2, 1),
        "odd_strides": torch.as_strided(half, (1, 3), (1 << 40, 2), 5),
        "long_long": torch.arange(7)[1::3],
        "byte_columns": bytes_[:, 1:3],
        "empty": torch.zeros(0, 3),
        "empty_view": base[3:],
        "zero_dim": torch.tensor(2.5, dtype=torch.float64),
    }


def nested():
    callback = lightning()
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "global_step": 840000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": network.state_dict(),
        "callbacks": {callback: {"monitor": "val/loss", "best": numpy.float64(0.25), "it": callback()}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "lr": 0.5,
        "ema": False,
        "hyper": {"range": range(3), "set": {1, 2}, "shape": torch.Size([1, 2]), "type": torch.float16, "device": torch.device("cpu"), "raw": b"\x00\xff", "big": 1 << 90, "array": numpy.arange(3)},
    }


def parameters():
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
    named = torch.nn.Parameter(torch.ones(2))
    named.note = "a parameter with an attribute"
    tensor = torch.full((2, 2), 7, dtype=torch.int32)
    tensor.note = "a tensor with an attribute"
    return OrderedDict(parameter=parameter, named=named, tensor=tensor)


def textual_inversion():
    parameters_ = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.arange(8.0).reshape(2, 4))})
    return {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters_, "name": "style", "step": 500, "sd_checkpoint": None}


def plain(value):
    """What distorch finds in an object: dicts joined with dots, tensors only."""
    if isinstance(value, torch.nn.ParameterDict):
        value = dict(value.items())
    found = {}
    for key, item in value.items():
        if not isinstance(key, str):
            continue
        if isinstance(item, torch.Tensor):
            found[key] = item
        elif isinstance(item, (dict, torch.nn.ParameterDict)):
            found.update({f"{key}.{inner}": tensor for inner, tensor in plain(item).items()})
    return found


def describe(path):
    loaded = torch.load(path, weights_only=False, map_location="cpu")
    state = loaded
    if isinstance(loaded.get("state_dict"), dict):
        state = loaded["state_dict"]
    elif len(loaded) == 1 and isinstance(next(iter(loaded.values())), dict):
        state = next(iter(loaded.values()))
    metadata = {}
    for key, value in loaded.items():
        if isinstance(value, bool):
            metadata[key] = str(value).lower()
        elif isinstance(value, (int, float, str)):
            metadata[key] = str(value)
    tensors = []
    for key, tensor in plain(state).items():
        tensor = tensor.detach().contiguous()
        raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        tensors.append({"key": key, "dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "hex": raw.hex()})
    return {"metadata": metadata, "tensors": tensors}


def rezip(source, target, method, change=lambda name, data: data):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for entry in old.infolist():
            data = change(entry.filename, old.read(entry))
            # zipfile stamps the time otherwise
            new.writestr(zipfile.ZipInfo(entry.filename), data, method)


def swapped(name, data):
    """The entry as a big-endian machine would have written it; the tensors are F32."""
    if name.endswith("/byteorder"):
        return b"big"
    if "/data/" in name:
        return numpy.frombuffer(data, "<f4").astype(">f4").tobytes()
    return data


def storage_views(path):
    """A legacy file with views of storages, as before PyTorch 0.4: by hand, in its pickler."""

    class Storage:
        def __init__(self, view):
            self.view = view

    class Rebuild:
        def __init__(self, view, first, shape, strides):
            self.args = (Storage(view), first, shape, strides)

        def __reduce__(self):
            return torch._utils._rebuild_tensor, self.args

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, "7", "cpu", 12, value.view)

    with open(path, "wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(value, file, protocol=2)
        state = {"all": Rebuild(None, 0, (3, 4), (4, 1)), "part": Rebuild(("8", 4, 6), 1, (2, 2), (2, 1))}
        Pickler(file, protocol=2).dump(state)
        pickle.dump(["7"], file, protocol=2)
        file.write(struct.pack("<q", 12) + numpy.arange(12, dtype="<f4").tobytes())


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("echo harm",)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    good, refused = {}, {}

    def save(name, value, **options):
        torch.save(value, folder / name, **options)
        good[name] = describe(folder / name)

    old = {"_use_new_zipfile_serialization": False}
    for name, value in {"dtypes": dtypes(), "views": views(), "nested": nested(), "parameters": parameters()}.items():
        save(f"{name}.ckpt", value)
        # torch.load fails on untyped storages (float8) in the legacy format.
        typed = {key: item for key, item in value.items() if "F8" not in key}
        save(f"{name}-legacy.ckpt", typed if name == "dtypes" else value, **old)
    save("textual-inversion.pt", textual_inversion())
    save("learned-embeds.bin", {"<cat>": torch.arange(4.0)})
    small = {"model": {"a.weight": torch.arange(4.0), "a.bias": torch.tensor([1, 2], dtype=torch.int16)}}
    for protocol in (0, 1, 3, 4, 5):
        # Protocol 0 has no tuples as storage names, so torch itself does not write it.
        if protocol:
            save(f"protocol-{protocol}.pth", small, pickle_protocol=protocol)
            save(f"protocol-{protocol}-legacy.pth", small, pickle_protocol=protocol, **old)
    floats = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(6.0).reshape(2, 3).T, "empty": torch.zeros(0)}
    save("floats.pt", floats)
    rezip(folder / "floats.pt", folder / "deflated.pt", zipfile.ZIP_DEFLATED)
    good["deflated.pt"] = describe(folder / "deflated.pt")
    rezip(folder / "floats.pt", folder / "big-endian.pt", zipfile.ZIP_STORED, swapped)
    good["big-endian.pt"] = describe(folder / "big-endian.pt")
    storage_views(folder / "storage-views.pt")
    good["storage-views.pt"] = describe(folder / "storage-views.pt")

    def refuse(name, value, error, **options):
        torch.save(value, folder / name, **options)
        refused[name] = error

    system = f"refuses `{__import__('os').system.__module__}.system`"
    refuse("system.ckpt", {"state_dict": {"a": torch.ones(1)}, "x": Evil()}, system)
    refuse("system-legacy.ckpt", {"state_dict": {"a": torch.ones(1)}, "x": Evil()}, system, **old)
    refuse("module.pt", torch.nn.Linear(1, 1), "refuses `torch.nn.modules.linear.Linear`")
    refuse("complex.pt", {"z": torch.ones(2, dtype=torch.complex64)}, "tensor `z` is stored as complex64, which is not carried")
    refuse("uint16.pt", {"u": torch.ones(2, dtype=torch.uint16)}, "tensor `u` is stored as uint16, which is not carried")
    refuse("sparse.pt", {"s": torch.eye(2).to_sparse()}, "tensor `s` is stored as a sparse tensor")
    refuse("list.pt", [torch.ones(1)], "has no tensors")
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    (folder / "script.pt").write_bytes(buffer.getvalue())
    refused["script.pt"] = "a TorchScript program"
    numpy.savez(folder / "arrays.pt", a=numpy.ones(1))
    (folder / "arrays.pt.npz").rename(folder / "arrays.pt")
    refused["arrays.pt"] = "NumPy arrays"
    (folder / "bare.pkl").write_bytes(pickle.dumps({"a": torch.ones(1)}))
    refused["bare.pkl"] = "refuses `torch.storage._load_from_bytes`"

    text = json.dumps({"good": good, "refused": refused}, indent=1)
    (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
