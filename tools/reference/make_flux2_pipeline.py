"""Writes crates/workflow/tests/fixtures/klein.safetensors: what diffusers' and transformers' classes make of a small
Flux.2 Klein checkpoint, for crates/workflow/tests/qwen3_pictures.rs.

    python tools/reference/make_flux2_pipeline.py FOLDER    # the folder of make_qwen_tokens.py

As make_z_image_pipeline.py: weights follow from their keys in a one-file checkpoint; prompts are encoded by
Flux2KleinPipeline, packed latents normalised as it does it; the schedule is ComfyUI's `simple` of a flow whose times are
shifted by the exponential of 2.02.
"""

import json
import math
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline
from diffusers.loaders.single_file_utils import (
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import save_file
from transformers import AutoTokenizer

import make_flux2
import make_key_lists
import make_z_image_pipeline as small
import seeded

OUT = Path(__file__).parents[2] / "crates/workflow/tests/fixtures/klein.safetensors"
# Channels, features of a head, heads, double blocks, single blocks, guidance, width of the text.
SIZES = (128, 32, 3, 1, 2, False, 72)
SEED, STEPS, WIDTH, HEIGHT, MU = 6, 4, 96, 64, 2.02
LAYERS = (1, 2, 3)


def transformer():
    module = make_flux2.build(*SIZES)
    weights = small.weights(make_flux2.originals(*SIZES), "model.diffusion_model.")
    module.load_state_dict(convert_flux2_transformer_checkpoint_to_diffusers(weights))
    return module


def autoencoder():
    module = AutoencoderKLFlux2(block_out_channels=[32] * 4, layers_per_block=1).eval()
    shapes = {n: s for n, s in make_key_lists.vae_tensors(module).items() if not n.startswith("bn.")}
    stored = small.weights(shapes, "first_stage_model.")
    original = {f"first_stage_model.{n}": t for n, t in stored.items()}
    converted = convert_ldm_vae_checkpoint(original, dict(module.config))
    for name in ("running_mean", "running_var"):
        converted[f"bn.{name}"] = torch.from_numpy(seeded.weight(f"first_stage_model.bn.{name}", (128,), 0))
    module.load_state_dict(converted, strict=False)
    return module


@torch.no_grad()
def main():
    network, vae, encoder = transformer(), autoencoder(), small.text_encoder(layers=4)
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    encode = lambda prompt: Flux2KleinPipeline._get_qwen3_prompt_embeds(
        encoder, tokenizer, prompt, device="cpu", hidden_states_layers=LAYERS
    )
    positive, negative = encode(small.POSITIVE), encode(small.NEGATIVE)
    times = [1 - step / STEPS for step in range(STEPS)]
    sigmas = [math.exp(MU) / (math.exp(MU) + 1 / t - 1) for t in times] + [0.0]
    mean = vae.bn.running_mean[:, None, None]
    deviation = (vae.bn.running_var[:, None, None] + vae.config.batch_norm_eps).sqrt()
    tensors = {}
    for cfg in small.GUIDANCE:
        x = torch.randn([1, 128, HEIGHT // 16, WIDTH // 16], generator=torch.Generator().manual_seed(SEED))
        for sigma, following in zip(sigmas, sigmas[1:]):
            velocity = lambda context: make_flux2.call(network, x, context, [sigma])
            v = velocity(positive)
            if cfg != 1.0:
                without = velocity(negative)
                v = without + cfg * (v - without)
            x = x + (following - sigma) * v
        tensors[f"latent.{cfg}"] = x.contiguous()
        latent = Flux2KleinPipeline._unpatchify_latents(x * deviation + mean)
        picture = (vae.decode(latent).sample / 2 + 0.5).clamp(0, 1)
        tensors[f"picture.{cfg}"] = (picture[0].permute(1, 2, 0) * 255).to(torch.uint8).contiguous()
    run = {"seed": SEED, "steps": STEPS, "width": WIDTH, "height": HEIGHT, "guidance": small.GUIDANCE}
    metadata = {"prompts": json.dumps([small.POSITIVE, small.NEGATIVE]), "run": json.dumps(run)}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, {n: (t.float().mean().item(), t.float().std().item()) for n, t in tensors.items()})


if __name__ == "__main__":
    main()
