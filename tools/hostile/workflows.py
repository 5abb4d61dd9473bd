"""Workflows: API and editor form, broken, deep, circular, huge in numbers."""

import json

from case import node, text_to_image

# What stands where something else should.
WRONG = {
    "null": None, "true": True, "minus": -1, "float": 0.5, "text": "x", "list": [], "object": {},
    "link": ["ckpt", 0], "self": ["sampler", 0], "nested": [[[[["ckpt", 0]]]]], "huge": 10**40,
}

# Sizes and numbers that are valid, or just not, in themselves.
EXTREMES = {
    "one-pixel": {"empty_width": 16, "empty_height": 16},
    "below-least": {"empty_width": 8, "empty_height": 8},
    "odd": {"empty_width": 65, "empty_height": 71},
    "wide": {"empty_width": 2048, "empty_height": 16},
    "largest": {"empty_width": 16384, "empty_height": 16384},
    "largest-batch": {"empty_width": 16384, "empty_height": 16384, "empty_batch_size": 4096},
    "beyond-batch": {"empty_batch_size": 4097},
    "no-steps": {"sampler_steps": 0},
    "most-steps": {"sampler_steps": 10001},
    "no-denoise": {"sampler_denoise": 0.0},
    "least-denoise": {"sampler_denoise": 1e-9},
    "no-cfg": {"sampler_cfg": 0.0},
    "most-cfg": {"sampler_cfg": 100.0},
    "first-seed": {"sampler_seed": 0},
    "last-seed": {"sampler_seed": 2**64 - 1},
    "beyond-seed": {"sampler_seed": 2**64},
    "kl-optimal": {"sampler_scheduler": "kl_optimal"},
    "adaptive": {"sampler_sampler_name": "dpm_adaptive", "sampler_steps": 3},
    "fast": {"sampler_sampler_name": "dpm_fast", "sampler_steps": 1},
    "prefix-out": {"save_filename_prefix": "../../out"},
    "prefix-absolute": {"save_filename_prefix": "/etc/x"},
    "prefix-long": {"save_filename_prefix": "a" * 300},
    "prefix-deep": {"save_filename_prefix": "/".join("abcdefgh" * 50)},
    "prefix-tokens": {"save_filename_prefix": "%date:yyyyyyyyyyyyyyyyy%%%%sampler.seed%%x.y%" * 30},
    "prefix-device": {"save_filename_prefix": "con\0\n"},
    "prompt-deep": {"good_text": "(" * 499 + "x" + ")" * 499},
    "prompt-deeper": {"good_text": "(" * 50_000 + "x" + ")" * 50_000},
    "prompt-braces": {"good_text": "{" * 20_000 + "a|b" + "}" * 20_000},
    "prompt-long": {"good_text": "word, " * 20_000},
    "prompt-weights": {"good_text": "(a:1e38) (b:-1e38) (c:0)"},
    "prompt-surrogate": {"good_text": "\U0001f4a5\u0000\u202e"},
}

IMAGES = {
    "scale-largest": node("ImageScale", image=["load", 0], upscale_method="lanczos", width=16384, height=16384, crop="disabled"),
    "scale-thin": node("ImageScale", image=["load", 0], upscale_method="bicubic", width=16384, height=1, crop="center"),
    "scale-none": node("ImageScale", image=["load", 0], upscale_method="area", width=0, height=0, crop="center"),
    "scale-by-least": node("ImageScaleBy", image=["load", 0], upscale_method="bilinear", scale_by=0.01),
    "scale-by-most": node("ImageScaleBy", image=["load", 0], upscale_method="nearest-exact", scale_by=8.0),
    "pad-most": node("ImagePadForOutpaint", image=["load", 0], left=16384, top=16384, right=16384, bottom=16384, feathering=16384),
    "pad-none": node("ImagePadForOutpaint", image=["load", 0], left=0, top=0, right=0, bottom=0, feathering=16384),
    "crop-outside": node("ImageCrop", image=["load", 0], width=16384, height=16384, x=16384, y=16384),
    "crop-pixel": node("ImageCrop", image=["load", 0], width=1, height=1, x=3, y=3),
    "empty-largest": node("EmptyImage", width=16384, height=16384, batch_size=4096, color=0),
    "empty-one": node("EmptyImage", width=1, height=1, batch_size=1, color=16777215),
    "empty-many": node("EmptyImage", width=1, height=1, batch_size=128, color=1),
}


