"""Writes the tensor names and shapes of published checkpoints, for the tests of recognition.

    python tools/reference/make_key_lists.py

The classes of diffusers and transformers are built without data from the published
configurations, and their parameters renamed to the layout of the original single-file
checkpoints. As a check that does not depend on the renaming here, diffusers' own single-file
converters must turn each list back into exactly the names and shapes that it came from. The number
of parameters of each component is counted on the classes; `PUBLISHED` pins the known ones.

For tiny models that can be run, the order in which a forward pass calls the leaf modules is recorded
too, and for the text encoders the order of definition, both under the original names.

Needs torch, diffusers and transformers; no weights.
"""

import gzip
import json
import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel
from diffusers import UNet2DConditionModel
from diffusers.loaders import single_file_utils as converters
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

FIXTURES = Path(__file__).parents[2] / "crates/checkpoint/tests/fixtures/keys"

PUBLISHED = {
    ("sd15", "unet"): 859_520_964,
    ("sd15", "vae"): 83_653_863,
    ("sd15", "clip"): 123_060_480,
    ("sd21-v", "unet"): 865_910_724,
    ("sdxl-base", "unet"): 2_567_463_684,
    ("flux-dev", "unet"): 11_901_408_320,
}


# Configurations, as published beside the weights.

DOWN, CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"

SD1 = dict(
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=(CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN),
    up_block_types=(UP, CROSS_UP, CROSS_UP, CROSS_UP),
    cross_attention_dim=768,
    attention_head_dim=8,
)
SD2 = SD1 | dict(
    cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
)
SDXL = dict(
    block_out_channels=(320, 640, 1280),
    down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN),
    up_block_types=(CROSS_UP, CROSS_UP, UP),
    transformer_layers_per_block=(1, 2, 10),
    cross_attention_dim=2048,
    attention_head_dim=(5, 10, 20),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
REFINER = SDXL | dict(
    block_out_channels=(384, 768, 1536, 1536),
    down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN, DOWN),
    up_block_types=(UP, CROSS_UP, CROSS_UP, UP),
    transformer_layers_per_block=4,
    cross_attention_dim=1280,
    attention_head_dim=(6, 12, 24, 24),
    projection_class_embeddings_input_dim=2560,
)
# SSD-1B, <https://arxiv.org/abs/2401.02677>: SDXL with blocks taken out.
SSD_1B = SDXL | dict(
    mid_block_type="UNetMidBlock2D",
    transformer_layers_per_block=(1, 2, 4),
    reverse_transformer_layers_per_block=((4, 4, 10), (2, 1, 1), 1),
)
SD3_MEDIUM = dict(
    num_layers=24,
    num_attention_heads=24,
    attention_head_dim=64,
    caption_projection_dim=1536,
    joint_attention_dim=4096,
    pooled_projection_dim=2048,
    in_channels=16,
    out_channels=16,
    patch_size=2,
    sample_size=128,
    pos_embed_max_size=192,
)
SD35_MEDIUM = SD3_MEDIUM | dict(
    pos_embed_max_size=384, qk_norm="rms_norm", dual_attention_layers=tuple(range(13))
)
SD35_LARGE = SD3_MEDIUM | dict(
    num_layers=38, num_attention_heads=38, caption_projection_dim=2432, qk_norm="rms_norm"
)
FLUX_SCHNELL = dict(guidance_embeds=False)
FLUX_DEV = dict(guidance_embeds=True)

VAE_SD = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    latent_channels=4,
)
VAE_16 = VAE_SD | dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)

CLIP_L = dict(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
)
# The original SD 2.x files hold all 24 blocks, of which 23 are used.
CLIP_H = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    projection_dim=1024,
)
CLIP_G = dict(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    projection_dim=1280,
)
T5_XXL = dict(
    vocab_size=32128,
    d_model=4096,
    d_kv=64,
    d_ff=10240,
    num_layers=24,
    num_heads=64,
    feed_forward_proj="gated-gelu",
)

