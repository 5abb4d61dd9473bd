"""Writes crates/workflow/tests/fixtures/qwen_image_edit.safetensors: what diffusers' and transformers' classes make of a small
Qwen-Image-Edit checkpoint with pictures in the prompt, for crates/workflow/tests/qwen3_pictures/prompts.rs.

    python tools/reference/make_qwen_image_edit_pipeline.py FOLDER    # the folder of make_qwen_tokens.py

As `make_qwen_image_pipeline.py`, with the encoder of pictures. Two pictures are in the prompt, as
`TextEncodeQwenImageEditPlus` brings them to 384×384 pixels by averaging; the transformer looks at the first one, once as at
a noisy one (`index`) and once as at a clean one (`index_timestep_zero`).
The file holds the pictures, and for each of both the latent as the autoencoder reads it and the picture's bytes.
"""

import json
import math
import sys
from pathlib import Path

import torch
from diffusers import QwenImageEditPlusPipeline
from safetensors.torch import save_file
from transformers import AutoTokenizer

import make_qwen25vl_pictures as vl
import make_qwen_image
import make_qwen_image_pipeline as plain
import seeded

OUT = Path(__file__).parents[2] / "crates/workflow/tests/fixtures/qwen_image_edit.safetensors"
TEXT = dict(vocab_size=151_936, width=32, layers=2, heads=2, kv_heads=1, head_dim=16, intermediate=56)
# The published number of heads; the eighth layer sees the whole picture.
VISION = dict(width=64, layers=8, heads=16, intermediate=40, patch_size=14)
POSITIVE, NEGATIVE = "make the circle of Picture 2 blue, 蓝色", ""
SIZES = [(64, 96), (48, 40)]
CFG = 2.5


def area(picture, pixels):
    height, width = picture.shape[:2]
    factor = math.sqrt(pixels / (width * height))
    size = [round(height * factor), round(width * factor)]
    resized = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None], size, mode="area")
    return resized[0].permute(1, 2, 0)


@torch.no_grad()
def main():
    encoder = vl.build(TEXT, VISION)
    vl.fill(encoder, "text_encoders.qwen25vl.transformer.")
    vae = plain.autoencoder()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    pipeline = QwenImageEditPlusPipeline(None, vae, encoder, tokenizer, None, None)
    bytes_of = [
        torch.from_numpy((seeded.uniform(f"picture.{at}", (*size, 3)) + 1) * 127.5).round().to(torch.uint8)
        for at, size in enumerate(SIZES)
    ]
    pictures = [picture.float() / 255 for picture in bytes_of]
    shown = [area(picture, 384 * 384) for picture in pictures]

    def encode(text):
        chat = pipeline.prompt_template_encode.format(
            "".join(f"Picture {at + 1}: {vl.PICTURE}" for at in range(len(shown))) + text
        )
        return vl.encode(encoder, tokenizer, chat, shown)[:, pipeline.prompt_template_encode_start_idx :]

    positive, negative = encode(POSITIVE), encode(NEGATIVE)
    mean, deviation = (
        torch.tensor(values).reshape(1, 16, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    first = pictures[0].permute(2, 0, 1)[None, :, None] * 2 - 1
    reference = (vae.encode(first).latent_dist.mode()[:, :, 0] - mean) / deviation
    tensors = {f"input.{at}": picture.contiguous() for at, picture in enumerate(bytes_of)}
    for method, at_zero in [("index", False), ("index_timestep_zero", True)]:
        network = make_qwen_image.build(channels=16, context=32, heads=2, zero_cond_t=at_zero)
        seeded.fill(network, lambda name: "model.diffusion_model." + name)
        noise = torch.randn([1, 16, plain.HEIGHT // 8, plain.WIDTH // 8], generator=torch.Generator().manual_seed(plain.SEED))
        x = noise
        for sigma, following in zip(plain.sigmas(), plain.sigmas()[1:]):
            velocity = lambda context: make_qwen_image.call(network, x, context, [sigma], [reference])
            without = velocity(negative)
            x = x + (following - sigma) * (without + CFG * (velocity(positive) - without))
        latent = x * deviation + mean
        tensors[f"latent.{method}"] = latent.contiguous()
        picture = (vae.decode(latent[:, :, None]).sample[:, :, 0] / 2 + 0.5).clamp(0, 1)
        tensors[f"picture.{method}"] = (picture[0].permute(1, 2, 0) * 255).to(torch.uint8).contiguous()
    run = {"seed": plain.SEED, "steps": plain.STEPS, "width": plain.WIDTH, "height": plain.HEIGHT, "cfg": CFG}
    metadata = {"prompts": json.dumps([POSITIVE, NEGATIVE]), "run": json.dumps(run), "sizes": json.dumps(SIZES)}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, {n: (list(t.shape), t.float().std().item()) for n, t in tensors.items()})


if __name__ == "__main__":
    main()