def cases(place):
    kind = "workflows"
    for name, changes in EXTREMES.items():
        yield place.run("sizes", name, text_to_image(**changes))
    for name, change in IMAGES.items():
        nodes = {"load": node("LoadImage", image="blue_square.png"), "change": change}
        nodes["save"] = node("PreviewImage", images=["change", 0])
        yield place.run("sizes", f"image-{name}", nodes)
        # What came out goes on into a model.
        if name in ("scale-thin", "scale-by-least", "crop-pixel", "empty-one", "pad-none"):
            nodes = text_to_image(sampler_latent_image=["encode", 0], sampler_denoise=0.5) | nodes
            nodes["encode"] = node("VAEEncode", pixels=["change", 0], vae=["ckpt", 2])
            nodes["save"] = node("SaveImage", images=["decode", 0], filename_prefix="x")
            yield place.run("sizes", f"encoded-{name}", nodes)
            nodes = dict(nodes)
            nodes["encode"] = node("VAEEncodeTiled", pixels=["change", 0], vae=["ckpt", 2], tile_size=64, overlap=4096)
            yield place.run("sizes", f"tiled-{name}", nodes)
    for tile, overlap in ((64, 0), (64, 64), (64, 4096), (4096, 4096), (64, 32)):
        nodes = text_to_image()
        nodes["decode"] = node(
            "VAEDecodeTiled", samples=["sampler", 0], vae=["ckpt", 2], tile_size=tile, overlap=overlap,
            temporal_size=64, temporal_overlap=8,
        )
        yield place.run("sizes", f"tiles-{tile}-{overlap}", nodes)
    for name, value in WRONG.items():
        for place_ in ("sampler_steps", "sampler_model", "good_text", "empty_width", "ckpt_ckpt_name"):
            if name in ("list", "object", "huge", "nested", "self") or place_ in ("sampler_steps", "sampler_model"):
                yield place.run(kind, f"wrong-{name}-{place_}", text_to_image(**{place_: value}))
    yield from api(place)
    yield from editor(place)


