"""Writes pictures of many kinds and what ComfyUI's LoadImage gives for them.

    pip install pillow numpy av==18.1
    python tools/reference/make_pictures.py

Writes crates/workflow/tests/fixtures:

- pictures/*: small pictures, saved with Pillow, or put together here where Pillow cannot.
- carried/*: pictures that carry workflows.
- pictures.json: colours and transparency as PyAV decodes them, which ComfyUI uses since April 2026;
  animated WebP as Pillow does, which ComfyUI falls back to. In steps of 1/65535.
"""

import json
import struct
import zlib
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageSequence

FIXTURES = Path(__file__).resolve().parents[2] / "crates/workflow/tests/fixtures"
PICTURES = FIXTURES / "pictures"
CARRIED = FIXTURES / "carried"
ORIENTATION = 0x0112
# Pixels that become values by a division by 255; all others pass through floats of libswscale.
BYTES = {"yuvj420p", "yuvj422p", "yuvj444p", "rgb24", "rgba", "pal8"}


def noise(shape, seed, high=256, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def waves(height, width):
    """Colours that change fast enough to tell how their halves are put together."""
    y, x = np.mgrid[0:height, 0:width]
    red = 128 + 110 * np.sin(x / 2.7 + y / 5)
    green = 128 + 110 * np.cos(x / 3 - y / 4)
    blue = 128 + 110 * np.sin(x / 2.3) * np.cos(y / 2.6)
    return np.stack([red, green, blue], -1).astype(np.uint8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(name, width, height, depth, colour, rows, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (PICTURES / name).write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def make_png():
    height, width = 4, 6

    def rows(count, seed, high=256):
        return [noise(count, seed + row, high).tobytes() for row in range(height)]

    def wide(count, seed, high=65536):
        return [noise(count, seed + row, high, ">u2").tobytes() for row in range(height)]

    def transparent(*numbers):
        return chunk(b"tRNS", struct.pack(f">{len(numbers)}H", *numbers))

    palette = chunk(b"PLTE", noise(48, 80).tobytes())
    for name, depth, colour, data, extra in [
        ("grey1.png", 1, 0, rows(1, 10), b""),
        ("grey1_trns.png", 1, 0, rows(1, 10), transparent(1)),
        ("grey2.png", 2, 0, rows(2, 20), b""),
        ("grey4.png", 4, 0, rows(3, 30), b""),
        ("grey4_trns.png", 4, 0, rows(3, 30), transparent(2)),
        ("grey8_trns.png", 8, 0, rows(6, 40, 4), transparent(2)),
        ("grey16.png", 16, 0, wide(6, 50), b""),
        ("grey16_trns.png", 16, 0, wide(6, 50, 4), transparent(2)),
        ("rgb_trns.png", 8, 2, rows(18, 60, 2), transparent(1, 0, 1)),
        ("rgb16.png", 16, 2, wide(18, 70), b""),
        ("rgba16.png", 16, 6, wide(24, 80), b""),
        ("grey_alpha16.png", 16, 4, wide(12, 90), b""),
        ("palette1.png", 1, 3, rows(1, 100), palette),
        ("palette2_trns.png", 2, 3, rows(2, 110), palette + chunk(b"tRNS", bytes([0, 100]))),
        ("palette4.png", 4, 3, rows(3, 120), palette),
        ("palette_short.png", 8, 3, rows(6, 130, 40), palette),
    ]:
        png(name, width, height, depth, colour, data, extra)
    for name, shape in [("rgb.png", (3, 5, 3)), ("rgba.png", (3, 5, 4)), ("grey.png", (4, 3))]:
        Image.fromarray(noise(shape, len(name))).save(PICTURES / name)
    Image.fromarray(noise((4, 3, 2), 3)).save(PICTURES / "grey_alpha.png")


def make_others():
    colours = Image.fromarray(noise((4, 6, 3), 200))
    alpha = Image.fromarray(noise((4, 6, 4), 201))
    grey = colours.convert("L")
    indices = [Image.fromarray(noise((4, 6), seed, 4)).convert("P") for seed in (202, 203, 204)]
    for picture in indices:
        picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    few = indices[0]
    for name, picture in {
        "rgb.bmp": colours,
        "rgba.bmp": alpha,
        "grey.bmp": grey,
        "bits.bmp": grey.convert("1"),
        "palette.bmp": few,
        "rgb.tiff": colours,
        "rgba.tiff": alpha,
        "grey.tiff": grey,
        "bits.tiff": grey.convert("1"),
        "cmyk.tiff": colours.convert("CMYK"),
        "grey16.tiff": Image.fromarray(noise((4, 6), 205, 65536, np.uint16)),
        "one.gif": few,
    }.items():
        picture.save(PICTURES / name)
    colours.save(PICTURES / "lzw.tiff", compression="tiff_lzw")
    colours.save(PICTURES / "lossless.webp", lossless=True)
    alpha.save(PICTURES / "lossless_alpha.webp", lossless=True, exact=True)
    few.save(PICTURES / "transparent.gif", transparency=2)
    for name, options in {
        "kept.gif": {"disposal": 1},
        "cleared.gif": {"disposal": 2, "transparency": 2},
        "restored.gif": {"disposal": 3, "transparency": 1},
    }.items():
        few.save(PICTURES / name, save_all=True, append_images=indices[1:], **options)
    more = [alpha.rotate(180), alpha]
    alpha.save(PICTURES / "alpha.apng", "PNG", save_all=True, append_images=more, blend=0)
    alpha.save(PICTURES / "over.apng", "PNG", save_all=True, append_images=more, blend=1)
    alpha.save(PICTURES / "cleared.apng", "PNG", save_all=True, append_images=more, disposal=1)
    grey.save(PICTURES / "grey.apng", "PNG", save_all=True, append_images=[grey.rotate(180)])
    turned = [colours.rotate(180)]
    colours.save(
        PICTURES / "still_first.apng", "PNG", save_all=True, append_images=turned, default_image=True
    )
    colours.save(PICTURES / "frames.webp", save_all=True, append_images=turned, lossless=True)
    alpha.save(
        PICTURES / "frames_alpha.webp", save_all=True, append_images=more[:1], lossless=True, exact=True
    )


def make_lossy():
    for name, subsampling in [("444", 0), ("422", 1), ("420", 2)]:
        # An odd number of rows goes another way in libswscale, and one of columns too.
        for height, width in [(10, 12), (10, 11), (9, 12), (9, 11)]:
            path = PICTURES / f"{name}_{width}x{height}.jpg"
            Image.fromarray(waves(height, width)).save(path, quality=95, subsampling=subsampling)
    picture = Image.fromarray(waves(10, 12))
    picture.save(PICTURES / "progressive.jpg", quality=90, progressive=True)
    picture.save(PICTURES / "restarts.jpg", quality=90, restart_marker_blocks=1)
    picture.save(PICTURES / "rgb.jpg", quality=90, keep_rgb=True)
    picture.convert("L").save(PICTURES / "grey.jpg", quality=90)
    inks = np.concatenate([waves(10, 12), waves(10, 12)[::-1, :, :1]], -1)
    Image.fromarray(inks, "CMYK").save(PICTURES / "cmyk.jpg", quality=95)
    # The same planes under other names, with which they mean brightness, colours, and black or alpha.
    data = bytearray((PICTURES / "cmyk.jpg").read_bytes())
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    for component in range(4):
        data[frame + 10 + 3 * component] = data[scan + 5 + 2 * component] = component + 1
    for name, transform in [("ycck.jpg", 2), ("ycc_alpha.jpg", 1)]:
        data[data.index(b"Adobe") + 11] = transform
        (PICTURES / name).write_bytes(data)
    picture.save(PICTURES / "lossy.webp", quality=90)
    picture.putalpha(Image.fromarray(waves(10, 12)[..., 0]))
    picture.save(PICTURES / "lossy_alpha.webp", quality=90)


def make_turned():
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        path = PICTURES / f"turned{orientation}.png"
        Image.fromarray(noise((4, 6, 3), 300)).save(path, exif=exif)
    Image.fromarray(waves(16, 24)).save(PICTURES / "turned1.jpg", quality=95)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(waves(16, 24)).save(PICTURES / "turned6.jpg", exif=exif, quality=95)
    Image.fromarray(noise((4, 6, 3), 301)).save(PICTURES / "turned6.webp", exif=exif, lossless=True)
    Image.fromarray(noise((4, 6, 3), 302)).save(PICTURES / "turned6.tiff", exif=exif)


def make_carried():
    """Pictures that carry a workflow, as ComfyUI's nodes and those of packs save them."""
    CARRIED.mkdir(parents=True, exist_ok=True)
    for old in CARRIED.iterdir():
        old.unlink()
    picture = Image.fromarray(noise((4, 6, 3), 400))
    inputs = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": inputs},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "é"}},
    }
    nodes = [
        {"id": 1, "type": "EmptyImage", "widgets_values": [8, 8, 1, 0],
         "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}]},
        {"id": 2, "type": "SaveImage", "widgets_values": ["é"],
         "inputs": [{"name": "images", "type": "IMAGE", "link": 1}]},
    ]
    workflow = {"nodes": nodes, "links": [[1, 1, 0, 2, 0, "IMAGE"]], "version": 0.4}
    make, model, description, comment = 0x010F, 0x0110, 0x010E, 0x9286
    for name, texts in {
        "both.webp": {model: f"prompt:{json.dumps(prompt)}", make: f"workflow:{json.dumps(workflow)}"},
        "workflow.webp": {description: f"Workflow: {json.dumps(workflow)}"},
        "prompt.jpg": {model: f"prompt:{json.dumps(prompt)}"},
        "other.jpg": {description: "prompt: a fox"},
    }.items():
        exif = Image.Exif()
        for tag, text in texts.items():
            exif[tag] = text
        picture.save(CARRIED / name, exif=exif)
    exif = Image.Exif()
    carried = json.dumps({"prompt": prompt, "workflow": workflow}, ensure_ascii=False)
    exif.get_ifd(0x8769)[comment] = b"UNICODE\0" + carried.encode("utf-16-be")
    picture.save(CARRIED / "comment.jpg", exif=exif)
    picture.save(CARRIED / "none.webp")
    # Texts may stand behind the picture, and be compressed.
    plain = CARRIED / "behind.png"
    picture.save(plain)
    text = chunk(b"zTXt", b"prompt\0\0" + zlib.compress(json.dumps(prompt).encode()))
    data = plain.read_bytes()
    plain.write_bytes(data[:-12] + text + data[-12:])


def with_av(path):
    """The frames with red, green, blue and maybe alpha, 0 to 1; None where PyAV cannot."""
    frames = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                kind = frame.format
                alpha = kind.name == "pal8" or any(part.is_alpha for part in kind.components)
                if kind.name in BYTES:
                    values = frame.to_ndarray(format="rgba" if alpha else "rgb24") / 255
                else:
                    values = frame.to_ndarray(format="gbrapf32le" if alpha else "gbrpf32le")
                frames.append(np.rot90(values, frame.rotation // 90))
    except av.error.InvalidDataError:
        return None
    return np.stack(frames)


def with_pillow(path):
    with Image.open(path) as picture:
        return np.stack([np.array(frame) for frame in ImageSequence.Iterator(picture)]) / 255


def content(path):
    values = with_av(path)
    if values is None:
        values = with_pillow(path)
    colours, alpha = values[..., :3], values[..., 3:]

    def steps(values):
        return np.round(np.asarray(values, np.float64) * 65535).astype(int).flatten().tolist()

    out = {"shape": colours.shape, "colours": steps(colours)}
    if alpha.size:
        out["transparency"] = steps(1 - alpha)
    return out


def main():
    PICTURES.mkdir(parents=True, exist_ok=True)
    for old in PICTURES.iterdir():
        old.unlink()
    make_png()
    make_others()
    make_lossy()
    make_turned()
    make_carried()
    pictures = {path.name: content(path) for path in sorted(PICTURES.iterdir())}
    path = FIXTURES / "pictures.json"
    path.write_text(json.dumps(pictures, separators=(",", ":")) + "\n")
    print(len(pictures), "pictures,", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
