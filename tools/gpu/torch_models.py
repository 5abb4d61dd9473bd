"""Random checkpoints, and diffusers' side of what the kit measures; each prints lines of JSON.

    python3 torch_models.py write MODEL FILE DEVICE
    python3 torch_models.py time MODEL FILE DEVICE DTYPE SIDE STEPS
    python3 torch_models.py offload MODEL FILE DEVICE DTYPE SIDE STEPS SHARE,SHARE,…
    python3 torch_models.py lora MODEL FILE DEVICE DTYPE RANK
"""

import json
import math
import pathlib
import struct
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "reference"))

import full_size
from gpu_memory import Peak

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

# For dry runs: SD 1.x in the smallest size that has every part of it.
full_size.UNET["tiny"] = full_size.UNET["sd15"] | dict(block_out_channels=(32, 64, 64, 64), sample_size=8)
full_size.TEXT["tiny"] = {
    "clip_l": (full_size.TEXT["sd15"]["clip_l"][0], full_size.CLIP_L | dict(num_hidden_layers=2)),
}
full_size.COMPONENTS["tiny"] = ["clip_l", "unet", "vae"]


def say(**values):
    print(json.dumps(values), flush=True)


def waiter(device):
    return (lambda: torch.cuda.synchronize(device)) if device.startswith("cuda") else (lambda: None)


def write(model, file, device):
    """Random weights in f16 under the original keys; each as large as keeps activations at a sound size."""
    shapes = {}
    for component in full_size.COMPONENTS[model]:
        module = full_size.build(model, component)
        for name, parameter in module.named_parameters():
            key, part = full_size.stored(model, component, name, module.config)
            shapes[key] = full_size.shape_in_file(key, tuple(parameter.shape), part)
    header, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    torch.manual_seed(0)
    part = pathlib.Path(f"{file}.part")
    with part.open("wb") as to:
        to.write(struct.pack("<Q", len(header)) + header)
        for key, shape in shapes.items():
            values = torch.rand(shape, device=device) * 2 - 1
            if len(shape) > 1:
                values *= math.sqrt(3 / math.prod(shape[1:]))
            else:
                values = values * 0.1 + (0 if key.endswith("bias") else 1)
            to.write(values.half().cpu().numpy().data)
    part.rename(file)
    say(bytes=end)


def load(file, model, component, device, dtype):
    """The component, tensor by tensor from the mapped file to the device."""
    from safetensors import safe_open

    module = full_size.build(model, component)
    with safe_open(file, framework="pt") as tensors:
        for name, parameter in list(module.named_parameters()):
            key, part = full_size.stored(model, component, name, module.config)
            value = tensors.get_tensor(key)
            if part is not None:
                value = value.chunk(3)[part]
            if key.endswith(".text_projection"):
                value = value.T
            value = value.to(device, dtype).reshape(parameter.shape).contiguous()
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, torch.nn.Parameter(value, False))
        for name, buffer in list(module.named_buffers()):
            assert name.endswith("position_ids"), name
            owner, _, leaf = name.rpartition(".")
            value = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
            module.get_submodule(owner).register_buffer(leaf, value, persistent=False)
    return module


