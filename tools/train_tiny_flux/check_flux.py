"""Generates 100 pictures from the tiny Flux checkpoint and judges them.

    python tools/train_tiny_flux/check_flux.py CHECKPOINT [--sheet SHEET.png]
    python tools/train_tiny_flux/check_flux.py CHECKPOINT --prompt 'a red circle' --seed 1 --picture OUT.png

The prompts and the rules are those of `tools/train_tiny`, the schedule has Flux dev's shift; CLIP's pooled state and 256 T5
states without a mask. The networks are diffusers' and transformers' classes, which makes this the reference that
distorch is compared with.
"""

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file
from transformers import T5EncoderModel

from assemble_flux import CLIP, T5, TRANSFORMER, VAE
from flux_networks import (
    AXES, CHANNELS, CLIP_WIDTH, DOUBLE, HEAD, SCALE, SHIFT, SINGLE, T5_LENGTH, T5_WIDTH, T5Words,
    build_t5, patches, unpatched,
)

import drawing
from networks import Words, build_text_encoder

MU = 1.15  # of the shift of Flux dev's times


class Networks:
    """The four networks of a file, in f32."""

    def __init__(self, checkpoint: Path, guidance: float):
        self.guidance = guidance
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
        self.vae = autoencoder(part(VAE))
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
    def velocity(self, x, time: float, texts):
        """The transformer's prediction for latents [batch, 16, height, width]."""
        height, width = x.shape[2] // 2, x.shape[3] // 2
        rows = torch.arange(height).repeat_interleave(width)
        ids = torch.stack([torch.zeros_like(rows), rows, torch.arange(width).repeat(height)], 1)
        found = self.flux(
            hidden_states=patches(x),
            encoder_hidden_states=texts[0],
            pooled_projections=texts[1],
            timestep=torch.full((len(x),), time),
            guidance=torch.full((len(x),), self.guidance),
            img_ids=ids.float(),
            txt_ids=torch.zeros(T5_LENGTH, 3),
        ).sample
        return unpatched(found, height, width)

    def decode(self, x) -> np.ndarray:
        """Bytes [batch, height, width, 3]."""
        return decoded(self.vae, x)


def autoencoder(tensors) -> AutoencoderKL:
    """diffusers' class with the weights of a file."""
    vae = AutoencoderKL(
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
    vae.load_state_dict(convert_ldm_vae_checkpoint(tensors, dict(vae.config)))
    return vae


@torch.no_grad()
def decoded(vae: AutoencoderKL, x) -> np.ndarray:
    """Latents in Flux's scale as bytes [batch, height, width, 3]."""
    images = vae.decode(x / SCALE + SHIFT).sample.clamp(-1, 1)
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


def main():
    parser = drawing.arguments(__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--guidance", type=float, default=3.5, help="the number that the transformer is told")
    args = parser.parse_args()
    shifted = [math.exp(MU) / (math.exp(MU) + 10000 / i - 1) for i in range(1, 10001)]
    drawing.draw(Networks(args.checkpoint, args.guidance), drawing.simple(shifted), args)


if __name__ == "__main__":
    main()
