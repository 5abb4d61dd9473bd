"""Writes crates/models/tests/fixtures/vae_*.safetensors from diffusers' AutoencoderKL, AutoencoderKLFlux2,
AutoencoderKLQwenImage and AutoencoderKLQwenImage21.

    python tools/reference/make_vae.py

As make_unet.py: weights and inputs follow from their names, the files hold outputs and metadata.
"""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    Flux2KleinPipeline,
)
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint, convert_wan_vae_to_diffusers
from safetensors.torch import save_file

import seeded
from single_file import causal_vae_name, check, residual_vae_name, vae_name

FIXTURES = Path(__file__).parents[2] / "crates/models/tests/fixtures"
SEED = 30

# Name: (multiples of 32 channels, residual blocks per level, latent channels, quant convolutions,
# whether the attention's projections are 1x1 convolutions). Flux.2's latents are packed and normalised, as its
# pipeline does it; its small decoder has half the encoder's channels here, three quarters as it is published.
CASES = {
    "sd": ([1, 2, 4, 4], 2, 4, True, True),
    "sd3": ([1, 2, 2], 1, 16, False, False),
    "flux2": ([1, 2, 2], 1, 3, True, False),
    "flux2_small_decoder": ([2, 4, 4], 1, 3, True, False),
}
# Pictures' and latents' batch, height and width.
PICTURES = [(2, 32, 32), (1, 40, 64), (1, 37, 51)]
LATENTS = [(1, 4, 4), (2, 3, 5)]


def even(x):
    return x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]


def write(case, tensors, config, shapes, pictures, latents):
    metadata = {
        "config": config,
        "params": shapes,
        "pictures": pictures,
        "latents": latents,
        "seed": SEED,
    }
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    path = FIXTURES / f"vae_{case}.safetensors"
    save_file(tensors, path, metadata)
    print(path.name, path.stat().st_size)


def causal():
    """Qwen-Image's, whose convolutions run over frames: a picture is one."""
    mults, layers, latent = [1, 2, 2], 2, 4
    module = AutoencoderKLQwenImage(
        base_dim=32, z_dim=latent, dim_mult=mults, num_res_blocks=layers, temperal_downsample=[False, True]
    ).eval()
    name = lambda name: causal_vae_name(name, module.config)
    shapes = seeded.fill(module, name, SEED)
    check(module, convert_wan_vae_to_diffusers({name(key): value for key, value in module.named_parameters()}))
    shapes = {key: shape for key, shape in shapes.items() if ".time_conv." not in key}
    tensors, pictures, latents = {}, [], []
    with torch.no_grad():
        for i, (batch, height, width) in enumerate(PICTURES):
            shape = (batch, 3, height, width)
            picture = torch.from_numpy(seeded.uniform(f"picture.{i}", shape, SEED))
            posterior = module.encode(picture[:, :, None]).latent_dist
            tensors[f"mean.{i}"] = posterior.mean[:, :, 0].contiguous()
            tensors[f"logvar.{i}"] = posterior.logvar[:, :, 0].contiguous()
            pictures.append(shape)
        for i, (batch, height, width) in enumerate(LATENTS):
            shape = (batch, latent, height, width)
            z = torch.from_numpy(seeded.uniform(f"latent.{i}", shape, SEED))[:, :, None]
            latents.append(shape)
            decoded = module.decoder(module.post_quant_conv(z))
            assert torch.equal(decoded.clamp(-1, 1), module.decode(z).sample)
            tensors[f"decoded.{i}"] = decoded[:, :, 0].contiguous()
    config = {
        "architecture": "causal",
        "in_channels": 3,
        "latent_channels": latent,
        "channels": 32,
        "channel_mult": mults,
        "num_res_blocks": layers,
        "quant_conv": True,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    }
    write("causal", tensors, config, shapes, pictures, latents)


def seed_frames(module, name, prefix=""):
    """Seeds a module whose convolutions are of one frame by names in ComfyUI's files, which keep a dimension for it."""
    shapes = {}
    with torch.no_grad():
        for own, parameter in module.named_parameters():
            key, shape = name(own), list(parameter.shape)
            if parameter.dim() == 4 and not any(part in key for part in (".resample.", ".to_qkv.", ".proj.", ".gamma")):
                shape.insert(2, 1)
            shapes[key] = shape
            value = seeded.weight(prefix + key, tuple(shape), 0 if prefix else SEED)
            parameter.copy_(torch.from_numpy(value).reshape(parameter.shape))
    return {key: shape for key, shape in shapes.items() if ".time_conv." not in key}


