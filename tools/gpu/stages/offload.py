"""Steps with a share of the UNet elsewhere against the roofline, and diffusers' group offloading beside it."""

import kit
import model_files


def run(stage):
    sizes = stage.sizes
    with stage.part("diffusers' group offloading"):
        theirs(stage, stage.left() / 4)
    for number, (layout, pin) in enumerate(sizes["runs"]):
        limit = stage.left() * 1.5 / (len(sizes["runs"]) - number + 0.5)
        with stage.part(f"{layout}{', pinned' if pin else ''}"):
            ours(stage, layout, pin, limit)


def ours(stage, layout, pin, limit):
    settings, sizes = stage.settings, stage.sizes
    side, shares = sizes["side"], ",".join(map(str, sizes["shares"]))
    options = [
        *model_files.options(stage, sizes["model"]), "--width", side, "--height", side, "--steps", sizes["steps"],
        "--shares", shares, "--layout", layout,
    ]
    if settings.is_host:
        # A simulated device, whose link has a declared speed.
        options += ["--bandwidth", "8GB/s"]
    else:
        options += ["--device", settings.device, "--dtype", sizes["dtype"]]
    report = stage.distorch_json("bench", "offload", *options, *(["--pin"] if pin else []), "--json", limit=limit)
    stage.add("distorch", {"pin": pin, **report})


def theirs(stage, limit):
    sizes, device = stage.sizes, stage.settings.device
    if not device.startswith("cuda:"):
        raise kit.Skip("it offloads from a GPU")
    kit.has_torch("diffusers", "transformers")
    file = model_files.write(stage, sizes["model"])
    shares = ",".join(map(str, sizes["shares"]))
    arguments = ["offload", sizes["model"], file, device, sizes["dtype"], sizes["side"], sizes["steps"], shares]
    for line in stage.python("torch_models.py", *arguments, limit=limit):
        stage.add("diffusers", line)
