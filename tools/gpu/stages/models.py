"""Loading, text encoding, a step and decoding of full-size models beside diffusers; memory beside the plan's."""

import pathlib

import kit
import model_files
from gpu_memory import Peak


def run(stage):
    with stage.part("what the driver and an idle distorch hold"):
        with Peak(stage.settings.device) as peak:
            stage.distorch(
                "bench", "operators", "--set", "tiny", "--only", "layer_norm", "--rounds", "1",
                "--device", stage.settings.device,
            )
        stage.put("idle_bytes", peak.bytes)
    sizes = stage.sizes
    parts = [(model, side, dtype) for dtype in sizes["dtypes"] for model, side in sizes["models"]]
    for number, (model, side, dtype) in enumerate(parts):
        # A model that is slow leaves time for the others.
        limit = stage.left() * 1.5 / (len(parts) - number + 0.5)
        with stage.part(f"{model} in {dtype}"):
            ours(stage, model, side, dtype, limit)
        with stage.part(f"{model} in {dtype}, diffusers"):
            theirs(stage, model, side, dtype, limit)


def ours(stage, model, side, dtype, limit):
    settings = stage.settings
    source = model_files.options(stage, model)
    size = ["--width", side, "--height", side]
    options = [*source, *size, "--device", settings.device, "--dtype", dtype, "--steps", stage.sizes["steps"]]
    with Peak(settings.device) as peak:
        report = stage.distorch_json("bench", *options, "--json", limit=limit)
    # Where the file was says nothing of it.
    report["weights"] = pathlib.Path(report["weights"]).name
    planned = None
    if source[0] == "--ckpt":
        planned = planned_bytes(stage, source[1], size)
    stage.add("distorch", {"which": model, "nvml_peak_bytes": peak.bytes, "planned_bytes": planned, **report})
    if peak.bytes is not None and planned is not None:
        idle = stage.record["data"].get("idle_bytes") or 0
        within = peak.bytes <= planned + idle
        detail = f"{peak.bytes >> 20} MiB in use, {planned >> 20} planned, {idle >> 20} of the driver and kernels"
        stage.check(f"{model} in {dtype} keeps to the plan's memory", within, detail)


def planned_bytes(stage, file, size):
    """What plans take the bench to need: all weights, and what the stage with the most activations takes."""
    device = stage.settings.placed_on
    plan = stage.distorch_json(
        "plan", file, *size, *stage.settings.simulate, "--unet-compute-device", device, "--unet-virtual-vram-gb", "0",
        "--clip-compute-device", device, "--clip-virtual-vram-gb", "0", "--vae-device", device, "--json",
    )
    parts = plan["components"]
    return sum(part["resident_bytes"] for part in parts) + max(part["activation_bytes"] for part in parts)


def theirs(stage, model, side, dtype, limit):
    kit.has_torch("diffusers", "transformers")
    file = model_files.write(stage, model)
    device = stage.settings.device if stage.settings.device.startswith("cuda:") else "cpu"
    lines = stage.python("torch_models.py", "time", model, file, device, dtype, side, stage.sizes["steps"], limit=limit)
    stage.add("torch", {"which": model, "dtype": dtype, "width": side, "height": side, "stages": lines})
