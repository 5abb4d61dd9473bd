"""The kit's programs and wheels in one compressed file: `pack` writes it, `unpack` gets them back.

    python3 programs.py pack CARGO_MESSAGES WHEELS FILE
    python3 programs.py unpack FILE FOLDER

xz with a filter for x86 code and a dictionary that reaches from one program to the other: both link the same
libraries. The files in wheels are packed once, as the programs are: not by the wheel itself before.
"""

import io
import json
import lzma
import pathlib
import sys
import tarfile
import zipfile

LARGEST_DICTIONARY = 256 << 20
# The targets that Cargo built, by name, and what they are called in the kit.
NAMES = {("bin", "distorch"): "distorch", ("test", "device"): "device-tests"}


def executables(messages):
    """The programs among Cargo's messages (`--message-format=json`)."""
    found = {}
    for line in pathlib.Path(messages).read_text().splitlines():
        message = json.loads(line)
        target = message.get("target", {})
        for kind in target.get("kind", []):
            name = NAMES.get((kind, target.get("name")))
            if name and message.get("executable"):
                found[name] = pathlib.Path(message["executable"])
    missing = set(NAMES.values()) - set(found)
    if missing:
        sys.exit(f"error: Cargo built no {', '.join(sorted(missing))}")
    return found


def loose(wheel):
    """The wheel with its files as they are, which is as good a wheel."""
    made = io.BytesIO()
    with zipfile.ZipFile(wheel) as packed, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as out:
        for entry in packed.infolist():
            out.writestr(entry, packed.read(entry), zipfile.ZIP_STORED)
    return made.getvalue()


def pack(messages, wheels, file):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, path in sorted(executables(messages).items()):
            print(f"{name}: {path.stat().st_size / 2**20:.1f} MiB")
            tar.add(path, name)
        for wheel in sorted(pathlib.Path(wheels).glob("*.whl")):
            content = loose(wheel)
            entry = tarfile.TarInfo(f"wheels/{wheel.name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    # Packing takes 11 times the dictionary in memory, whatever is packed.
    dictionary = min(max(1 << len(packed.getvalue()).bit_length(), 1 << 20), LARGEST_DICTIONARY)
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]
    pathlib.Path(file).write_bytes(lzma.compress(packed.getvalue(), format=lzma.FORMAT_XZ, filters=filters))


def unpack(file, folder):
    with lzma.open(file) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
        tar.extractall(folder, filter="data")


if __name__ == "__main__":
    {"pack": pack, "unpack": unpack}[sys.argv[1]](*sys.argv[2:])
