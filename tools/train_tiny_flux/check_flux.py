"""Generates 100 pictures from the tiny Flux checkpoint and judges them.

    python tools/train_tiny_flux/check_flux.py CHECKPOINT [--sheet SHEET.png]
    python tools/train_tiny_flux/check_flux.py CHECKPOINT --prompt 'a red circle' --seed 1 --picture OUT.png

The prompts and the rules are those of `tools/train_tiny`. Euler over ComfyUI's `simple` schedule with
Flux dev's shift, 20 steps, CLIP's pooled state and 256 T5 states without a mask. The networks are
diffusers' and transformers' classes, which makes this the reference that distorch is compared with.
"""

import argparse
import collections
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from PIL import Image
from safetensors.torch import load_file
from transformers import T5EncoderModel

from assemble_flux import CLIP, T5, TRANSFORMER, VAE
from flux_networks import (
    AXES, CHANNELS, CLIP_WIDTH, DOUBLE, HEAD, SCALE, SHIFT, SINGLE, T5_LENGTH, T5_WIDTH, T5Words,
    build_t5, patches, unpatched,
)

from check import sheet, wanted_hundred
from judge import faults
from networks import Words, build_text_encoder

STEPS, MU = 20, 1.15


class Networks:
    """The four networks of a file, in f32."""

    def __init__(self, checkpoint: Path):
        tensors = {key: value.float() for key, value in load_file(checkpoint).items()}
        part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        self.clip, self.clip_words, self.t5_words = build_text_encoder(), Words(), T5Words()
        missing, extra = self.clip.load_state_dict(
            {self.clip_prefix() + k: v for k, v in part(CLIP).items()}, strict=False
        )
        assert not extra and all("position_ids" in name for name in missing), (missing, extra)
        self.t5 = build_t5()
        missing, extra = self.t5.load_state_dict(part(T5), strict=False)
        assert not extra and missing in ([], ["encoder.embed_tokens.weight"]), (missing, extra)
        self.flux = diffusers_transformer(part(TRANSFORMER))
        self.vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[64] * 4,
            layers_per_block=1,
            latent_channels=CHANNELS,
            scaling_factor=SCALE,
            shift_factor=SHIFT,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        self.vae.load_state_dict(convert_ldm_vae_checkpoint(part(VAE), dict(self.vae.config)))
        for module in (self.clip, self.t5, self.flux, self.vae):
            module.eval().requires_grad_(False)

    def clip_prefix(self) -> str:
        """transformers' CLIPTextModel has had its layers below `text_model` and beside it."""
        return "text_model." if any(k.startswith("text_model.") for k in self.clip.state_dict()) else ""

    @torch.no_grad()
    def encode(self, captions):
        """T5's states and CLIP's pooled state."""
        tokens = self.t5_words.batch(captions, T5_LENGTH)
        states = self.t5(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        return states, self.clip(self.clip_words.batch(captions)).pooler_output

    @torch.no_grad()
    def velocity(self, x, time: float, texts, guidance: float):
        """The transformer's prediction for latents [batch, 16, height, width]."""
        height, width = x.shape[2] // 2, x.shape[3] // 2
        rows = torch.arange(height).repeat_interleave(width)
        ids = torch.stack([torch.zeros_like(rows), rows, torch.arange(width).repeat(height)], 1)
        found = self.flux(
            hidden_states=patches(x),
            encoder_hidden_states=texts[0],
            pooled_projections=texts[1],
            timestep=torch.full((len(x),), time),
            guidance=torch.full((len(x),), guidance),
            img_ids=ids.float(),
            txt_ids=torch.zeros(T5_LENGTH, 3),
        ).sample
        return unpatched(found, height, width)

    @torch.no_grad()
    def decode(self, x) -> np.ndarray:
        """Bytes [batch, height, width, 3]."""
        images = self.vae.decode(x / SCALE + SHIFT).sample.clamp(-1, 1)
        return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def diffusers_transformer(tensors) -> FluxTransformer2DModel:
    """diffusers' class with the weights of a file, whose converter knows Flux's own size only."""
    model = FluxTransformer2DModel(
        in_channels=CHANNELS * 4,
        num_layers=DOUBLE,
        num_single_layers=SINGLE,
        attention_head_dim=HEAD,
        num_attention_heads=1,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=AXES,
    )
    new, rest = {}, dict(tensors)

    def take(old: str, *names: str):
        """One layer, or several that are one in the file."""
        for kind in ("weight", "bias"):
            value = rest.pop(f"{old}.{kind}")
            sizes = [model.get_submodule(name).get_parameter(kind).shape[0] for name in names]
            new.update({f"{name}.{kind}": part for name, part in zip(names, value.split(sizes))})

    def take_norm(old: str, name: str):
        new[f"{name}.weight"] = rest.pop(f"{old}.scale")

    take("img_in", "x_embedder"), take("txt_in", "context_embedder")
    for old, name in [("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance")]:
        take(f"{old}.in_layer", f"time_text_embed.{name}_embedder.linear_1")
        take(f"{old}.out_layer", f"time_text_embed.{name}_embedder.linear_2")
    for i in range(DOUBLE):
        a, b = f"double_blocks.{i}", f"transformer_blocks.{i}"
        for stream, norm, qkv, out, qk, ff in [
            ("img", "norm1", ["to_q", "to_k", "to_v"], "to_out.0", "norm", "ff"),
            ("txt", "norm1_context", ["add_q_proj", "add_k_proj", "add_v_proj"], "to_add_out", "norm_added", "ff_context"),
        ]:
            take(f"{a}.{stream}_mod.lin", f"{b}.{norm}.linear")
            take(f"{a}.{stream}_attn.qkv", *(f"{b}.attn.{part}" for part in qkv))
            take(f"{a}.{stream}_attn.proj", f"{b}.attn.{out}")
            take_norm(f"{a}.{stream}_attn.norm.query_norm", f"{b}.attn.{qk}_q")
            take_norm(f"{a}.{stream}_attn.norm.key_norm", f"{b}.attn.{qk}_k")
            take(f"{a}.{stream}_mlp.0", f"{b}.{ff}.net.0.proj")
            take(f"{a}.{stream}_mlp.2", f"{b}.{ff}.net.2")
    for i in range(SINGLE):
        a, b = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        take(f"{a}.modulation.lin", f"{b}.norm.linear")
        take(f"{a}.linear1", f"{b}.attn.to_q", f"{b}.attn.to_k", f"{b}.attn.to_v", f"{b}.proj_mlp")
        take(f"{a}.linear2", f"{b}.proj_out")
        take_norm(f"{a}.norm.query_norm", f"{b}.attn.norm_q")
        take_norm(f"{a}.norm.key_norm", f"{b}.attn.norm_k")
    take("final_layer.linear", "proj_out")
    for kind in ("weight", "bias"):
        # The original has the shift first, diffusers the scale.
        shift, scale = rest.pop(f"final_layer.adaLN_modulation.1.{kind}").chunk(2)
        new[f"norm_out.linear.{kind}"] = torch.cat([scale, shift])
    assert not rest, rest.keys()
    model.load_state_dict(new)
    return model


def sigmas(steps: int) -> list[float]:
    """ComfyUI's `simple` schedule: every (10000 / steps)th of 10000 shifted times, the largest first."""
    shifted = [math.exp(MU) / (math.exp(MU) + 10000 / i - 1) for i in range(1, 10001)]
    return [shifted[-(1 + int(i * 10000 / steps))] for i in range(steps)] + [0.0]


def sample(networks: Networks, noise, captions, guidance: float, cfg: float):
    """Latents for captions, by Euler's method."""
    texts = networks.encode(captions)
    empty = networks.encode([""] * len(captions)) if cfg != 1 else None
    x, times = noise, sigmas(STEPS)
    for now, then in zip(times, times[1:]):
        v = networks.velocity(x, now, texts, guidance)
        if empty:
            v0 = networks.velocity(x, now, empty, guidance)
            v = v0 + cfg * (v - v0)
        x = x + (then - now) * v
    return x


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--guidance", type=float, default=3.5, help="the number that the transformer is told")
    parser.add_argument("--cfg", type=float, default=2.0, help="against the empty prompt")
    parser.add_argument("--some", type=int, default=100, help="how many of the prompts")
    parser.add_argument("--prompt", help="draw one picture of this, from ComfyUI's noise for the seed")
    parser.add_argument("--picture", type=Path, default=Path("picture.png"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    networks = Networks(args.checkpoint)
    if args.prompt is not None:
        noise = torch.randn(1, CHANNELS, 16, 16, generator=torch.Generator().manual_seed(args.seed))
        latents = sample(networks, noise, [args.prompt], args.guidance, args.cfg)
        Image.fromarray(networks.decode(latents)[0]).save(args.picture)
        return
    asked = wanted_hundred()
    asked = asked[:: len(asked) // args.some]
    tally, images = collections.defaultdict(lambda: [0, 0]), []
    for at in range(0, len(asked), 10):
        some = asked[at : at + 10]
        seeds = [torch.Generator().manual_seed(args.seed + at + i) for i in range(len(some))]
        noise = torch.stack([torch.randn(CHANNELS, 16, 16, generator=generator) for generator in seeds])
        latents = sample(networks, noise, [w.prompt for _, w in some], args.guidance, args.cfg)
        images += list(networks.decode(latents))
    for i, ((group, wanted), image) in enumerate(zip(asked, images)):
        wrong = faults(image, wanted)
        for name in (group, "all"):
            tally[name][0] += not wrong
            tally[name][1] += 1
        if wrong:
            print(f"  {i:3} {wanted.prompt}: {', '.join(wrong)}")
    for group, (right, of) in tally.items():
        print(f"{group}: {right} of {of} right")
    if args.sheet:
        sheet(images, args.sheet)


if __name__ == "__main__":
    main()
