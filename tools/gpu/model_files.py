"""Checkpoints of random weights, written where they are measured.

`torch_models.py` writes them, with PyTorch and diffusers. Without these a dry run takes the shipped checkpoint,
and a run on a GPU the random models that are built into `distorch bench`.
"""

import pathlib

import kit

SHIPPED = "models/checkpoints/tiny-shapes.safetensors"


def path(settings, model):
    return pathlib.Path(settings.work, f"{model}.safetensors")


def write(stage, model):
    """Writes the model's file unless it is there."""
    settings = stage.settings
    file = path(settings, model)
    if not file.is_file():
        kit.has_torch("diffusers", "transformers")
        device = settings.device if settings.device.startswith("cuda:") else "cpu"
        stage.python("torch_models.py", "write", model, file, device)
    return file


def options(stage, model):
    """How `distorch bench` is told of the model: its file, the shipped one, or random weights."""
    settings = stage.settings
    try:
        return ["--ckpt", str(write(stage, model))]
    except kit.Skip as why:
        stage.skip(f"a file of random weights for {model}", why)
    except kit.Failed as failure:
        stage.check(f"a file of random weights for {model}", False, failure)
    if settings.dry_run:
        return ["--ckpt", str(pathlib.Path(settings.repository, SHIPPED))]
    return ["--random", model]
