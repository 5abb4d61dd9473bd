"""Putting a LoRA on the UNet and taking it off, beside fusing one with peft."""

import kit
import model_files


def run(stage):
    sizes, device = stage.sizes, stage.settings.device
    with stage.part("distorch"):
        options = [*model_files.options(stage, sizes["model"]), "--device", device, "--dtype", sizes["dtype"]]
        stage.put("distorch", stage.distorch_json("bench", "lora", *options, "--rank", sizes["rank"], "--json"))
    with stage.part("peft"):
        kit.has_torch("diffusers", "transformers", "peft")
        file = model_files.write(stage, sizes["model"])
        on = device if device.startswith("cuda:") else "cpu"
        for line in stage.python("torch_models.py", "lora", sizes["model"], file, on, sizes["dtype"], sizes["rank"]):
            stage.add("peft", line)
