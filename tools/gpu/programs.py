"""The kit's programs in one compressed file: `pack` writes it, `unpack` gets them back.

    python3 programs.py pack CARGO_MESSAGES FILE
    python3 programs.py unpack FILE FOLDER

xz with a filter for x86 code and a dictionary that reaches from one program to the other: both link the same
libraries.
"""

import io
import json
import lzma
import pathlib
import sys
import tarfile

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


def pack(messages, file):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, path in sorted(executables(messages).items()):
            print(f"{name}: {path.stat().st_size / 2**20:.1f} MiB")
            tar.add(path, name)
    # Packing takes 11 times the dictionary in memory, whatever is packed.
    dictionary = min(max(1 << len(packed.getvalue()).bit_length(), 1 << 20), LARGEST_DICTIONARY)
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]
    pathlib.Path(file).write_bytes(lzma.compress(packed.getvalue(), format=lzma.FORMAT_XZ, filters=filters))


def unpack(file, folder):
    with lzma.open(file) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
        tar.extractall(folder, filter="data")


if __name__ == "__main__":
    {"pack": pack, "unpack": unpack}[sys.argv[1]](*sys.argv[2:])
