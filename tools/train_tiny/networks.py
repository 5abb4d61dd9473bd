"""The three networks of the tiny checkpoint, and its file: SD 1.x' layout, in f16.

`save` writes a file and `load` reads one. The original names come from
`tools/reference/single_file.py`.
"""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
from make_tokens import transformers_tokenizer  # noqa: E402
from single_file import check, unet_name, vae_name  # noqa: E402

START, END, LENGTH = 49406, 49407, 77
TEXT_WIDTH = 64  # CLIP's heads are 64 wide, so this encoder has one
SCALING_FACTOR = 0.18215  # SD 1.x'
SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."
VAE = "first_stage_model."


def build_text_encoder() -> CLIPTextModel:
    """CLIP-L's architecture and vocabulary, 64 wide, three layers."""
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=1,
            max_position_embeddings=LENGTH,
            hidden_act="quick_gelu",
            bos_token_id=START,
            eos_token_id=END,
        )
    )
    # Words that training never sees keep these values. Equal sizes with random signs serve as well
    # as a normal distribution, and take up a tenth of the room where the file is compressed.
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table.copy_(0.02 * table.sign())
    return model


def build_unet() -> UNet2DConditionModel:
    """SD 1.x' UNet, 64 channels wide, with one residual block per level instead of two.

    Half the width would do for such pictures, but its norms have 32 groups: with one channel in a
    group, the last norm would wipe out the mean of each channel, which tells the colours.
    """
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=[64, 64, 64, 64],
        layers_per_block=1,
        attention_head_dim=8,  # diffusers' name for the number of heads
        cross_attention_dim=TEXT_WIDTH,
    )


def build_vae() -> AutoencoderKL:
    """SD 1.x' autoencoder, 64 channels wide, with one residual block per level instead of two."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[64, 64, 64, 64],
        layers_per_block=1,
        latent_channels=4,
        scaling_factor=SCALING_FACTOR,
    )


def original_names(module) -> dict[str, str]:
    """A network's own parameter names, each with its key in the file."""
    names = [name for name, _ in module.named_parameters()]
    if isinstance(module, UNet2DConditionModel):
        return {name: UNET + unet_name(name, module.config) for name in names}
    if isinstance(module, AutoencoderKL):
        return {name: VAE + vae_name(name, module.config) for name in names}
    return {name: TEXT + name.removeprefix("text_model.") for name in names}


def save(path: Path, text_encoder, unet, vae, metadata: dict[str, str]):
    """Writes the three networks as one SD 1.x checkpoint in f16."""
    tensors = {}
    for module in (text_encoder, unet, vae):
        names = original_names(module)
        part = {names[name]: value.detach() for name, value in module.named_parameters()}
        if module is unet:
            check(module, convert_ldm_unet_checkpoint(dict(part), dict(module.config)))
        if module is vae:
            check(module, convert_ldm_vae_checkpoint(dict(part), dict(module.config)))
        for key, value in part.items():
            # The original attention of the autoencoder projects with 1x1 convolutions.
            if module is vae and ".attn_1." in key and value.dim() == 2:
                value = value[:, :, None, None]
            half = value.to(torch.float16).contiguous()
            assert half.isfinite().all(), key
            tensors[key] = half
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)


def load(path: Path):
    """The text encoder, the UNet and the autoencoder of a file, in f32."""
    tensors = load_file(path)
    modules = build_text_encoder(), build_unet(), build_vae()
    for module in modules:
        names, own = original_names(module), dict(module.named_parameters())
        for name, parameter in own.items():
            value = tensors.pop(names[name]).float().reshape(parameter.shape)
            with torch.no_grad():
                parameter.copy_(value)
        module.eval().requires_grad_(False)
    assert not tensors, tensors.keys()
    return modules


class Words:
    """Captions as token ids [batch, 77], padded with the end token as SD 1.x does."""

    def __init__(self):
        self.tokenizer = transformers_tokenizer()
        self.known = {}

    def ids(self, caption: str) -> list[int]:
        if caption not in self.known:
            ids = self.tokenizer(caption)["input_ids"]
            assert ids[0] == START and ids[-1] == END and len(ids) <= LENGTH, caption
            self.known[caption] = ids + [END] * (LENGTH - len(ids))
        return self.known[caption]

    def batch(self, captions) -> torch.Tensor:
        return torch.tensor([self.ids(caption) for caption in captions])
