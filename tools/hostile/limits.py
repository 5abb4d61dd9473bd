"""Sound work under limits that are too low for it."""

import resource

from case import Case, node, text_to_image

MIB = 1 << 20
# From what no program starts under to what is enough.
SPACES = [24, 32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 144, 160, 192, 224, 256, 320, 384, 512, 768]


def cases(place):
    kind = "limits of memory"
    # Below this the system's loader ends the program itself.
    for space in SPACES:
        made = place.generate(kind, f"generate-{space}", address_space=space * MIB)
        if space >= 64:
            yield made
        nodes = text_to_image(empty_width=512, empty_height=512)
        if space >= 128:
            yield place.run(kind, f"run-512-{space}", nodes, address_space=space * MIB)
    for space in (96, 160, 320):
        yield Case(kind, f"plan-{space}", ["plan", "tiny-shapes.safetensors", "--base-dir", str(place.base)], address_space=space * MIB)
        yield Case(kind, f"devices-{space}", ["devices"], address_space=space * MIB)
        yield place.generate(kind, f"pinned-{space}", "--pin", address_space=space * MIB)
        simulated = ["--simulate", "cuda:0=6MiB,cuda:1=4MiB@1GB/s", "--device", "cuda:0", "--virtual-vram-gb", "0.004", "--donor-device", "cuda:1"]
        yield place.generate(kind, f"streamed-{space}", *simulated, address_space=space * MIB)
        yield place.generate(kind, f"lora-{space}", "--lora", "tiny-outlines.safetensors:1", address_space=space * MIB)
    for data in (32, 64, 128, 256):
        yield place.generate(kind, f"data-{data}", limits=[(resource.RLIMIT_DATA, data * MIB)])
    for files in (6, 10, 16):
        yield place.generate("limits of files", f"open-{files}", limits=[(resource.RLIMIT_NOFILE, files)])
    for size in (0, 100, 2000):
        yield place.generate("limits of files", f"size-{size}", limits=[(resource.RLIMIT_FSIZE, size)])
        yield place.run("limits of files", f"run-size-{size}", text_to_image(), limits=[(resource.RLIMIT_FSIZE, size)])
    for stack in (256, 1024):
        yield place.generate("limits of memory", f"stack-{stack}", limits=[(resource.RLIMIT_STACK, stack * 1024)])
    for count in ("0", "1", "64", "99999", "x", "-1"):
        yield place.generate("limits of threads", f"threads-{count}", environment={"RAYON_NUM_THREADS": count})
    latents = text_to_image(empty_width=4096, empty_height=4096)
    yield place.run(kind, "large", latents, address_space=1 << 30)
    masks = {
        "mask": node("SolidMask", value=1.0, width=16384, height=16384),
        "image": node("MaskToImage", mask=["mask", 0]),
        "show": node("PreviewImage", images=["image", 0]),
    }
    yield place.run(kind, "mask", masks)
