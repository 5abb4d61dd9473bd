"""The pixels of the PNG files that distorch saves: 8 bits, not interlaced."""

import pathlib
import struct
import zlib

CHANNELS = {0: 1, 2: 3, 6: 4}


def pixels(path):
    """`(width, height, channels, bytes)`, row by row."""
    data = pathlib.Path(path).read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{path} is no PNG")
    at, packed = 8, b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            if depth != 8 or interlaced or colour not in CHANNELS:
                raise ValueError(f"{path}: only 8 bits, not interlaced, grey or RGB")
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    channels = CHANNELS[colour]
    return width, height, channels, unfilter(zlib.decompress(packed), width * channels, height, channels)


def unfilter(raw, row_bytes, height, step):
    """Undoes the filters of rows (PNG specification, section 9)."""
    rows, above = bytearray(), bytearray(row_bytes)
    for y in range(height):
        start = y * (row_bytes + 1)
        kind, row = raw[start], bytearray(raw[start + 1 : start + 1 + row_bytes])
        for x in range(row_bytes):
            left = row[x - step] if x >= step else 0
            corner = above[x - step] if x >= step else 0
            if kind == 1:
                guess = left
            elif kind == 2:
                guess = above[x]
            elif kind == 3:
                guess = (left + above[x]) // 2
            elif kind == 4:
                guess = paeth(left, above[x], corner)
            else:
                break
            row[x] = (row[x] + guess) & 255
        rows += row
        above = row
    return bytes(rows)


def paeth(a, b, c):
    distances = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    return (a, b, c)[distances.index(min(distances))]


def difference(one, other):
    """The mean and the largest difference of two files' values, of 255."""
    (*shape, a), (*other_shape, b) = pixels(one), pixels(other)
    if shape != other_shape:
        raise ValueError(f"{shape} and {other_shape} differ in size")
    gaps = [abs(x - y) for x, y in zip(a, b)]
    return sum(gaps) / len(gaps), max(gaps)