TINY_SD1 = dict(
    block_out_channels=(32, 64, 128),
    down_block_types=(CROSS_DOWN, CROSS_DOWN, DOWN),
    up_block_types=(UP, CROSS_UP, CROSS_UP),
    layers_per_block=1,
    cross_attention_dim=64,
    attention_head_dim=8,
)
TINY_SD2 = TINY_SD1 | dict(use_linear_projection=True, cross_attention_dim=128)
TINY_SDXL = SDXL | dict(
    block_out_channels=(32, 64, 128),
    layers_per_block=1,
    transformer_layers_per_block=(1, 2, 3),
    cross_attention_dim=64 + 128,
    attention_head_dim=(1, 1, 2),
    projection_class_embeddings_input_dim=128 + 6 * 256,
)
TINY_VAE = VAE_SD | dict(
    block_out_channels=(32, 64),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    layers_per_block=1,
)
TINY_CLIP = dict(
    hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1
)
TINY_OPEN_CLIP = dict(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=2,
    projection_dim=128,
)
TINY_T5 = T5_XXL | dict(d_model=96, d_kv=16, d_ff=160, num_layers=2, num_heads=4)
TINY_SD3 = SD35_MEDIUM | dict(
    num_layers=3,
    num_attention_heads=2,
    attention_head_dim=32,
    caption_projection_dim=64,
    joint_attention_dim=96,
    pooled_projection_dim=192,
    pos_embed_max_size=16,
    dual_attention_layers=(0,),
)
TINY_FLUX = FLUX_DEV | dict(
    num_layers=2,
    num_single_layers=3,
    attention_head_dim=32,
    num_attention_heads=2,
    joint_attention_dim=96,
    pooled_projection_dim=64,
    axes_dims_rope=(8, 12, 12),
)


# From the names of the classes to those of the original files.

RESNET = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
]


def replaced(name: str, pairs) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def unet_name(name: str, model: UNet2DConditionModel) -> str:
    name = replaced(
        name,
        [
            ("conv_in.", "input_blocks.0.0."),
            ("time_embedding.linear_1", "time_embed.0"),
            ("time_embedding.linear_2", "time_embed.2"),
            ("add_embedding.linear_1", "label_emb.0.0"),
            ("add_embedding.linear_2", "label_emb.0.2"),
            ("conv_norm_out", "out.0"),
            ("conv_out", "out.2"),
            ("mid_block.resnets.0", "middle_block.0"),
            ("mid_block.attentions.0", "middle_block.1"),
            ("mid_block.resnets.1", "middle_block.2"),
        ],
    )
    step = model.config.layers_per_block + 1
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name):
        way, block, kind, at, rest = found.groups()
        block, at = int(block), int(at)
        first = block * step + (1 if way == "down" else 0)
        last = first + step - 1
        root = "input_blocks" if way == "down" else "output_blocks"
        attends = hasattr((model.down_blocks if way == "down" else model.up_blocks)[block], "attentions")
        name = {
            "resnets": f"{root}.{first + at}.0.{rest}",
            "attentions": f"{root}.{first + at}.1.{rest}",
            "downsamplers": f"{root}.{last}.0.{rest.replace('conv', 'op')}",
            "upsamplers": f"{root}.{last}.{2 if attends else 1}.{rest}",
        }[kind]
    return name if "transformer_blocks" in name else replaced(name, RESNET)


