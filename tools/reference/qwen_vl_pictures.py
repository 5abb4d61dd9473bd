"""Pictures in prompts of Qwen's vision-language models, as their processors make them: seeded pictures and weights, patches, and
what a model is called with."""

import json

import seeded
import torch
from safetensors.torch import save_file
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

# A picture's place in a chat, and the token of it that is the picture.
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
PAD = 151_655


def fill(model, prefix):
    """Weights by names below a prefix; returns their shapes."""
    shapes = seeded.fill(model.model.language_model, lambda name: f"{prefix}model.{name}")
    return shapes | seeded.fill(model.model.visual, lambda name: f"{prefix}visual.{name}")


def pictures(sizes):
    """Seeded pictures, each [height, width, 3] from 0 to 1."""
    return [torch.from_numpy((seeded.uniform(f"picture.{at}", (*size, 3)) + 1) / 2) for at, size in enumerate(sizes)]


def patches(picture, patch_size=14, **normalised):
    """Of a picture: its patches and their grid. It is resized as ComfyUI does it, between the two nearest pixels without
    smoothing, where transformers takes PIL's bicubic filter."""
    size = smart_resize(*picture.shape[:2], factor=2 * patch_size, min_pixels=3136, max_pixels=12_845_056)
    resized = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)
    processor = Qwen2VLImageProcessor(do_resize=False, do_rescale=False, patch_size=patch_size, **normalised)
    made = processor(resized, return_tensors="pt")
    return made["pixel_values"], made["image_grid_thw"]


def inputs(tokenizer, chat, made):
    """What a model is called with for a chat with pictures, of which the patches and grids are given. Places of tokens are
    those of transformers with `mm_token_type_ids`, which diffusers 0.42 does not hand on."""
    counts = iter([int(grid.prod()) // 4 for _, grid in made])
    ids = [[token] * (next(counts) if token == PAD else 1) for token in tokenizer(chat)["input_ids"]]
    ids = torch.tensor([sum(ids, [])])
    return dict(
        input_ids=ids,
        mm_token_type_ids=(ids == PAD).int(),
        pixel_values=torch.cat([values for values, _ in made]),
        image_grid_thw=torch.cat([grid for _, grid in made]),
    )


def write(out, tensors, **metadata):
    """Writes a fixture with the seed 0."""
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in (metadata | {"seed": 0}).items()}
    save_file(tensors, out, metadata)
    print(out.name, out.stat().st_size, {name: list(t.shape) for name, t in tensors.items()})
