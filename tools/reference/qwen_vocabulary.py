"""Packs Qwen's byte-level vocabulary for the program.

    pip download --no-deps dashscope==2.0.2 && unzip dashscope-2.0.2*.whl -d dashscope
    python tools/reference/qwen_vocabulary.py dashscope/dashscope/resources/qwen.tiktoken

Reads a line for each token, its bytes in base64 and its rank, which is its id. Writes
crates/models/data/qwen/vocabulary.gz: for each token in the order of ranks the number of its bytes, as one byte, and
the bytes.
"""

import base64
import gzip
import pathlib
import sys

OUT = pathlib.Path(__file__).parents[2] / "crates/models/data/qwen/vocabulary.gz"


def main():
    packed = bytearray()
    for rank, line in enumerate(pathlib.Path(sys.argv[1]).read_text().splitlines()):
        token, number = line.split()
        token = base64.b64decode(token)
        assert int(number) == rank and 0 < len(token) < 256
        packed += bytes([len(token)]) + token
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_bytes(gzip.compress(bytes(packed), 9, mtime=0))
    print(rank + 1, len(packed), OUT.stat().st_size)


if __name__ == "__main__":
    main()