def unet_inputs(model, device, dtype, side):
    """Both halves of the guidance."""
    latent = torch.randn(2, 4, side // 8, side // 8, device=device, dtype=dtype)
    width = full_size.UNET[model]["cross_attention_dim"]
    context = torch.randn(2, 77, width, device=device, dtype=dtype)
    added = None
    if model == "sdxl":
        added = {
            "text_embeds": torch.randn(2, 1280, device=device, dtype=dtype),
            "time_ids": torch.tensor([[side, side, 0, 0, side, side]] * 2, device=device, dtype=dtype),
        }
    timesteps = torch.tensor([500.0, 500.0], device=device)
    return latent, timesteps, context, added


def clock(call, wait, steps):
    """Seconds of the first call, and of each after."""
    seconds = []
    for _ in range(steps + 1):
        wait()
        start = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - start)
    ordered = sorted(seconds[1:])
    return {"first_seconds": seconds[0], "min_seconds": ordered[0], "median_seconds": ordered[len(ordered) // 2]}


def time_stages(model, file, device, dtype, side, steps):
    """Loading, text encoding, a step, decoding; in the order and with the peak of `distorch bench`."""
    dtype, side, steps, wait = DTYPES[dtype], int(side), int(steps), waiter(device)
    with Peak(device) as peak:
        if device.startswith("cuda"):
            torch.zeros(1, device=device)
        start = time.perf_counter()
        parts = {name: load(file, model, name, device, dtype) for name in full_size.COMPONENTS[model]}
        wait()
        say(stage="load", seconds=time.perf_counter() - start)
        ids = torch.randint(0, 49407, (2, 1, 77), device=device)
        encoders = [part for name, part in parts.items() if name.startswith("clip")]
        latent, timesteps, context, added = unet_inputs(model, device, dtype, side)
        with torch.inference_mode():
            say(stage="text", **clock(lambda: [encoder(text) for text in ids for encoder in encoders], wait, steps))
            step = lambda: parts["unet"](latent, timesteps, context, added_cond_kwargs=added).sample
            say(stage="step", **clock(step, wait, steps))
            say(stage="decode", **clock(lambda: parts["vae"].decode(latent[:1]).sample, wait, steps))
    allocated = torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None
    say(stage="memory", peak_bytes=peak.bytes, allocated_bytes=allocated)


def pieces(unet):
    """Parts of the UNet that can be kept elsewhere, in the order of use."""
    for block in [*unet.down_blocks, unet.mid_block, *unet.up_blocks]:
        for kind in ("resnets", "attentions"):
            yield from getattr(block, kind, None) or []


def size_of(module):
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def chosen(unet, share):
    """The modules to offload: all of it at once, which lets each layer's upload begin before the one in front is
    done; else its last parts, as our default layout does, until the share is reached."""
    if share == 100:
        return [unet]
    parts, bytes_left = [], size_of(unet) * share / 100
    for piece in reversed(list(pieces(unet))):
        if size_of(piece) / 2 <= bytes_left:
            parts.append(piece)
            bytes_left -= size_of(piece)
    return parts if share else []


def offload(model, file, device, dtype, side, steps, shares):
    """Steps with a share of the UNet in pinned RAM, which diffusers' group offloading uploads in a stream."""
    from diffusers.hooks import apply_group_offloading

    dtype, side, steps, wait = DTYPES[dtype], int(side), int(steps), waiter(device)
    for share in map(int, shares.split(",")):
        unet = load(file, model, "unet", device, dtype)
        total, elsewhere = size_of(unet), 0
        in_stream = device.startswith("cuda")
        for piece in chosen(unet, share):
            elsewhere += size_of(piece)
            apply_group_offloading(
                piece, onload_device=torch.device(device), offload_device=torch.device("cpu"),
                offload_type="leaf_level", use_stream=in_stream, record_stream=in_stream,
            )
        latent, timesteps, context, added = unet_inputs(model, device, dtype, side)
        with torch.inference_mode(), Peak(device) as peak:
            times = clock(lambda: unet(latent, timesteps, context, added_cond_kwargs=added).sample, wait, steps)
        say(share_percent=share, bytes=total, elsewhere_bytes=elsewhere, peak_bytes=peak.bytes, **times)
        del unet
        if device.startswith("cuda"):
            torch.cuda.empty_cache()


def lora(model, file, device, dtype, rank):
    """Fusing a LoRA into every linear layer of the UNet's transformers, and undoing it, with peft."""
    from peft import LoraConfig

    wait = waiter(device)
    unet = load(file, model, "unet", device, DTYPES[dtype])
    named = unet.named_modules()
    targets = [n for n, m in named if "transformer_blocks" in n and isinstance(m, torch.nn.Linear)]
    unet.add_adapter(LoraConfig(r=int(rank), lora_alpha=int(rank), target_modules=targets, init_lora_weights=False))
    unet.to(device, DTYPES[dtype])
    with torch.inference_mode():
        for turn in ("first", "second"):
            start = time.perf_counter()
            unet.fuse_lora()
            wait()
            fused = time.perf_counter() - start
            start = time.perf_counter()
            unet.unfuse_lora()
            wait()
            say(turn=turn, layers=len(targets), apply_seconds=fused, remove_seconds=time.perf_counter() - start)


if __name__ == "__main__":
    {"write": write, "time": time_stages, "offload": offload, "lora": lora}[sys.argv[1]](*sys.argv[2:])