def vae_name(name: str, model: AutoencoderKL) -> str:
    levels = len(model.config.block_out_channels)
    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
    return replaced(
        name,
        [
            ("down_blocks", "down"),
            ("downsamplers.0", "downsample"),
            ("upsamplers.0", "upsample"),
            ("mid_block.resnets.0", "mid.block_1"),
            ("mid_block.resnets.1", "mid.block_2"),
            ("mid_block.attentions.0", "mid.attn_1"),
            ("resnets", "block"),
            ("conv_shortcut", "nin_shortcut"),
            ("group_norm", "norm"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
            ("conv_norm_out", "norm_out"),
        ],
    )


def shapes(model) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def unet_tensors(model) -> dict[str, list[int]]:
    return {unet_name(name, model): shape for name, shape in shapes(model).items()}


def vae_tensors(model) -> dict[str, list[int]]:
    """The attention's matrices are 1x1 convolutions in the original."""
    tensors = {}
    for name, shape in shapes(model).items():
        matrix = "attentions" in name and len(shape) == 2
        tensors[vae_name(name, model)] = shape + [1, 1] if matrix else shape
    return tensors


def open_clip_tensors(model) -> dict[str, list[int]]:
    """Query, key and value are one matrix, and the projection is stored transposed."""
    tensors = {}
    for name, shape in shapes(model).items():
        name = name.removeprefix("text_model.")
        if found := re.match(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", name):
            block, _, param = found.groups()
            tensors[f"transformer.resblocks.{block}.attn.in_proj_{param}"] = [3 * shape[0], *shape[1:]]
            continue
        name = replaced(
            name,
            [
                ("embeddings.token_embedding", "token_embedding"),
                ("embeddings.position_embedding.weight", "positional_embedding"),
                ("encoder.layers", "transformer.resblocks"),
                ("self_attn", "attn"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("fc1", "c_fc"),
                ("fc2", "c_proj"),
                ("final_layer_norm", "ln_final"),
                ("text_projection.weight", "text_projection"),
            ],
        )
        tensors[name] = shape[::-1] if name == "text_projection" else shape
    return tensors


SD3 = [
    ("pos_embed.pos_embed", "pos_embed"),
    ("pos_embed.proj", "x_embedder.proj"),
    ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1"),
]
SD3_BLOCK = [
    ("norm1_context.linear", "context_block.adaLN_modulation.1"),
    ("norm1.linear", "x_block.adaLN_modulation.1"),
    ("attn.add_q_proj", "context_block.attn.qkv"),
    ("attn.to_q", "x_block.attn.qkv"),
    ("attn2.to_q", "x_block.attn2.qkv"),
    ("attn.norm_added_q", "context_block.attn.ln_q"),
    ("attn.norm_added_k", "context_block.attn.ln_k"),
    ("attn.norm_q", "x_block.attn.ln_q"),
    ("attn.norm_k", "x_block.attn.ln_k"),
    ("attn2.norm_q", "x_block.attn2.ln_q"),
    ("attn2.norm_k", "x_block.attn2.ln_k"),
    ("attn.to_add_out", "context_block.attn.proj"),
    ("attn.to_out.0", "x_block.attn.proj"),
    ("attn2.to_out.0", "x_block.attn2.proj"),
    ("ff_context.net.0.proj", "context_block.mlp.fc1"),
    ("ff_context.net.2", "context_block.mlp.fc2"),
    ("ff.net.0.proj", "x_block.mlp.fc1"),
    ("ff.net.2", "x_block.mlp.fc2"),
]
FLUX = [
    ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer"),
    ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer"),
    ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
    ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
    ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
    ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
    ("context_embedder", "txt_in"),
    ("x_embedder", "img_in"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1"),
]
FLUX_DOUBLE = [
    ("norm1_context.linear", "txt_mod.lin"),
    ("norm1.linear", "img_mod.lin"),
    ("attn.add_q_proj", "txt_attn.qkv"),
    ("attn.to_q", "img_attn.qkv"),
    ("attn.norm_added_q.weight", "txt_attn.norm.query_norm.scale"),
    ("attn.norm_added_k.weight", "txt_attn.norm.key_norm.scale"),
    ("attn.norm_q.weight", "img_attn.norm.query_norm.scale"),
    ("attn.norm_k.weight", "img_attn.norm.key_norm.scale"),
    ("attn.to_add_out", "txt_attn.proj"),
    ("attn.to_out.0", "img_attn.proj"),
    ("ff_context.net.0.proj", "txt_mlp.0"),
    ("ff_context.net.2", "txt_mlp.2"),
    ("ff.net.0.proj", "img_mlp.0"),
    ("ff.net.2", "img_mlp.2"),
]
FLUX_SINGLE = [
    ("norm.linear", "modulation.lin"),
    ("attn.to_q", "linear1"),
    ("attn.norm_q.weight", "norm.query_norm.scale"),
    ("attn.norm_k.weight", "norm.key_norm.scale"),
    ("proj_out", "linear2"),
]
FUSED = re.compile(r"attn2?\.(to_k|to_v|add_k_proj|add_v_proj)\.")


def sd3_tensors(model) -> dict[str, list[int]]:
    tensors = {}
    for name, shape in shapes(model).items():
        if FUSED.search(name):
            continue
        if found := re.match(r"transformer_blocks\.(\d+)\.(.*)", name):
            name = f"joint_blocks.{found[1]}.{replaced(found[2], SD3_BLOCK)}"
        elif name.startswith("proj_out"):
            name = name.replace("proj_out", "final_layer.linear")
        else:
            name = replaced(name, SD3)
        tensors[name] = [3 * shape[0], *shape[1:]] if ".qkv." in name else shape
    return tensors


def flux_tensors(model) -> dict[str, list[int]]:
    tensors = {}
    for name, shape in shapes(model).items():
        if FUSED.search(name) or ".proj_mlp." in name:
            continue
        if found := re.match(r"transformer_blocks\.(\d+)\.(.*)", name):
            name = f"double_blocks.{found[1]}.{replaced(found[2], FLUX_DOUBLE)}"
        elif found := re.match(r"single_transformer_blocks\.(\d+)\.(.*)", name):
            name = f"single_blocks.{found[1]}.{replaced(found[2], FLUX_SINGLE)}"
        elif name.startswith("proj_out"):
            name = name.replace("proj_out", "final_layer.linear")
        else:
            name = replaced(name, FLUX)
        if ".qkv." in name:
            shape = [3 * shape[0], *shape[1:]]
        elif ".linear1." in name:
            shape = [7 * shape[0], *shape[1:]]
        tensors[name] = shape
    return tensors


# The check: back through diffusers' converters.


def on_meta(tensors: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in tensors.items()}


def same(model, converted: dict[str, torch.Tensor], what: str):
    expected, found = shapes(model), {k: list(t.shape) for k, t in converted.items() if t is not None}
    different = {k for k in expected | found if expected.get(k) != found.get(k)}
    assert not different, (what, sorted(different)[:8])


def meta(build):
    with torch.device("meta"):
        return build()


def prefixed(prefix: str, tensors) -> dict[str, list[int]]:
    return {prefix + name: shape for name, shape in tensors.items()}


DIFFUSION = "model.diffusion_model."


def unet(config):
    model = meta(lambda: UNet2DConditionModel(**config))
    tensors = prefixed(DIFFUSION, unet_tensors(model))
    same(model, converters.convert_ldm_unet_checkpoint(on_meta(tensors), model.config), "unet")
    return model, tensors


def sd3(config):
    model = meta(lambda: SD3Transformer2DModel(**config))
    tensors = prefixed(DIFFUSION, sd3_tensors(model))
    same(model, converters.convert_sd3_transformer_checkpoint_to_diffusers(on_meta(tensors)), "sd3")
    return model, tensors


def flux(config):
    model = meta(lambda: FluxTransformer2DModel(**config))
    tensors = prefixed(DIFFUSION, flux_tensors(model))
    if model.config.num_attention_heads * model.config.attention_head_dim == 3072:
        # The converter knows the published width only.
        converted = converters.convert_flux_transformer_checkpoint_to_diffusers(on_meta(tensors))
        same(model, converted, "flux")
    return model, tensors


def vae(config, prefix="first_stage_model."):
    model = meta(lambda: AutoencoderKL(**config))
    tensors = prefixed(prefix, vae_tensors(model))
    same(model, converters.convert_ldm_vae_checkpoint(on_meta(tensors), model.config), "vae")
    return model, tensors


def hugging_face_clip(config, prefix, projection=False):
    model = meta(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**config)))
    tensors = shapes(model)
    if not projection:
        del tensors["text_projection.weight"]
        model.text_projection = torch.nn.Identity()
    return model, prefixed(prefix, tensors)


def open_clip(config, prefix):
    model = meta(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**config)))
    tensors = prefixed(prefix, open_clip_tensors(model))
    ignored = converters.SD_2_TEXT_ENCODER_KEYS_TO_IGNORE
    converters.SD_2_TEXT_ENCODER_KEYS_TO_IGNORE = []
    same(model, converters.convert_open_clip_checkpoint(model, on_meta(tensors), prefix), "openclip")
    converters.SD_2_TEXT_ENCODER_KEYS_TO_IGNORE = ignored
    return model, tensors


