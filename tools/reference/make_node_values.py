"""Makes crates/workflow/tests/fixtures/node_values.json: what nodes make of small pictures, masks, latents and texts.

    pip install torch numpy scipy pillow diffusers
    python tools/reference/make_node_values.py

Masks grow by scipy's grey morphology, texts are cut and matched by Python's str and re, noise levels are those of
diffusers' Flux.2 pipeline and of scipy's beta distribution; the rest are PyTorch's operations by the published formulas
(W3C's blend modes, CFG-Zero*). Pictures are [batch, height, width, channels], latents [batch, channels, height, width].
"""

import json
import math
import re
from pathlib import Path

import numpy as np
import scipy.ndimage
import scipy.stats
import torch
import torch.nn.functional as F
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from PIL import Image

FIXTURE = Path(__file__).resolve().parents[2] / "crates/workflow/tests/fixtures/node_values.json"


def given():
    """Values of few digits, so that the file holds them as they are."""
    generator = torch.Generator().manual_seed(11)
    rand = lambda *shape: (torch.rand(*shape, generator=generator) * 100).round() / 100
    # Whole bytes a little above: a value of 0 to 1 is cut off to 8 bits.
    eight = lambda *shape: (torch.randint(0, 255, shape, generator=generator) + 0.25) / 255
    return {
        "image": rand(1, 6, 8, 3),
        "other": rand(1, 6, 8, 3),
        "small": eight(1, 4, 5, 3),
        "alpha": rand(1, 4, 5, 4),
        "mask": rand(1, 6, 8),
        "little mask": rand(1, 3, 4),
        "latent": rand(1, 4, 6, 8),
        "other latent": rand(1, 4, 3, 4),
        "guided": rand(2, 4, 3, 4),
        "positive": rand(2, 4, 3, 4),
        "negative": rand(2, 4, 3, 4),
        "noisy": rand(2, 4, 3, 4),
    }


def bilinear(x, size):
    return F.interpolate(x, size=size, mode="bilinear")


def masks(values):
    mask, little = values["mask"][0], values["little mask"][0]
    part = mask[2:5, 3:7]
    rounded = part.round().bool(), little.round().bool()
    ops = {
        "multiply": part * little,
        "add": part + little,
        "subtract": part - little,
        "and": (rounded[0] & rounded[1]).float(),
        "or": (rounded[0] | rounded[1]).float(),
        "xor": (rounded[0] ^ rounded[1]).float(),
    }
    for name, value in ops.items():
        made = mask.clone()
        made[2:5, 3:7] = value
        yield "MaskComposite", {"destination": "mask", "source": "little mask", "x": 3, "y": 2, "operation": name}, made.clamp(0, 1)
    for expand, tapered in [(2, True), (2, False), (-1, True), (-2, False)]:
        corner = 0 if tapered else 1
        kernel = np.array([[corner, 1, corner], [1, 1, 1], [corner, 1, corner]])
        made = mask.numpy()
        step = scipy.ndimage.grey_dilation if expand > 0 else scipy.ndimage.grey_erosion
        for _ in range(abs(expand)):
            made = step(made, footprint=kernel)
        yield "GrowMask", {"mask": "mask", "expand": expand, "tapered_corners": tapered}, torch.from_numpy(made)
    made = mask.clone()
    left, top, right, bottom = 3, 2, 2, 4
    for at in range(left):
        made[:, at] *= (at + 1) / left
    for at in range(right):
        made[:, -at] *= (at + 1) / right
    for at in range(top):
        made[at, :] *= (at + 1) / top
    for at in range(bottom):
        made[-at, :] *= (at + 1) / bottom
    yield "FeatherMask", {"mask": "mask", "left": left, "top": top, "right": right, "bottom": bottom}, made
    yield "ThresholdMask", {"mask": "mask", "value": 0.4}, (mask > 0.4).float()


