"""Single operators beside PyTorch's on the same card, in the shapes that `distorch bench operators` lists."""

import json
import pathlib

import kit


def run(stage):
    for number, (model, dtype) in enumerate(stage.sizes["runs"]):
        left = len(stage.sizes["runs"]) - number
        # A run that is slow leaves time for the others.
        limit = max(5.0, stage.left() * 1.5 / (left + 0.5))
        with stage.part(f"{model} in {dtype}"):
            ours(stage, model, dtype, limit)
        with stage.part(f"{model} in {dtype}, PyTorch"):
            theirs(stage, model, dtype, limit)


def command(model, dtype, *more):
    return ["bench", "operators", "--set", model, "--dtype", dtype, "--json", *more]


def ours(stage, model, dtype, limit):
    rounds = ["--rounds", stage.sizes["rounds"], "--device", stage.settings.device]

    def keep(line):
        timed = json.loads(line)
        if "error" in timed:
            stage.check(f"{timed['name']} in {dtype}", False, timed["error"])
        else:
            stage.add("distorch", timed)

    stage.distorch(*command(model, dtype, *rounds), limit=limit, on_line=keep)


def theirs(stage, model, dtype, limit):
    kit.has_torch()
    listed = stage.settings.path(f"operators-{model}.jsonl")
    pathlib.Path(listed).write_text(stage.distorch(*command(model, dtype, "--list")))
    device = stage.settings.device if stage.settings.device.startswith("cuda:") else "cpu"
    arguments = [listed, device, dtype, stage.sizes["rounds"]]
    for timed in stage.python("torch_operators.py", *arguments, limit=limit):
        stage.add("torch", timed)
