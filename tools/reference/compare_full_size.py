"""Runs the stages of full-size SD 1.5 and SDXL base in PyTorch and in distorch, and compares what comes out.

    pip install torch diffusers transformers safetensors
    cargo build --release -p distorch-models --example stages
    python tools/reference/compare_full_size.py --stages target/release/examples/stages

Both sides load the same file in the original layout, random weights in f16 (2.1 and 6.9 GB, written on the
first run and kept), and compute in f32, one after the other: SDXL's UNet takes 10.3 GB. Printed for each
output: the largest error in parts of the largest reference value. Fails where one reaches the bound.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import full_size

BOUND = 2e-4
START, END = 49406, 49407
TEXTS = [[320, 1125, 539, 320, 2368], list(range(1000, 1075)), []]
PAD = {"clip_l": END, "clip_g": 0}


def inputs(model, side):
    """What the stages read, by name."""
    import torch

    torch.manual_seed(1)
    cells = side // 8
    given = {}
    for name in full_size.TEXT[model]:
        rows = [[START, *text, END] for text in TEXTS]
        rows = [row + [PAD[name]] * (77 - len(row)) for row in rows]
        given[f"{name}.tokens"] = torch.tensor(rows, dtype=torch.int32)
    width = full_size.UNET[model]["cross_attention_dim"]
    # The second picture is neither square nor a multiple of the UNet's 8 cells.
    given["unet.x"] = torch.randn(2, 4, cells, cells + 5)
    given["unet.timesteps"] = torch.tensor([37.0, 801.0])
    given["unet.context"] = torch.randn(2, 77, width)
    if model == "sdxl":
        given["unet.pooled"] = torch.randn(2, 1280)
        given["unet.size"] = torch.tensor([768.0, 1024, 16, 0, 832, 1216])
    given["vae.picture"] = torch.rand(1, 3, side, side + 24) * 2 - 1
    given["vae.latent"] = torch.randn(1, 4, cells, cells + 3)
    return given


def reference(path, model, given):
    """The outputs of transformers' and diffusers' classes, by name."""
    import torch

    outputs = {}
    for component in full_size.COMPONENTS[model]:
        start = time.perf_counter()
        module = full_size.load(path, model, component)
        loaded = time.perf_counter()
        with torch.inference_mode():
            outputs |= RUN.get(component, text)(component, module, given)
        del module
        gc.collect()
        now = time.perf_counter()
        print(f"PyTorch {component}: loading {loaded - start:.1f} s, {now - loaded:.1f} s", file=sys.stderr)
    return outputs


def text(name, module, given):
    output = module(input_ids=given[f"{name}.tokens"].long(), output_hidden_states=True)
    pooled = output.text_embeds if name == "clip_g" else output.pooler_output
    return {
        f"{name}.last": output.last_hidden_state,
        f"{name}.penultimate": output.hidden_states[-2],
        f"{name}.pooled": pooled,
    }


def unet(_, module, given):
    added = None
    x = given["unet.x"]
    if "unet.pooled" in given:
        sizes = given["unet.size"].expand(len(x), -1)
        added = {"text_embeds": given["unet.pooled"], "time_ids": sizes}
    out = module(x, given["unet.timesteps"], given["unet.context"], added_cond_kwargs=added).sample
    return {"unet.out": out}


def vae(_, module, given):
    posterior = module.encode(given["vae.picture"]).latent_dist
    decoded = module.decode(given["vae.latent"]).sample
    return {"vae.mean": posterior.mean, "vae.logvar": posterior.logvar, "vae.decoded": decoded}


RUN = {"unet": unet, "vae": vae}


def compare(arguments, model):
    """Whether every stage of the model is near its reference."""
    from safetensors.torch import load_file, save_file

    path = Path(arguments.folder, f"{model}-random-{full_size.SEED}.safetensors")
    if not path.exists():
        print(f"writing {path}", file=sys.stderr)
        full_size.write_checkpoint(path, model)
    given = inputs(model, arguments.side)
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "inputs.safetensors"), Path(folder, "outputs.safetensors")
        save_file({name: value.contiguous() for name, value in given.items()}, asked)
        command = [arguments.stages, path, asked, answered, arguments.device, arguments.dtype]
        subprocess.run(command, check=True)
        ours = load_file(answered)
    theirs = reference(path, model, given)
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    near = True
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, (name, ours[name].shape, expected.shape)
        error = ((ours[name] - expected).abs().max() / expected.abs().max()).item()
        near &= error < arguments.bound
        figures = {"model": model, "output": name, "error": float(f"{error:.1e}"), "bound": arguments.bound}
        print(json.dumps(figures | {"largest": round(expected.abs().max().item(), 2)}))
    return near


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", default="target/release/examples/stages", help="the example's binary")
    parser.add_argument("--models", nargs="+", default=["sd15", "sdxl"], choices=full_size.UNET)
    parser.add_argument("--side", type=int, default=256, help="height of pictures in pixels")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where checkpoints are kept")
    parser.add_argument("--device", default="cpu", help="the device that distorch computes on")
    parser.add_argument("--dtype", default="f32", choices=["f32", "f16", "bf16"])
    parser.add_argument("--bound", type=float, default=BOUND)
    arguments = parser.parse_args()
    near = [compare(arguments, model) for model in arguments.models]
    sys.exit(0 if all(near) else 1)


if __name__ == "__main__":
    main()