def images(values):
    image, other = values["image"], values["other"]
    raised = torch.where(image <= 0.25, ((16 * image - 12) * image + 4) * image, image.sqrt())
    modes = {
        "normal": other,
        "multiply": image * other,
        "screen": image + other - image * other,
        "overlay": torch.where(image <= 0.5, 2 * image * other, 1 - 2 * (1 - image) * (1 - other)),
        "soft_light": torch.where(
            other <= 0.5,
            image - (1 - 2 * other) * image * (1 - image),
            image + (2 * other - 1) * (raised - image),
        ),
        "difference": image - other,
    }
    for name, mixed in modes.items():
        made = (image * 0.7 + mixed * 0.3).clamp(0, 1)
        yield "ImageBlend", {"image1": "image", "image2": "other", "blend_factor": 0.3, "blend_mode": name}, made
    small, mask = values["small"], values["little mask"]
    share = bilinear(mask[:, None], (4, 5))[0, 0, :, :, None]
    made = image.clone()
    cut = (slice(None), slice(3, 6), slice(4, 8))
    made[cut] = (share * small[0] + 0 * small[0])[None, :3, :4] + (1 - share)[None, :3, :4] * image[cut]
    yield "ImageCompositeMasked", {"destination": "image", "source": "small", "x": 4, "y": 3, "resize_source": False, "mask": "little mask"}, made
    resized = bilinear(small.movedim(-1, 1), (6, 8)).movedim(1, -1)
    yield "ImageCompositeMasked", {"destination": "image", "source": "small", "x": 0, "y": 0, "resize_source": True}, resized
    alpha = values["alpha"]
    yield "SplitImageWithAlpha", {"image": "alpha"}, alpha[..., :3]
    shown = 1 - bilinear(values["little mask"][:, None], (4, 5))[:, 0]
    yield "JoinImageWithAlpha", {"image": "small", "alpha": "little mask"}, torch.cat([small, shown[..., None]], -1)
    pixels = Image.fromarray((small[0] * 255).byte().numpy())
    tall = torch.from_numpy(np.array(pixels.resize((7, 6), Image.Resampling.LANCZOS))).float() / 255
    white, red = torch.ones(1, 6, 2, 3), torch.tensor([1.0, 0, 0]).expand(1, 6, 2, 3)
    stitch = {"image1": "image", "image2": "small", "direction": "right", "match_image_size": True, "spacing_width": 1, "spacing_color": "white"}
    yield "ImageStitch", stitch, torch.cat([image, white, tall[None]], 2)
    yield "ImageStitch", {**stitch, "direction": "left", "spacing_color": "red"}, torch.cat([tall[None], red, image], 2)
    padded = F.pad(small, (0, 0, 1, 2), value=1.0)
    yield "ImageStitch", {**stitch, "direction": "down", "match_image_size": False, "spacing_width": 0}, torch.cat([image, padded], 1)
    yield "ImageStitch", {**stitch, "direction": "up", "match_image_size": False, "spacing_width": 0, "spacing_color": "black"}, torch.cat([F.pad(small, (0, 0, 1, 2)), image], 1)
    yield "ImageFromBatch", {"image": "image", "batch_index": 3, "length": 4}, image


def latents(values):
    latent, other = values["latent"], values["other latent"]
    cubic = F.interpolate(other, size=(6, 8), mode="bicubic")
    yield "LatentBlend", {"samples1": "latent", "samples2": "other latent", "blend_factor": 0.25}, latent * 0.25 + cubic * 0.75
    yield "LatentBatch", {"samples1": "latent", "samples2": "other latent"}, torch.cat([latent, bilinear(other, (6, 8))])
    share = bilinear(values["mask"][:, None], (3, 4))
    made = latent.clone()
    made[:, :, 2:5, 5:8] = share[..., :3] * other[..., :3] + (1 - share[..., :3]) * latent[:, :, 2:5, 5:8]
    yield "LatentCompositeMasked", {"destination": "latent", "source": "other latent", "x": 40, "y": 16, "resize_source": False, "mask": "mask"}, made


def sizes():
    for megapixels, step in [(1.0, 1), (0.01, 1), (0.5, 16), (2.3, 64)]:
        scale = math.sqrt(int(megapixels * 1024 * 1024) / (8 * 6))
        size = [round(side * scale / step) * step for side in (8, 6)]
        yield {"megapixels": megapixels, "resolution_steps": step}, size


def resolutions():
    for name, ratio in [("1:1 (Square)", (1, 1)), ("16:9 (Widescreen)", (16, 9)), ("2:3 (Portrait Photo)", (2, 3))]:
        for megapixels, multiple in [(1.0, 8), (0.3, 16), (4.0, 64)]:
            scale = math.sqrt(megapixels * 1024 * 1024 / (ratio[0] * ratio[1]))
            size = [round(part * scale / multiple) * multiple for part in ratio]
            yield {"aspect_ratio": name, "megapixels": megapixels, "multiple": multiple}, size


