"""Text encoders of SD3 and Flux against transformers and diffusers: tiny configurations, seeded weights (see
seeded.py), and the tokenizers of the real ones.

    pip install torch transformers diffusers safetensors numpy clip-anytorch ftfy
    python tools/reference/make_text.py FOLDER    # the folder of make_t5_tokens.py

Writes crates/models/tests/fixtures/text.safetensors:
    t5.N                T5's states of the N-th layer from the end, for the seeded token ids below
    sd3.context.I       what diffusers' StableDiffusion3Pipeline.encode_prompt gives for the I-th prompt,
    sd3.pooled.I        T5 read to 77 tokens as ComfyUI does
    flux.context.I      what FluxPipeline.encode_prompt gives, T5 read to 256 tokens
    flux.pooled.I
and in the metadata the configurations of the encoders, their parameters with their shapes, the token ids, the
prompts, and what T5 has for the row of its table of positions at each distance, from -600 to 600.

CLIP-L's projection is a unit matrix here, as diffusers makes it for SD3's one-file checkpoints, whose CLIP-L has
none or one that ComfyUI does not use; on the other side it has seeded values.
"""

import json
import pathlib
import sys

import make_tokens
import seeded
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, StableDiffusion3Pipeline
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)
from transformers.models.t5.modeling_t5 import T5Attention

OUT = pathlib.Path(__file__).parents[2] / "crates/models/tests/fixtures/text.safetensors"
START, END = 49406, 49407
CLIP = {
    "clip_l": dict(width=16, layers=3, heads=2, intermediate=40, act="quick_gelu", projection=16),
    "clip_g": dict(width=24, layers=4, heads=3, intermediate=60, act="gelu", projection=20),
}
# Heads that are together wider than the states.
T5 = dict(vocab_size=32128, width=48, layers=3, heads=4, head_dim=13, intermediate=80, relative_buckets=32)
LENGTH = 200
PROMPTS = [
    "a photo of a cat",
    "An astronaut riding a horse on Mars, ultra-detailed, 8k; naïve café Ångström, 日本語",
]


def clip(name, shapes):
    case = CLIP[name]
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=case["width"],
        intermediate_size=case["intermediate"],
        num_hidden_layers=case["layers"],
        num_attention_heads=case["heads"],
        max_position_embeddings=77,
        hidden_act=case["act"],
        projection_dim=case["projection"],
        bos_token_id=START,
        eos_token_id=END,
        attn_implementation="eager",
    )
    model = CLIPTextModelWithProjection(config).eval()
    shapes |= seeded.fill(model, lambda key: f"{name}.{key}")
    return model


def t5(shapes):
    config = T5Config(
        vocab_size=T5["vocab_size"],
        d_model=T5["width"],
        d_kv=T5["head_dim"],
        d_ff=T5["intermediate"],
        num_layers=T5["layers"],
        num_heads=T5["heads"],
        relative_attention_num_buckets=T5["relative_buckets"],
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    model = T5EncoderModel(config).eval()
    tied = "encoder.embed_tokens.weight"
    shapes |= seeded.fill(model, lambda key: None if key == tied else f"t5xxl.{key}")
    assert model.encoder.embed_tokens.weight is model.shared.weight
    return model


def tokenizers(folder):
    """CLIP's with either padding, and T5's, which are the published ones."""
    clip_l, clip_g = make_tokens.transformers_tokenizer(), make_tokens.transformers_tokenizer()
    clip_l.pad_token, clip_g.pad_token = "<|endoftext|>", "!"
    clip_l.model_max_length = clip_g.model_max_length = 77
    return clip_l, clip_g, T5TokenizerFast.from_pretrained(folder)


@torch.no_grad()
def main(folder):
    shapes, tensors = {}, {}
    clip_l, clip_g, encoder = clip("clip_l", shapes), clip("clip_g", shapes), t5(shapes)
    tokenizer_l, tokenizer_g, tokenizer_t5 = tokenizers(folder)

    ids = ((seeded.uniform("ids", (LENGTH,)) + 1) * 16000).astype("int64")
    output = encoder(input_ids=torch.from_numpy(ids)[None], output_hidden_states=True)
    # The last of them is normed already.
    tensors["t5.1"] = output.last_hidden_state
    tensors["t5.2"] = encoder.encoder.final_layer_norm(output.hidden_states[-2])
    distances = torch.arange(-600, 601)
    buckets = T5Attention._relative_position_bucket(distances, True, T5["relative_buckets"], 128)

    clip_l.text_projection.weight.copy_(torch.eye(CLIP["clip_l"]["width"]))
    sd3 = StableDiffusion3Pipeline(
        transformer=None, scheduler=FlowMatchEulerDiscreteScheduler(), vae=None,
        text_encoder=clip_l, tokenizer=tokenizer_l, text_encoder_2=clip_g, tokenizer_2=tokenizer_g,
        text_encoder_3=encoder, tokenizer_3=tokenizer_t5,
    )  # fmt: skip
    plain = CLIPTextModel(clip_l.config).eval()
    plain.load_state_dict(clip_l.text_model.state_dict())
    flux = FluxPipeline(
        transformer=None, scheduler=FlowMatchEulerDiscreteScheduler(), vae=None,
        text_encoder=plain, tokenizer=tokenizer_l, text_encoder_2=encoder, tokenizer_2=tokenizer_t5,
    )  # fmt: skip
    for i, prompt in enumerate(PROMPTS):
        context, _, pooled, _ = sd3.encode_prompt(
            prompt, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=77
        )
        tensors[f"sd3.context.{i}"], tensors[f"sd3.pooled.{i}"] = context, pooled
        context, pooled, _ = flux.encode_prompt(prompt, None, device="cpu", max_sequence_length=256)
        tensors[f"flux.context.{i}"], tensors[f"flux.pooled.{i}"] = context, pooled

    configs = [
        [name, {"architecture": "clip", "vocab_size": 49408, "max_positions": 77, "width": case["width"],
                "layers": case["layers"], "heads": case["heads"], "intermediate": case["intermediate"],
                "activation": case["act"], "projection": case["projection"]}]
        for name, case in CLIP.items()
    ]  # fmt: skip
    configs.append(["t5xxl", {"architecture": "t5", **T5}])
    metadata = {
        "seed": "0",
        "params": json.dumps(shapes),
        "encoders": json.dumps(configs),
        "ids": json.dumps(ids.tolist()),
        "prompts": json.dumps(PROMPTS),
        "buckets": json.dumps(buckets.tolist()),
    }
    save_file({key: value.contiguous().float() for key, value in tensors.items()}, OUT, metadata)
    print(OUT.stat().st_size, "bytes", {key: tuple(value.shape) for key, value in tensors.items()})


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