def residual():
    """Qwen-Image 2.1's, with pictures of four channels."""
    mults, layers, latent, base, wider = [1, 2, 4, 4], 1, 6, 8, 12
    module = AutoencoderKLQwenImage21(
        base_dim=base,
        decoder_base_dim=wider,
        z_dim=latent,
        dim_mult=mults,
        num_res_blocks=layers,
        temperal_downsample=[False, True, True],
        scale_factor_spatial=8,
    ).eval()
    shapes = seed_frames(module, lambda name: residual_vae_name(name, module.config))
    tensors, pictures, latents = {}, [], []
    with torch.no_grad():
        for i, (batch, height, width) in enumerate([(2, 32, 32), (1, 40, 64)]):
            shape = (batch, 4, height, width)
            picture = torch.from_numpy(seeded.uniform(f"picture.{i}", shape, SEED))
            posterior = module.encode(picture[:, :, None]).latent_dist
            tensors[f"mean.{i}"] = posterior.mean[:, :, 0].contiguous()
            tensors[f"logvar.{i}"] = posterior.logvar[:, :, 0].contiguous()
            pictures.append(shape)
        # What comes out is compared before it is clamped.
        clamp, torch.clamp = torch.clamp, lambda x, **_: x
        for i, (batch, height, width) in enumerate(LATENTS):
            shape = (batch, latent, height, width)
            z = torch.from_numpy(seeded.uniform(f"latent.{i}", shape, SEED))[:, :, None]
            latents.append(shape)
            tensors[f"decoded.{i}"] = module.decode(z).sample[:, :, 0].contiguous()
        torch.clamp = clamp
    config = {
        "architecture": "causal_residual",
        "in_channels": 4,
        "latent_channels": latent,
        "channels": base,
        "decoder_channels": wider,
        "channel_mult": mults,
        "num_res_blocks": layers,
        "quant_conv": True,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    }
    write("residual", tensors, config, shapes, pictures, latents)


def main():
    causal()
    residual()
    for case, (mults, layers, latent, quant, conv) in CASES.items():
        packed = case.startswith("flux2")
        small = case.endswith("small_decoder")
        decoder = {"decoder_block_out_channels": [16 * mult for mult in mults]} if small else {}
        module = (AutoencoderKLFlux2 if packed else AutoencoderKL)(
            **decoder,
            down_block_types=["DownEncoderBlock2D"] * len(mults),
            up_block_types=["UpDecoderBlock2D"] * len(mults),
            block_out_channels=[32 * mult for mult in mults],
            layers_per_block=layers,
            latent_channels=latent,
            use_quant_conv=quant,
            use_post_quant_conv=quant,
        ).eval()
        shapes = seeded.fill(module, lambda name: vae_name(name, module.config), SEED)
        if packed:
            for name in ("bn.running_mean", "bn.running_var"):
                shapes[name] = [4 * latent]
                module.bn.get_buffer(name[3:]).copy_(torch.from_numpy(seeded.weight(name, (4 * latent,), SEED)))
            mean = module.bn.running_mean[:, None, None]
            variance = module.bn.running_var[:, None, None] + module.config.batch_norm_eps
        if conv:
            for name, shape in shapes.items():
                if "attn_1" in name and len(shape) == 2:
                    shapes[name] = shape + [1, 1]
        original = {
            "first_stage_model." + vae_name(name, module.config): parameter
            for name, parameter in module.named_parameters()
        }
        check(module, convert_ldm_vae_checkpoint(original, dict(module.config)))

        tensors, pictures, latents = {}, [], []
        with torch.no_grad():
            for i, (batch, height, width) in enumerate(PICTURES):
                shape = (batch, 3, height, width)
                picture = torch.from_numpy(seeded.uniform(f"picture.{i}", shape, SEED))
                posterior = module.encode(picture).latent_dist
                moments = [posterior.mean, posterior.logvar]
                if packed:
                    moments = [Flux2KleinPipeline._patchify_latents(even(moment)) for moment in moments]
                    moments = [(moments[0] - mean) / variance.sqrt(), moments[1] - variance.log()]
                tensors[f"mean.{i}"] = moments[0].contiguous()
                tensors[f"logvar.{i}"] = moments[1].contiguous()
                pictures.append(shape)
            for i, (batch, height, width) in enumerate(LATENTS):
                shape = (batch, 4 * latent if packed else latent, height, width)
                z = torch.from_numpy(seeded.uniform(f"latent.{i}", shape, SEED))
                latents.append(shape)
                if packed:
                    z = Flux2KleinPipeline._unpatchify_latents(z * variance.sqrt() + mean)
                tensors[f"decoded.{i}"] = module.decode(z).sample.contiguous()
        config = {
            "in_channels": 3,
            "latent_channels": 4 * latent if packed else latent,
            "channels": 32,
            "channel_mult": mults,
            "num_res_blocks": layers,
            "quant_conv": quant,
            "scaling_factor": 0.18215,
            "shift_factor": 0.0,
        } | ({"packed": True} if packed else {}) | ({"decoder_channels": 16} if small else {})
        write(case, tensors, config, shapes, pictures, latents)


if __name__ == "__main__":
    main()
