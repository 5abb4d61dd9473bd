"""Writes crates/workflow/tests/fixtures/krea2.safetensors: what diffusers' and transformers' classes make of a small Krea 2
checkpoint, for crates/workflow/tests/qwen3_pictures.rs.

    python tools/reference/make_krea2_pipeline.py FOLDER    # the folder of make_qwen_tokens.py

As make_z_image_pipeline.py: weights follow from their keys in a one-file checkpoint; prompts are encoded by Krea2Pipeline,
latents normalised by the means and deviations that AutoencoderKLQwenImage is published with; the schedule is ComfyUI's
`simple` of a flow whose times are shifted by the exponential of 1.15.
"""

import json
import math
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.loaders.single_file_utils import convert_krea2_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file
from transformers import AutoTokenizer

import make_krea2
import make_krea2_text
import make_z_image_pipeline as small
from single_file import causal_vae_name

OUT = Path(__file__).parents[2] / "crates/workflow/tests/fixtures/krea2.safetensors"
CONFIG = make_krea2.CONFIG | {
    "in_channels": 16,
    "out_channels": 16,
    "width": 96,
    "heads": 3,
    "kv_heads": 1,
    "text_layers": len(make_krea2_text.READ),
    "layerwise_depth": 1,
}
SEED, STEPS, WIDTH, HEIGHT, MU = 7, 4, 72, 64, 1.15


def transformer():
    module = make_krea2.build(CONFIG)
    stored = small.weights(make_krea2.originals(CONFIG), "model.diffusion_model.")
    module.load_state_dict(convert_krea2_transformer_checkpoint_to_diffusers(stored))
    return module


def text_encoder():
    model = make_krea2_text.build()
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    model.load_state_dict(small.weights(shapes, "text_encoders.qwen3vl.transformer.model."))
    return model


def autoencoder():
    module = AutoencoderKLQwenImage(
        base_dim=32, z_dim=16, dim_mult=[1] * 4, num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()
    names = {name: causal_vae_name(name, module.config) for name, _ in module.named_parameters()}
    shapes = {names[name]: parameter.shape for name, parameter in module.named_parameters()}
    stored = small.weights(shapes, "first_stage_model.")
    module.load_state_dict({name: stored[theirs] for name, theirs in names.items()})
    return module


@torch.no_grad()
def main():
    network, vae, encoder = transformer(), autoencoder(), text_encoder()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    positive, negative = (make_krea2_text.encode(encoder, tokenizer, p) for p in (small.POSITIVE, small.NEGATIVE))
    times = [1 - step / STEPS for step in range(STEPS)]
    sigmas = [math.exp(MU) / (math.exp(MU) + 1 / t - 1) for t in times] + [0.0]
    mean, deviation = (
        torch.tensor(values)[:, None, None] for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    tensors = {}
    for cfg in small.GUIDANCE:
        x = torch.randn([1, 16, HEIGHT // 8, WIDTH // 8], generator=torch.Generator().manual_seed(SEED))
        for sigma, following in zip(sigmas, sigmas[1:]):
            velocity = lambda context: make_krea2.call(network, x, context, [sigma])
            v = velocity(positive)
            if cfg != 1.0:
                without = velocity(negative)
                v = without + cfg * (v - without)
            x = x + (following - sigma) * v
        latent = x * deviation + mean
        tensors[f"latent.{cfg}"] = latent.contiguous()
        picture = (vae.decode(latent[:, :, None]).sample[:, :, 0] / 2 + 0.5).clamp(0, 1)
        tensors[f"picture.{cfg}"] = (picture[0].permute(1, 2, 0) * 255).to(torch.uint8).contiguous()
    run = {"seed": SEED, "steps": STEPS, "width": WIDTH, "height": HEIGHT, "guidance": small.GUIDANCE}
    metadata = {"prompts": json.dumps([small.POSITIVE, small.NEGATIVE]), "run": json.dumps(run)}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, {n: (t.float().mean().item(), t.float().std().item()) for n, t in tensors.items()})


if __name__ == "__main__":
    main()
