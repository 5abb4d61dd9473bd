"""Runs the stages of an SD 1.5 picture in diffusers and in `distorch bench`, and prints the ratios.

    cargo build --release -p distorch
    python tools/reference/bench_pipeline.py --distorch target/release/distorch --threads 1 2

Both sides load the same checkpoint: random weights of SD 1.5's sizes in one f16 file with the original
keys, written on the first run (2 GB). Both compute in f32, and each gets a process of its own, one
after the other, as often as `--rounds` says. What is compared, PyTorch as 1:

    text      both prompts through the text encoder
    step      the UNet with both halves of the guidance
    decode    the VAE's decoder
    CPU       seconds that all threads computed, which other work on the machine disturbs least
    memory    the most that each process ever held (VmHWM), loading and libraries included

PyTorch loads through diffusers' `from_single_file` and transformers. With `--lean` it loads with as little
memory as it can instead: modules on the meta device, filled tensor by tensor from the mapped file.

Needs Linux, torch, diffusers, transformers, accelerate and safetensors; 7 GB of memory.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import full_size

MODEL, COMPONENTS = "sd15", ("clip_l", "unet", "vae")
STAGES = ("text", "step", "decode")


def load_diffusers(path):
    """The three modules in f32 as diffusers and transformers load a single file."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import (
        create_diffusers_clip_model_from_ldm,
        load_single_file_checkpoint,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    # The configurations stand in for those that diffusers would fetch from the hub.
    with tempfile.TemporaryDirectory() as folder:
        CLIPTextConfig(**full_size.CLIP_L).save_pretrained(f"{folder}/text_encoder")
        for name in ("unet", "vae"):
            full_size.build(MODEL, name).save_config(f"{folder}/{name}")
        options = dict(config=folder, torch_dtype=torch.float32, local_files_only=True)
        # One read of the file for all three, as the pipeline does.
        checkpoint = load_single_file_checkpoint(str(path))
        clip = create_diffusers_clip_model_from_ldm(
            CLIPTextModel, checkpoint, subfolder="text_encoder", **options
        )
        unet = UNet2DConditionModel.from_single_file(checkpoint, subfolder="unet", **options)
        vae = AutoencoderKL.from_single_file(checkpoint, subfolder="vae", **options)
    return clip.eval(), unet.eval(), vae.eval()


def run_torch(path, threads, side, steps, lean):
    """Times PyTorch's stages in this process."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        if lean:
            clip, unet, vae = (full_size.load(path, MODEL, component) for component in COMPONENTS)
        else:
            clip, unet, vae = load_diffusers(path)
    load_seconds, loaded_peak = time.perf_counter() - start, peak_bytes()
    prompts = torch.randint(0, 49407, (2, 1, 77))
    latent = torch.randn(2, 4, side // 8, side // 8)
    timesteps = torch.tensor([500.0, 500.0])
    context = []

    def text():
        context[:] = [clip(ids).last_hidden_state for ids in prompts]

    def step():
        unet(latent, timesteps, torch.cat(context)).sample

    def decode():
        vae.decode(latent[:1]).sample

    stages = []
    with torch.inference_mode():
        for name, call in zip(STAGES, (text, step, decode)):
            timed = []
            for _ in range(steps + 1):
                wall, cpu = time.perf_counter(), time.process_time()
                call()
                timed.append((time.perf_counter() - wall, time.process_time() - cpu))
            walls, cpus = zip(*timed[1:])
            stages.append({"stage": name, "min_seconds": min(walls), "cpu_seconds": min(cpus)})
    return {
        "load_seconds": load_seconds,
        "stages": stages,
        "loaded_peak_bytes": loaded_peak,
        "peak_bytes": peak_bytes(),
    }


def peak_bytes():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def child(command):
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def best(runs):
    """Of several runs, the fastest stages and the least memory."""
    least = {key: min(run[key] for run in runs) for key in ("load_seconds", "loaded_peak_bytes", "peak_bytes")}
    for i, name in enumerate(STAGES):
        stages = [run["stages"][i] for run in runs]
        assert all(stage["stage"] == name for stage in stages)
        least[name] = {key: min(stage[key] for stage in stages) for key in ("min_seconds", "cpu_seconds")}
    return least


def compare(arguments, threads):
    shared = ["--threads", str(threads), "--steps", str(arguments.steps)]
    side = str(arguments.side)
    torch_command = [sys.executable, __file__, "--torch", "--file", str(arguments.file), *shared, "--side", side]
    torch_command += ["--lean"] if arguments.lean else []
    ours_command = [arguments.distorch, "bench", "--ckpt", str(arguments.file), *shared]
    ours_command += ["--width", side, "--height", side, "--json"]
    runs = [(child(torch_command), child(ours_command)) for _ in range(arguments.rounds)]
    theirs, ours = best([run[0] for run in runs]), best([run[1] for run in runs])

    loader = "lean" if arguments.lean else "from_single_file"
    print(f"\nSD 1.5, {side}x{side}, f32 from f16, {threads} threads, PyTorch loads with {loader}")
    print(f"{'':24}{'PyTorch':>12}{'distorch':>12}{'ratio':>8}")

    def line(label, torch_value, our_value, unit, digits):
        ratio = our_value / torch_value
        print(f"{label:24}{torch_value:>9.{digits}f} {unit:2}{our_value:>9.{digits}f} {unit:2}{ratio:8.2f}")

    for name in STAGES:
        line(f"{name}, wall", theirs[name]["min_seconds"], ours[name]["min_seconds"], "s", 3)
        line(f"{name}, CPU", theirs[name]["cpu_seconds"], ours[name]["cpu_seconds"], "s", 3)
    line("load, wall", theirs["load_seconds"], ours["load_seconds"], "s", 1)
    for label, key in (("peak while loading", "loaded_peak_bytes"), ("peak memory", "peak_bytes")):
        line(label, theirs[key] / 2**20, ours[key] / 2**20, "MB", 0)
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distorch", default="target/release/distorch", help="the binary")
    parser.add_argument("--file", type=Path, default=Path(tempfile.gettempdir(), "sd15-random.safetensors"))
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--side", type=int, default=512, help="side of the picture in pixels")
    parser.add_argument("--steps", type=int, default=2, help="timed calls of each stage")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side, the best counts")
    parser.add_argument("--lean", action="store_true", help="load PyTorch's weights with least memory")
    parser.add_argument("--torch", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch:
        figures = run_torch(
            arguments.file, arguments.threads[0], arguments.side, arguments.steps, arguments.lean
        )
        print(json.dumps(figures))
        return
    if not arguments.file.exists():
        print(f"writing {arguments.file}", file=sys.stderr)
        # In a process of its own: what it takes is nobody's peak.
        subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
             f"import full_size as f; f.write_checkpoint({str(arguments.file)!r}, {MODEL!r})"], check=True,
        )
    for threads in arguments.threads:
        compare(arguments, threads)


if __name__ == "__main__":
    main()
