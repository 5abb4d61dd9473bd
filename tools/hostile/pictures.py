"""Pictures: broken, tiny, huge, of every kind."""

import json
import struct
import zlib

from case import chunk, node, png, text_to_image

TINY = [(1, 1), (2, 2), (7, 7), (8, 7), (1, 64), (64, 1), (9, 9)]


def bmp(width, height, bits=24, data=b""):
    return struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54 + len(data), 0, 0, 54, 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0) + data


def gif(width, height, frames):
    frame = b"\x21\xf9\4\0\0\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x44\1\0"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + frame * frames + b";"


def webp(width, height):
    bits = (width - 1) | (height - 1) << 14
    data = b"\x2f" + struct.pack("<I", bits & 0xFFFFFFFF) + b"\0" * 16
    body = b"WEBPVP8L" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg(width, height):
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\1\x11\0\2\x11\0\3\x11\0"
    return b"\xff\xd8" + frame + b"\xff\xd9"


def text_chunk(keyword, text):
    return chunk(b"tEXt", keyword + b"\0" + text)


def compressed_chunk(keyword, text):
    return chunk(b"zTXt", keyword + b"\0\0" + zlib.compress(text, 9))


def cases(place):
    kind = "pictures"
    sound = (place.base / "input/blue_square.png").read_bytes()
    files = {
        "empty": b"", "signature": sound[:8], "text": b"no picture\n",
        "bomb-grey": png(30_000, 30_000, colour=0), "bomb-bits": png(60_000, 60_000, depth=1, colour=0),
        "bomb-16-bits": png(8_000, 8_000, depth=16, colour=6),
        "sides-0": png(0, 0), "side-0": png(64, 0), "sides-most": png(2**31 - 1, 2**31 - 1, rows=b""),
        "no-rows": png(64, 64, rows=b""), "too-many-rows": png(4, 4, rows=b"\0" * 1_000_000),
        "palette-none": png(8, 8, colour=3, rows=b"\xff" * 72), "filter": png(8, 8, rows=b"\x09" * 25 * 8),
        "bad-kind": png(8, 8, depth=3, colour=5, rows=b"\0" * 999),
        "crc": sound[:-20] + b"\0" * 20, "twice": sound + sound, "chunks": png(8, 8, extra=chunk(b"abCd", b"") * 100_000),
        "long-chunk": sound[:8] + struct.pack(">I", 2**31 - 1) + b"tEXt" + b"x" * 1000,
        "bmp-most": bmp(2**31 - 1, 2**31 - 1), "bmp-negative": bmp(-5, -2**31), "bmp-bits": bmp(8, 8, 7, b"\0" * 99),
        "bmp-none": bmp(0, 0), "gif-most": gif(65_535, 65_535, 1), "gif-frames": gif(1000, 1000, 2000), "gif-none": gif(0, 0, 1),
        "gif-cut": gif(8, 8, 1)[:30], "webp-most": webp(16_384, 16_384), "webp-cut": webp(9, 9)[:25],
        "webp-length": b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 50, "jpeg-most": jpeg(65_535, 65_535), "jpeg-none": jpeg(0, 0),
        "jpeg-start": b"\xff\xd8\xff\xe0", "jpeg-fill": b"\xff\xd8" + b"\xff" * 1_000_000,
        "tiff": b"II*\0\xff\xff\xff\xff", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 100, "ico": b"\0\0\1\0\xff\xff" + b"\xff" * 400,
        "exif": b"\xff\xd8\xff\xe1\0\x20Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 100 + b"\xff\xd9",
    }
    for cut in range(1, 8):
        files[f"cut-{cut}"] = sound[: len(sound) * cut // 8]
    for count in range(6):
        noisy = bytearray(sound)
        for _ in range(10):
            noisy[place.random.randrange(len(noisy))] = place.random.randrange(256)
        files[f"noise-{count}"] = bytes(noisy)
    for name, data in files.items():
        ending = name.split("-")[0] if name.split("-")[0] in ("bmp", "gif", "webp", "jpeg") else "png"
        file = place.put("input", f"{name}.{ending}", data)
        nodes = {"load": node("LoadImage", image=file), "show": node("PreviewImage", images=["load", 0])}
        nodes["grey"] = node("MaskToImage", mask=["load", 1])
        nodes["show2"] = node("PreviewImage", images=["grey", 0])
        yield place.run(kind, f"load-{name}", nodes)
    for width, height in TINY:
        file = place.put("input", f"tiny-{width}-{height}.png", png(width, height, colour=6))
        for encoder in ("VAEEncode", "VAEEncodeTiled", "VAEEncodeForInpaint"):
            nodes = text_to_image(sampler_latent_image=["encode", 0], sampler_denoise=0.6)
            nodes["load"] = node("LoadImage", image=file)
            more = {"VAEEncodeTiled": {"tile_size": 64, "overlap": 0}, "VAEEncodeForInpaint": {"mask": ["load", 1], "grow_mask_by": 64}}
            nodes["encode"] = node(encoder, pixels=["load", 0], vae=["ckpt", 2], **more.get(encoder, {}))
            yield place.run(kind, f"encode-{encoder}-{width}-{height}", nodes)
    small = str(place.base / "input/tiny-1-1.png")
    yield place.generate(kind, "from-pixel", "--image", small, "--width", "64", "--height", "64")
    yield from carriers(place)


def carriers(place):
    """Pictures that carry workflows."""
    kind = "workflows in pictures"
    workflow = json.dumps(text_to_image()).encode()
    deep = b"[" * 200_000
    chunks = {
        "sound": text_chunk(b"prompt", workflow), "none": b"", "broken": text_chunk(b"prompt", workflow[:50]),
        "deep": text_chunk(b"prompt", deep), "compressed": compressed_chunk(b"prompt", workflow),
        "bomb": compressed_chunk(b"prompt", b" " * (300 << 20)), "many": text_chunk(b"prompt", b"{}") * 50_000,
        "editor": text_chunk(b"workflow", b'{"nodes": [], "links": []}'), "latin": text_chunk(b"prompt", b"\xff\xfe"),
        "no-end": chunk(b"tEXt", b"prompt"), "itxt": chunk(b"iTXt", b"prompt\0\1\0\0\0" + b"\xff" * 99),
        "null": text_chunk(b"prompt", b"null"),
    }
    for name, extra in chunks.items():
        yield place.run(kind, f"carrier-{name}", png(8, 8, extra=extra))
