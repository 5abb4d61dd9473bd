"""Writes crates/workflow/tests/fixtures/z_image.safetensors: what diffusers' and transformers' classes make of a small
Z-Image checkpoint, for crates/workflow/tests/qwen3_pictures.rs.

    python tools/reference/make_z_image_pipeline.py FOLDER    # the folder of make_qwen_tokens.py

Weights follow from their keys in a one-file checkpoint (seeded.py). Prompts are encoded by ZImagePipeline; the schedule
is ComfyUI's `simple` of a flow with shift 3, the sampler Euler's, guidance mixes two predictions as ComfyUI's `cfg`.
The file holds, for each strength of the guidance, the latent as the autoencoder reads it and the picture's bytes, and as
metadata the prompts and the numbers of the run.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ZImagePipeline
from diffusers.loaders.single_file_utils import (
    convert_ldm_vae_checkpoint,
    convert_z_image_transformer_checkpoint_to_diffusers,
)
from safetensors.torch import save_file
from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

import make_key_lists
import make_z_image
import seeded

OUT = Path(__file__).parents[2] / "crates/workflow/tests/fixtures/z_image.safetensors"
POSITIVE, NEGATIVE = "a red circle, 红色的圆", "blurry"
SEED, STEPS, WIDTH, HEIGHT, SHIFT = 5, 4, 72, 64, 3.0
SCALE, OFFSET = 0.3611, 0.1159
GUIDANCE = [1.0, 3.0]


def weights(shapes, prefix):
    return {name: torch.from_numpy(seeded.weight(prefix + name, tuple(shape), 0)) for name, shape in shapes.items()}


def transformer():
    module = make_z_image.build(channels=16, context=24)
    shapes = make_z_image.originals(module)
    module.load_state_dict(
        convert_z_image_transformer_checkpoint_to_diffusers(weights(shapes, "model.diffusion_model."))
    )
    return module


def text_encoder(layers=3):
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=10,
        intermediate_size=56,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        rms_norm_eps=1e-6,
    )
    module = Qwen3Model(config).eval()
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    module.load_state_dict(weights(shapes, "text_encoders.qwen3.transformer.model."))
    return module


def autoencoder():
    module = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[32] * 4,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    stored = weights(make_key_lists.vae_tensors(module), "first_stage_model.")
    module.load_state_dict(
        convert_ldm_vae_checkpoint({f"first_stage_model.{n}": t for n, t in stored.items()}, dict(module.config))
    )
    return module


@torch.no_grad()
def main():
    network, vae = transformer(), autoencoder()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    pipeline = ZImagePipeline(None, vae, text_encoder(), tokenizer, network)
    [positive], [negative] = pipeline.encode_prompt(POSITIVE, "cpu", negative_prompt=NEGATIVE)
    times = [1 - step / STEPS for step in range(STEPS)]
    sigmas = [SHIFT * t / (1 + (SHIFT - 1) * t) for t in times] + [0.0]
    tensors = {}
    for cfg in GUIDANCE:
        noise = torch.randn([1, 16, HEIGHT // 8, WIDTH // 8], generator=torch.Generator().manual_seed(SEED))
        x = noise
        for sigma, following in zip(sigmas, sigmas[1:]):
            velocity = lambda context: make_z_image.call(network, x, context[None], [sigma])
            v = velocity(positive)
            if cfg != 1.0:
                without = velocity(negative)
                v = without + cfg * (v - without)
            x = x + (following - sigma) * v
        latent = x / SCALE + OFFSET
        tensors[f"latent.{cfg}"] = latent.contiguous()
        picture = (vae.decode(latent).sample / 2 + 0.5).clamp(0, 1)
        tensors[f"picture.{cfg}"] = (picture[0].permute(1, 2, 0) * 255).to(torch.uint8).contiguous()
    run = {"seed": SEED, "steps": STEPS, "width": WIDTH, "height": HEIGHT, "guidance": GUIDANCE}
    metadata = {"prompts": json.dumps([POSITIVE, NEGATIVE]), "run": json.dumps(run)}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, {n: (t.float().mean().item(), t.float().std().item()) for n, t in tensors.items()})


if __name__ == "__main__":
    main()