def t5(config, prefix="text_encoders.t5xxl.transformer."):
    model = meta(lambda: T5EncoderModel(T5Config(**config)))
    tensors = shapes(model)
    del tensors["encoder.embed_tokens.weight"]
    return model, prefixed(prefix, tensors)


# Files.

SCHEDULE = {
    name: [1000]
    for name in """betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod
        sqrt_one_minus_alphas_cumprod log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod
        sqrt_recipm1_alphas_cumprod posterior_variance posterior_log_variance_clipped
        posterior_mean_coef1 posterior_mean_coef2""".split()
}
POSITION_IDS = {"cond_stage_model.transformer.text_model.embeddings.position_ids": [1, 77]}


def clips_of_sdxl(left=CLIP_L, right=CLIP_G):
    return [
        hugging_face_clip(left, "conditioner.embedders.0.transformer."),
        open_clip(right, "conditioner.embedders.1.model."),
    ]


def clips_of_sd3(left=CLIP_L, right=CLIP_G, t5_config=T5_XXL):
    """The three encoders as Stability's file "incl_clips_t5xxl" holds them."""
    left, right = left | dict(projection_dim=left["hidden_size"]), right
    return [
        hugging_face_clip(left, "text_encoders.clip_l.transformer.", projection=True),
        hugging_face_clip(right, "text_encoders.clip_g.transformer.", projection=True),
        t5(t5_config),
    ]


