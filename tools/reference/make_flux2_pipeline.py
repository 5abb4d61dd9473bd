"""Writes crates/workflow/tests/fixtures/klein.safetensors and flux2_dev.safetensors: what diffusers' and transformers'
classes make of small checkpoints of Flux.2, for crates/workflow/tests/qwen3_pictures.rs.

    python tools/reference/make_flux2_pipeline.py FOLDER    # the folder of make_qwen_tokens.py

As make_z_image_pipeline.py: weights follow from their keys in a one-file checkpoint; prompts are encoded by
Flux2KleinPipeline or, for dev, as make_mistral.py does it; packed latents are normalised as the pipeline does it; the schedule is ComfyUI's `simple` of a flow whose times are
shifted by the exponential of 2.02.
"""

import gzip
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
import make_mistral
import make_z_image_pipeline as small
import seeded

FIXTURES = Path(__file__).parents[2] / "crates/workflow/tests/fixtures"
VOCABULARY = Path(__file__).parents[2] / "crates/test-support/data/tekken.json.gz"
# Channels, features of a head, heads, double blocks, single blocks, guidance, width of the text.
SIZES = (128, 32, 3, 1, 2, False, 72)
# Dev's pictures are not guided by a second prediction.
DEV_SIZES, DEV_GUIDANCE = (128, 32, 3, 1, 2, True, 72), 4.0
SEED, STEPS, WIDTH, HEIGHT, MU = 6, 4, 96, 64, 2.02
LAYERS = (1, 2, 3)


def transformer(sizes):
    module = make_flux2.build(*sizes)
    weights = small.weights(make_flux2.originals(*sizes), "model.diffusion_model.")
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


def klein():
    encoder, tokenizer = small.text_encoder(layers=4), AutoTokenizer.from_pretrained(sys.argv[1])
    return lambda prompt: Flux2KleinPipeline._get_qwen3_prompt_embeds(
        encoder, tokenizer, prompt, device="cpu", hidden_states_layers=LAYERS
    )


def dev():
    model = make_mistral.build()
    shapes = {name: parameter.shape for name, parameter in model.named_parameters() if name != "norm.weight"}
    model.load_state_dict(small.weights(shapes, "text_encoders.mistral3.transformer.model."), strict=False)
    tokenizer = make_mistral.tokenizer(json.loads(gzip.decompress(VOCABULARY.read_bytes())))
    return lambda prompt: make_mistral.encode(model, make_mistral.Chat(tokenizer), prompt)[0]


@torch.no_grad()
def make(name, sizes, encode, strengths, distilled=None):
    network, vae = transformer(sizes), autoencoder()
    positive, negative = encode(small.POSITIVE), encode(small.NEGATIVE)
    times = [1 - step / STEPS for step in range(STEPS)]
    sigmas = [math.exp(MU) / (math.exp(MU) + 1 / t - 1) for t in times] + [0.0]
    mean = vae.bn.running_mean[:, None, None]
    deviation = (vae.bn.running_var[:, None, None] + vae.config.batch_norm_eps).sqrt()
    guidance = None if distilled is None else torch.tensor([distilled])
    tensors = {}
    for cfg in strengths:
        x = torch.randn([1, 128, HEIGHT // 16, WIDTH // 16], generator=torch.Generator().manual_seed(SEED))
        for sigma, following in zip(sigmas, sigmas[1:]):
            velocity = lambda context: make_flux2.call(network, x, context, [sigma], guidance)
            v = velocity(positive)
            if cfg != 1.0:
                without = velocity(negative)
                v = without + cfg * (v - without)
            x = x + (following - sigma) * v
        tensors[f"latent.{cfg}"] = x.contiguous()
        latent = Flux2KleinPipeline._unpatchify_latents(x * deviation + mean)
        picture = (vae.decode(latent).sample / 2 + 0.5).clamp(0, 1)
        tensors[f"picture.{cfg}"] = (picture[0].permute(1, 2, 0) * 255).to(torch.uint8).contiguous()
    run = {"seed": SEED, "steps": STEPS, "width": WIDTH, "height": HEIGHT, "guidance": strengths}
    run |= {} if distilled is None else {"distilled": distilled}
    metadata = {"prompts": json.dumps([small.POSITIVE, small.NEGATIVE]), "run": json.dumps(run)}
    out = FIXTURES / f"{name}.safetensors"
    save_file(tensors, out, metadata)
    print(out.name, out.stat().st_size, {n: (t.float().mean().item(), t.float().std().item()) for n, t in tensors.items()})


def main():
    make("klein", SIZES, klein(), small.GUIDANCE)
    make("flux2_dev", DEV_SIZES, dev(), [1.0], DEV_GUIDANCE)


if __name__ == "__main__":
    main()
