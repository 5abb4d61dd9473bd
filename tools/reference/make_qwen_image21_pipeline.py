"""Writes crates/workflow/tests/fixtures/qwen_image21.safetensors: what diffusers' and transformers' classes make of a small
Qwen-Image 2.1 checkpoint, for crates/workflow/tests/qwen3_pictures.rs.

    python tools/reference/make_qwen_image21_pipeline.py FOLDER    # the folder of make_qwen_tokens.py

Weights follow from their keys in a one-file checkpoint (seeded.py). Prompts are encoded by QwenImage21Pipeline; the schedule
is ComfyUI's `simple` of a flow with mu 0.69, the sampler Euler's, guidance mixes two predictions as ComfyUI's `cfg`.
The file holds, for each strength of the guidance, the latent as the autoencoder reads it and the picture's bytes, and as
metadata the prompts and the numbers of the run.
"""

import json
import math
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage21
from safetensors.torch import save_file
from transformers import AutoTokenizer

import make_krea2_text
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
        noise = torch.randn([1, 64, HEIGHT // 16, WIDTH // 16], generator=torch.Generator().manual_seed(SEED))
        x = noise
        for sigma, following in zip(sigmas(), sigmas()[1:]):
            velocity = lambda context: make_qwen_image21.call(network, x, context, [sigma])
            v = velocity(positive)
            if cfg != 1.0:
                without = velocity(negative)
                v = without + cfg * (v - without)
            x = x + (following - sigma) * v
        latent = x * deviation + mean
        tensors[f"latent.{cfg}"] = latent.contiguous()
        picture = (vae.decode(latent[:, :, None]).sample[:, :, 0] / 2 + 0.5).clamp(0, 1)
        tensors[f"picture.{cfg}"] = (picture[0].permute(1, 2, 0) * 255).to(torch.uint8).contiguous()
    run = {"seed": SEED, "steps": STEPS, "width": WIDTH, "height": HEIGHT, "guidance": GUIDANCE}
    metadata = {"prompts": json.dumps([POSITIVE, NEGATIVE]), "run": json.dumps(run)}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, {n: (t.float().mean().item(), t.float().std().item()) for n, t in tensors.items()})


if __name__ == "__main__":
    main()