def encoders_of_flux():
    return [hugging_face_clip(CLIP_L, "text_encoders.clip_l.transformer."), t5(T5_XXL)]


def ema(diffusion) -> dict[str, list[int]]:
    """The average that training keeps, under names without dots."""
    _, tensors = diffusion
    flat = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): shape
        for name, shape in tensors.items()
    }
    return flat | {"model_ema.decay": [], "model_ema.num_updates": []}


def files():
    """(name, diffusion model, text encoders, autoencoder, extra tensors that are no parameters)"""
    clip_l = lambda: [hugging_face_clip(CLIP_L, "cond_stage_model.transformer.")]
    clip_h = lambda: [open_clip(CLIP_H, "cond_stage_model.model.")]
    sd = lambda: vae(VAE_SD)
    sixteen = lambda: vae(VAE_16)
    logit_scale = {"conditioner.embedders.1.model.logit_scale": []}
    sdxl_extra = logit_scale | {
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": [1, 77],
        "denoiser.sigmas": [1000],
    }
    yield "sd15", unet(SD1), clip_l(), sd(), SCHEDULE | POSITION_IDS
    full = unet(SD1)
    yield "sd15-ema", full, clip_l(), sd(), SCHEDULE | POSITION_IDS | ema(full)
    yield "sd15-inpaint", unet(SD1 | dict(in_channels=9)), clip_l(), sd(), POSITION_IDS
    yield "sd15-pix2pix", unet(SD1 | dict(in_channels=8)), clip_l(), sd(), {}
    yield "sd21-v", unet(SD2), clip_h(), sd(), {"cond_stage_model.model.attn_mask": [77, 77]}
    yield "sd2-inpaint", unet(SD2 | dict(in_channels=9)), clip_h(), sd(), {}
    yield "sd2-depth", unet(SD2 | dict(in_channels=5)), clip_h(), sd(), {}
    yield "sdxl-base", unet(SDXL), clips_of_sdxl(), sd(), sdxl_extra
    yield "sdxl-inpaint", unet(SDXL | dict(in_channels=9)), clips_of_sdxl(), sd(), {}
    yield "sdxl-ssd1b", unet(SSD_1B), clips_of_sdxl(), sd(), {}
    yield "sdxl-refiner", unet(REFINER), [open_clip(CLIP_G, "conditioner.embedders.0.model.")], sd(), {
        "conditioner.embedders.0.model.logit_scale": []
    }
    yield "sd3-medium", sd3(SD3_MEDIUM), clips_of_sd3(), sixteen(), {}
    yield "sd35-medium", sd3(SD35_MEDIUM), [], sixteen(), {}
    yield "sd35-large", sd3(SD35_LARGE), clips_of_sd3(), sixteen(), {}
    yield "flux-dev", flux(FLUX_DEV), encoders_of_flux(), vae(VAE_16, "vae."), {}
    yield "flux-schnell", flux(FLUX_SCHNELL), [], None, {}
    yield "flux-fill", flux(FLUX_DEV | dict(in_channels=384, out_channels=64)), [], None, {}
    yield "flux-depth", flux(FLUX_DEV | dict(in_channels=128, out_channels=64)), [], None, {}
    yield "tiny-sd1", unet(TINY_SD1), [
        hugging_face_clip(TINY_CLIP, "cond_stage_model.transformer.")
    ], vae(TINY_VAE), {}
    yield "tiny-sd2", unet(TINY_SD2), [
        open_clip(TINY_OPEN_CLIP, "cond_stage_model.model.")
    ], vae(TINY_VAE), {}
    yield "tiny-sdxl", unet(TINY_SDXL), clips_of_sdxl(TINY_CLIP, TINY_OPEN_CLIP), vae(TINY_VAE), {}
    yield "tiny-sd3", sd3(TINY_SD3), clips_of_sd3(TINY_CLIP, TINY_OPEN_CLIP, TINY_T5), vae(
        TINY_VAE | dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
    ), {}
    yield "tiny-flux", flux(TINY_FLUX), [], None, {}


