"""The card, its driver, the compiler of kernels, and the link."""

import ctypes
import json
import shutil
import subprocess

import kit

SMI = ["name", "driver_version", "memory.total", "pcie.link.gen.max", "pcie.link.width.max", "clocks.max.sm"]
# CUDA 11 to 13, and what a development package links them to.
NVRTC = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2"]


def run(stage):
    settings = stage.settings
    with stage.part("devices that distorch finds"):
        survey = stage.distorch_json("devices", "--json")
        stage.put("survey", survey)
        ids = [device["id"] for device in survey["devices"]]
        stage.check(f"{settings.device} is there", settings.device in ids, f"{ids} {survey['notes']}")
    if settings.device.startswith("cuda:"):
        with stage.part("driver"):
            stage.put("card", card(settings.device))
        with stage.part("compiler of kernels"):
            version = nvrtc()
            stage.put("nvrtc", version)
            stage.check("NVRTC can be loaded", version is not None, version or f"none of {NVRTC}")
        with stage.part("nvcc, which nothing needs"):
            if shutil.which("nvcc") is None:
                raise kit.Skip("it is not on the path")
            stage.put("nvcc", stage.run(["nvcc", "--version"], limit=10).strip().splitlines()[-1])
    with stage.part("link"):
        sizes = ["--mib", stage.sizes["mib"], "--copies", stage.sizes["copies"]]
        stage.put("link", stage.distorch_json("bench", "link", "--device", settings.device, *sizes, "--json"))
    with stage.part("link in PyTorch"):
        kit.has_torch()
        device = settings.device if settings.device.startswith("cuda:") else "cpu"
        lines = stage.python("torch_link.py", device, stage.sizes["mib"], stage.sizes["copies"])
        stage.put("torch", lines[0])
        stage.put("torch_link", lines[1:])


def card(device):
    command = ["nvidia-smi", f"--id={device.removeprefix('cuda:')}", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise kit.Failed(f"nvidia-smi: {error}") from error
    values = [value.strip() for value in asked.stdout.strip().split(",")]
    if asked.returncode != 0 or len(values) != len(SMI):
        raise kit.Failed(f"nvidia-smi: {asked.stdout} {asked.stderr}")
    return dict(zip(SMI, values))


def nvrtc():
    """The version of the first library that loads, as the loader finds it for distorch."""
    for name in NVRTC:
        try:
            library = ctypes.CDLL(name)
            major, minor = ctypes.c_int(), ctypes.c_int()
            library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
            return json.dumps(f"{name}, {major.value}.{minor.value}").strip('"')
        except OSError:
            continue
    return None
