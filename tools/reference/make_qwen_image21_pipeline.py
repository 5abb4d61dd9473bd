"""Writes crates/workflow/tests/fixtures/qwen_image21.safetensors: what diffusers' and transformers' classes make of a small
Qwen-Image 2.1 checkpoint, for crates/workflow/tests/qwen3_pictures.rs.

    python tools/reference/make_qwen_image21_pipeline.py FOLDER    # the folder of make_qwen_tokens.py

Weights follow from their keys in a one-file checkpoint (seeded.py). Prompts are encoded by QwenImage21Pipeline; the schedule
is ComfyUI's `simple` of a flow with mu 0.69, the sampler Euler's, guidance mixes two predictions as ComfyUI's `cfg`.
The file holds, for each strength of the guidance, the latent as the autoencoder reads it and the picture's bytes, and as
metadata the prompts and the numbers of the run; and `edited`, the latent of a prompt with a picture, which is beside the
file as a PNG, at a strength of 3 with a blank as the negative one.
"""

import json
import math
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage21
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer

import make_krea2_text
import make_qwen3vl_pictures
import make_qwen_image21
import make_vae
import seeded
from single_file import residual_vae_name

OUT = Path(__file__).parents[2] / "crates/workflow/tests/fixtures/qwen_image21.safetensors"
POSITIVE, NEGATIVE = "a red circle, 红色的圆", "blurry"
SEED, STEPS, WIDTH, HEIGHT, MU = 5, 4, 96, 64, 0.69
GUIDANCE = [1.0, 3.0]
# ComfyUI's table of a flow with mu has so many levels.
LEVELS = 10_000
ENCODER = dict(vocab_size=151_936, width=32, layers=2, heads=2, kv_heads=1, head_dim=16, intermediate=56)
VISION = dict(width=64, layers=4, heads=16, intermediate=80, patch_size=16, positions=16, deepstack=3)
EDIT = "make it blue"


def transformer():
    module = make_qwen_image21.build(channels=64, context=32, heads=2)
    make_qwen_image21.fill(module, True, "model.diffusion_model.")
    return module


def text_encoder():
    module = make_krea2_text.build(ENCODER)
    seeded.fill(module, lambda name: "text_encoders.qwen3vl.transformer.model." + name)
    return module


def autoencoder():
    module = AutoencoderKLQwenImage21(base_dim=8, decoder_base_dim=12, dim_mult=[1, 1, 2, 2, 2], num_res_blocks=1).eval()
    make_vae.seed_frames(module, lambda name: residual_vae_name(name, module.config), "first_stage_model.")
    return module


def sigmas():
    """ComfyUI's `simple`: levels of the table from the last one on, at equal distances."""
    table = [math.exp(MU) / (math.exp(MU) + 1 / (i / LEVELS) - 1) for i in range(1, LEVELS + 1)]
    return [table[-(1 + int(step * LEVELS / STEPS))] for step in range(STEPS)] + [0.0]


def sampled(network, noise, positive, negative, cfg, references=(), slots=((), ())):
    x = noise
    for sigma, following in zip(sigmas(), sigmas()[1:]):
        velocity = lambda context, slots: make_qwen_image21.call(network, x, context, [sigma], references, slots)
        v = velocity(positive, slots[0])
        if cfg != 1.0:
            without = velocity(negative, slots[1])
            v = without + cfg * (v - without)
        x = x + (following - sigma) * v
    return x


def noise_of(height, width):
    return torch.randn([1, 64, height // 16, width // 16], generator=torch.Generator().manual_seed(SEED))


def edited(network, vae, tokenizer, mean, deviation):
    """The latent of a prompt with a picture of its own size."""
    encoder = make_qwen3vl_pictures.build(ENCODER, VISION)
    make_qwen3vl_pictures.fill(encoder, "text_encoders.qwen3vl.transformer.")
    height, width = 32, 64
    pixels = ((seeded.uniform("pixels", (height, width, 3)) + 1) / 2 * 255).astype("uint8")
    Image.fromarray(pixels).save(OUT.with_suffix(".png"))
    picture = torch.from_numpy(pixels).float() / 255
    opaque = torch.cat([picture * 2 - 1, torch.ones(height, width, 1)], 2).permute(2, 0, 1)[None, :, None]
    reference = (vae.encode(opaque).latent_dist.mode()[:, :, 0] - mean) / deviation
    contexts, slots = [], []
    for text in (EDIT, " "):
        states, is_picture, slot = make_qwen3vl_pictures.encode(encoder, tokenizer, text, [picture])
        contexts.append(states[:, ~is_picture])
        slots.append(slot)
    return sampled(network, noise_of(height, width), *contexts, 3.0, [reference], slots) * deviation + mean


@torch.no_grad()
def main():
    network, vae, encoder = transformer(), autoencoder(), text_encoder()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    encode = lambda text: make_krea2_text.encode_for_qwen_image21(encoder, tokenizer, text)
    positive, negative = encode(POSITIVE), encode(NEGATIVE)
    mean, deviation = (
        torch.tensor(values).reshape(1, 64, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    tensors = {}
    for cfg in GUIDANCE:
        latent = sampled(network, noise_of(HEIGHT, WIDTH), positive, negative, cfg) * deviation + mean
        tensors[f"latent.{cfg}"] = latent.contiguous()
        picture = (vae.decode(latent[:, :, None]).sample[:, :, 0] / 2 + 0.5).clamp(0, 1)
        tensors[f"picture.{cfg}"] = (picture[0].permute(1, 2, 0) * 255).to(torch.uint8).contiguous()
    tensors["edited"] = edited(network, vae, tokenizer, mean, deviation).contiguous()
    run = {"seed": SEED, "steps": STEPS, "width": WIDTH, "height": HEIGHT, "guidance": GUIDANCE}
    metadata = {"edit": EDIT, "prompts": json.dumps([POSITIVE, NEGATIVE]), "run": json.dumps(run)}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, {n: (t.float().mean().item(), t.float().std().item()) for n, t in tensors.items()})


if __name__ == "__main__":
    main()