# Orders.


def called(model, run) -> list[str]:
    """The leaf modules with parameters in the order of their first call."""
    names, hooks = [], []
    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)):
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: names.append(name)))
    with torch.no_grad():
        run(model)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(names))


def renamed(names: list[str], rename) -> list[str]:
    return [rename(f"{name}.weight").removesuffix(".weight") for name in names]


def order_of_unet(config) -> list[str]:
    model = UNet2DConditionModel(**config).eval()
    channels = config.get("in_channels", 4)
    added = None
    if vector := config.get("projection_class_embeddings_input_dim"):
        added = dict(text_embeds=torch.zeros(1, vector - 6 * 256), time_ids=torch.zeros(1, 6))
    text = torch.zeros(1, 3, config["cross_attention_dim"])
    run = lambda m: m(torch.zeros(1, channels, 16, 16), 1, text, added_cond_kwargs=added)
    return renamed(called(model, run), lambda name: unet_name(name, model))


def order_of_vae(config) -> list[str]:
    model = AutoencoderKL(**config).eval()
    run = lambda m: m(torch.zeros(1, 3, 16, 16))
    return renamed(called(model, run), lambda name: vae_name(name, model))


def leaves(model) -> list[str]:
    """The leaf modules with parameters of their own in the order of definition.

    T5's `encoder.embed_tokens` is `shared` again.
    """
    tied = "encoder.embed_tokens"
    modules = model.named_modules()
    return [n for n, m in modules if n != tied and list(m.parameters(recurse=False))]


def orders():
    clip = CLIPTextModelWithProjection(CLIPTextConfig(**TINY_OPEN_CLIP)).eval()
    t5_model = T5EncoderModel(T5Config(**TINY_T5)).eval()
    tokens = lambda m: m(torch.zeros(1, 5, dtype=torch.long))
    shared = lambda name: name.replace("encoder.embed_tokens", "shared")
    return {
        "use": {
            "tiny-sd1": order_of_unet(TINY_SD1),
            "tiny-sd2": order_of_unet(TINY_SD2),
            "tiny-sdxl": order_of_unet(TINY_SDXL),
            "vae": order_of_vae(TINY_VAE),
            "clip_g": called(clip, tokens),
            "t5xxl": renamed(called(t5_model, tokens), shared),
        },
        "definition": {"clip_g": leaves(clip), "t5xxl": leaves(t5_model)},
    }


def parameters(model) -> int:
    """Without tied duplicates; with the position table, which SD3 keeps as a buffer."""
    count = sum(p.numel() for p in model.parameters())
    return count + sum(b.numel() for name, b in model.named_buffers() if name == "pos_embed.pos_embed")


def write(name: str, content):
    FIXTURES.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, separators=(",", ":")).encode()
    (FIXTURES / f"{name}.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))


def main():
    for name, diffusion, encoders, autoencoder, extra in files():
        parts = {"unet": [diffusion], "clip": encoders, "vae": [autoencoder] if autoencoder else []}
        counts = {kind: sum(parameters(model) for model, _ in found) for kind, found in parts.items()}
        for kind, count in counts.items():
            assert count == PUBLISHED.get((name, kind), count), (name, kind, count)
        tensors = {}
        for found in parts.values():
            for _, part in found:
                assert not tensors.keys() & part.keys()
                tensors |= part
        write(
            name,
            {
                "parameters": counts,
                "extra": sorted(extra),
                "tensors": dict(sorted((tensors | extra).items())),
            },
        )
        print(f"{name}: {len(tensors)} tensors, {counts}")
    write("orders", orders())


if __name__ == "__main__":
    main()