def api(place):
    kind = "workflows"
    whole = text_to_image()
    yield place.run(kind, "whole", whole, expects=(0,))
    texts = {
        "empty": "", "null": "null", "number": "1", "text": '"x"', "list": "[]", "object": "{}",
        "blank": " " * 1_000_000, "open": "{", "bom-only": "\ufeff", "nul": "\0\0\0\0",
        "nan": json.dumps(text_to_image(sampler_cfg=float("nan"))),
        "infinity": json.dumps(text_to_image(sampler_cfg=float("inf"))),
        "digits": '{"1": ' + "9" * 1_000_000 + "}",
        "escape": '{"\\ud800": {"class_type": "\\udfff", "inputs": {}}}',
        "brackets": "[" * 1_000_000, "braces": '{"a":' * 300_000, "closed-brackets": "[" * 100_000 + "]" * 100_000,
        "deep-input": json.dumps(text_to_image()).replace('"a red circle"', "[" * 90 + "]" * 90),
        "twice": '{"1": {"class_type": "LoadImage"}, "1": {"class_type": "SaveImage"}}',
    }
    for name, text in texts.items():
        yield place.run(kind, f"text-{name}", text)
    for cut in range(1, 16):
        text = json.dumps(whole)
        yield place.run("truncated", f"api-{cut}", text[: len(text) * cut // 16])
    yield place.run(kind, "latin", json.dumps(whole, ensure_ascii=False).replace("red", "réd").encode("latin-1"))
    yield place.run(kind, "utf-16", json.dumps(whole).encode("utf-16"))
    circle = text_to_image(sampler_latent_image=["loop", 0])
    circle["loop"] = node("VAEEncode", pixels=["decode", 0], vae=["ckpt", 2])
    yield place.run(kind, "circle", circle)
    # A chain of as many nodes as recursion could not follow.
    for length in (2_000, 20_000):
        chain = text_to_image(sampler_latent_image=[f"n{length - 1}", 0])
        for at in range(length):
            before = [f"n{at - 1}", 0] if at else ["empty", 0]
            chain[f"n{at}"] = node("LatentFlip", samples=before, flip_method="x-axis: vertically")
        yield place.run("nesting", f"chain-{length}", chain)
    ring = {f"n{at}": node("LatentFlip", samples=[f"n{(at + 1) % 20_000}", 0], flip_method="x-axis: vertically") for at in range(20_000)}
    ring["save"] = node("SaveLatent", samples=["n0", 0], filename_prefix="x")
    yield place.run("nesting", "ring", ring)
    # Each node takes the one before twice: paths double, nodes do not.
    ladder = text_to_image(sampler_positive=["c59", 0])
    for at in range(60):
        before = [f"c{at - 1}", 0] if at else ["good", 0]
        ladder[f"c{at}"] = node("ConditioningAverage", conditioning_to=before, conditioning_from=before, conditioning_to_strength=0.5)
    yield place.run("nesting", "ladder", ladder, expects=(0,))
    doubled = text_to_image(sampler_positive=["c39", 0])
    for at in range(40):
        before = [f"c{at - 1}", 0] if at else ["good", 0]
        doubled[f"c{at}"] = node("ConditioningCombine", conditioning_1=before, conditioning_2=before)
    yield place.run("nesting", "doubled", doubled)
    grown = text_to_image(sampler_latent_image=["r9", 0])
    for at in range(10):
        before = [f"r{at - 1}", 0] if at else ["empty", 0]
        grown[f"r{at}"] = node("RepeatLatentBatch", samples=before, amount=64)
    yield place.run("sizes", "repeated", grown)
    long = text_to_image(sampler_positive=["c15", 0])
    for at in range(16):
        before = [f"c{at - 1}", 0] if at else ["good", 0]
        long[f"c{at}"] = node("ConditioningConcat", conditioning_to=before, conditioning_from=before)
    yield place.run("nesting", "concatenated", long)
    upscaled = text_to_image(sampler_latent_image=["u7", 0])
    for at in range(8):
        before = [f"u{at - 1}", 0] if at else ["empty", 0]
        upscaled[f"u{at}"] = node("LatentUpscaleBy", samples=before, upscale_method="bislerp", scale_by=8.0)
    yield place.run("sizes", "upscaled", upscaled)
    sigmas = {
        "none": node("SplitSigmas", sigmas=["schedule", 0], step=10_000),
        "flipped": node("FlipSigmas", sigmas=["schedule", 0]),
        "zero": node("SetFirstSigma", sigmas=["schedule", 0], sigma=0.0),
        "most": node("SetFirstSigma", sigmas=["schedule", 0], sigma=20_000.0),
        "karras": node("KarrasScheduler", steps=2, sigma_max=0.0, sigma_min=5000.0, rho=100.0),
        "karras-none": node("KarrasScheduler", steps=1, sigma_max=0.0, sigma_min=0.0, rho=7.0),
        "polyexponential": node("PolyexponentialScheduler", steps=2, sigma_max=5000.0, sigma_min=1e-300, rho=0.0),
        "vp": node("VPScheduler", steps=2, beta_d=5000.0, beta_min=5000.0, eps_s=0.0),
        "steps": node("KarrasScheduler", steps=10_000, sigma_max=14.0, sigma_min=0.03, rho=7.0),
    }
    for name, change in sigmas.items():
        nodes = text_to_image()
        nodes["schedule"] = node("BasicScheduler", model=["ckpt", 0], scheduler="karras", steps=2, denoise=1.0)
        nodes["sigmas"] = change
        if name == "steps":  # so many are made, and two of them run
            nodes["many"], change = change, node("SplitSigmas", sigmas=["many", 0], step=2)
            nodes["sigmas"] = change
        nodes["choice"] = node("KSamplerSelect", sampler_name="dpmpp_2m")
        nodes["sampler"] = node(
            "SamplerCustom", model=["ckpt", 0], positive=["good", 0], negative=["bad", 0], add_noise=True,
            noise_seed=0, cfg=2.0, sampler=["choice", 0], sigmas=["sigmas", 0], latent_image=["empty", 0],
        )
        yield place.run("sizes", f"sigmas-{name}", nodes)


def editor_node(id, kind, inputs=(), outputs=(), widgets=(), **more):
    return {
        "id": id, "type": kind, "mode": 0, "pos": [0, 0], "size": [1, 1], "flags": {}, "order": id,
        "inputs": list(inputs), "outputs": list(outputs), "widgets_values": list(widgets), "properties": {}, **more,
    }


def reroutes(count):
    """An empty latent through so many reroutes to SaveLatent."""
    nodes = [editor_node(1, "EmptyLatentImage", outputs=[{"name": "LATENT", "type": "LATENT", "links": [1]}], widgets=[64, 64, 1])]
    links = []
    for at in range(count):
        nodes.append(
            editor_node(
                at + 2, "Reroute", inputs=[{"name": "", "type": "*", "link": at + 1}],
                outputs=[{"name": "", "type": "LATENT", "links": [at + 2]}],
            )
        )
        links.append([at + 1, at + 1, 0, at + 2, 0, "LATENT"])
    last = count + 2
    links.append([count + 1, count + 1, 0, last, 0, "LATENT"])
    nodes.append(editor_node(last, "SaveLatent", inputs=[{"name": "samples", "type": "LATENT", "link": count + 1}], widgets=["x"]))
    return {"nodes": nodes, "links": links, "version": 0.4, "last_node_id": last, "last_link_id": count + 1}


def subgraphs(depth, circular):
    """A subgraph in a subgraph, as deep as this, or in itself."""
    definitions = []
    for at in range(depth):
        inner = f"sub{(at + 1) % depth}" if circular else f"sub{at + 1}"
        leaf = at == depth - 1 and not circular
        nodes = [editor_node(1, "EmptyLatentImage", widgets=[64, 64, 1]) if leaf else editor_node(1, inner)]
        definitions.append({
            "id": f"sub{at}", "name": f"sub{at}", "version": 1, "nodes": nodes, "links": [],
            "inputs": [], "outputs": [], "inputNode": {"id": -10}, "outputNode": {"id": -20}, "groups": [],
        })
    return {"nodes": [editor_node(1, "sub0")], "links": [], "version": 1, "definitions": {"subgraphs": definitions}}


def editor(place):
    kind = "editor"
    text = (place.repository / "examples/editor.json").read_text()
    whole = json.loads(text)
    for cut in range(1, 12):
        yield place.run("truncated", f"editor-{cut}", text[: len(text) * cut // 12])
    for name, value in WRONG.items():
        for key in ("nodes", "links"):
            yield place.run(kind, f"wrong-{name}-{key}", whole | {key: value})
    for key in ("id", "type", "mode", "inputs", "outputs", "widgets_values", "properties"):
        for name in ("null", "minus", "text", "object", "list", "huge"):
            broken = json.loads(text)
            for one in broken["nodes"]:
                one[key] = WRONG[name]
            yield place.run(kind, f"every-{key}-{name}", broken)
    for count in (64, 1_000, 20_000):
        yield place.run("nesting", f"reroutes-{count}", reroutes(count))
    circle = reroutes(3)
    circle["links"][0] = [1, 4, 0, 2, 0, "LATENT"]
    yield place.run(kind, "reroutes-circle", circle)
    for depth in (3, 500):
        yield place.run("nesting", f"subgraphs-{depth}", subgraphs(depth, False))
    yield place.run("nesting", "subgraphs-circle", subgraphs(3, True))
    yield place.run("nesting", "subgraph-itself", subgraphs(1, True))
    links = json.loads(text)
    links["links"] = [[n, -1, 2**63, 2**64, -5, None] for n in range(2_000)] + [None, [], [1], "x", {"id": 1}]
    yield place.run(kind, "links", links)
    many = json.loads(text)
    many["nodes"] = [editor_node(n, "Note", widgets=["x" * 100]) for n in range(50_000)] + many["nodes"]
    yield place.run(kind, "notes", many)
    same = json.loads(text)
    for one in same["nodes"]:
        one["id"] = 1
    yield place.run(kind, "one-id", same)