def texts():
    text = "Ein Fuchs's façade, 12 foxes"
    yield "StringConcatenate", {"string_a": "a", "string_b": "b", "delimiter": ", "}, ", ".join(("a", "b"))
    for start, end in [(0, 3), (-5, -1), (4, 2), (-99, 99), (15, 21)]:
        yield "StringSubstring", {"string": text, "start": start, "end": end}, text[start:end]
    yield "StringLength", {"string": text}, len(text)
    modes = {"UPPERCASE": str.upper, "lowercase": str.lower, "Capitalize": str.capitalize, "Title Case": str.title}
    for mode, change in modes.items():
        yield "CaseConverter", {"string": text, "mode": mode}, change(text)
    blanks = " \t a b \n "
    for mode, change in {"Both": str.strip, "Left": str.lstrip, "Right": str.rstrip}.items():
        yield "StringTrim", {"string": blanks, "mode": mode}, change(blanks)
    yield "StringReplace", {"string": text, "find": "F", "replace": ""}, text.replace("F", "")
    for part, exact in [("fuchs", True), ("fuchs", False), ("12", True)]:
        found = part in text if exact else part in text.lower()
        yield "StringContains", {"string": text, "substring": part, "case_sensitive": exact}, found
    for mode, part in [("Starts With", "ein"), ("Ends With", "FOXES"), ("Equal", text.upper())]:
        for exact in (True, False):
            a, b = (text, part) if exact else (text.lower(), part.lower())
            found = {"Starts With": a.startswith(b), "Ends With": a.endswith(b), "Equal": a == b}[mode]
            yield "StringCompare", {"string_a": text, "string_b": part, "mode": mode, "case_sensitive": exact}, found
    lines = "seed: 12\nsteps: 30\nSize: 64x96"
    flags = {"case_insensitive": True, "multiline": False, "dotall": False}
    of = lambda f: (f["case_insensitive"] and re.I or 0) | (f["multiline"] and re.M or 0) | (f["dotall"] and re.S or 0)
    for pattern, more in [(r"^size", {}), (r"^size", {"multiline": True}), (r"seed.*96", {}), (r"seed.*96", {"dotall": True}), ("(", {})]:
        f = {**flags, **more}
        try:
            found = re.search(pattern, lines, of(f)) is not None
        except re.error:
            found = False
        yield "RegexMatch", {"string": lines, "regex_pattern": pattern, **f}, found
    for pattern in [r"\d+", r"(\w+): (\d+)", r"(\d+)x(\d+)", r"nothing"]:
        for mode in ["First Match", "All Matches", "First Group", "All Groups"]:
            match, groups = re.search(pattern, lines, re.I), re.compile(pattern).groups
            every = re.findall(pattern, lines, re.I)
            group = 1
            if mode == "First Match":
                found = match.group(0) if match else ""
            elif mode == "All Matches":
                found = "\n".join(m[0] if isinstance(m, tuple) else m for m in every)
            elif mode == "First Group":
                found = match.group(group) if match and groups >= group else ""
            else:
                found = "\n".join(m.group(group) for m in re.finditer(pattern, lines, re.I) if groups >= group)
            yield "RegexExtract", {"string": lines, "regex_pattern": pattern, "mode": mode, **flags, "group_index": group}, found
    for pattern, by, count in [(r"(\w+): (\d+)", r"\2=\1", 0), (r"(?P<n>\d)", r"<\g<n>>", 2), (r"e", r"\\", 0), ("x", r"\n", 0)]:
        made = re.sub(pattern, by, lines, count=count, flags=re.I)
        yield "RegexReplace", {"string": lines, "regex_pattern": pattern, "replace": by, "count": count}, made


def schedules():
    for steps, width, height in [(4, 512, 512), (20, 1024, 1024), (50, 2048, 1024), (8, 1536, 1344)]:
        tokens = round(width * height / 256)
        mu = compute_empirical_mu(tokens, steps)
        times = np.linspace(1, 1 / steps, steps)
        sigmas = np.exp(mu) / (np.exp(mu) + (1 / times - 1))
        yield {"steps": steps, "width": width, "height": height}, [*sigmas.tolist(), 0.0]


def quantiles():
    for steps, alpha, beta in [(8, 0.6, 0.6), (12, 1.5, 0.4), (5, 0.3, 2.0), (20, 3.0, 3.0)]:
        parts = 1 - np.linspace(0, 1, steps, endpoint=False)
        places = np.rint(scipy.stats.beta.ppf(parts, alpha, beta) * 999).astype(int)
        yield {"steps": steps, "alpha": alpha, "beta": beta}, list(dict.fromkeys(places.tolist()))


def guidance(values):
    guided, positive, negative, x = (values[name] for name in ("guided", "positive", "negative", "noisy"))
    flat = lambda guess: (x - guess).flatten(1)
    alpha = (flat(positive) * flat(negative)).sum(1) / ((flat(negative) ** 2).sum(1) + 1e-8)
    alpha = alpha[:, None, None, None]
    scale = 4.0
    lengths = positive.norm(dim=1, keepdim=True), guided.norm(dim=1, keepdim=True)
    return {
        "zero star": guided + negative * (alpha - 1) + scale * negative * (1 - alpha),
        "normed": guided * (lengths[0] / (lengths[1] + 1e-8)).clamp(0, 1) * 0.9,
    }


def tensor(x):
    return {"shape": list(x.shape), "values": [round(v, 7) for v in x.flatten().tolist()]}


def main():
    values = given()
    nodes = [*masks(values), *images(values), *latents(values)]
    fixture = {
        "given": {name: tensor(x) for name, x in values.items()},
        "nodes": [[name, inputs, tensor(x)] for name, inputs, x in nodes],
        "sizes": list(sizes()),
        "resolutions": list(resolutions()),
        "texts": list(texts()),
        "flux2": list(schedules()),
        "quantiles": list(quantiles()),
        "guidance": {name: tensor(x) for name, x in guidance(values).items()},
    }
    FIXTURE.write_text(json.dumps(fixture, separators=(",", ":")))
    print(f"{len(nodes)} nodes, {len(fixture['texts'])} texts, {FIXTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
