"""Writes crates/models/tests/fixtures/lumina2.safetensors from diffusers' Lumina2Transformer2DModel, and
crates/checkpoint/tests/fixtures/keys/lumina2.json.gz: the tensors of the published file.

    python tools/reference/make_lumina2.py

Weights and inputs follow from their names in the original layout (seeded.py); diffusers' own converter brings them to
the module, but for queries, keys and values, whose sizes it takes to be the published ones. The timestep is turned round and
the output's sign changed, as Lumina2Pipeline does it; odd sides are padded circularly before and cropped after. The file
holds the outputs, and as metadata the configuration, the parameters' names and shapes, the calls, and diffusers' modules,
each with the original's and its first row there.

For the list, the classes of diffusers and transformers are built without data from the published configurations; diffusers'
converter must turn it back into exactly the names and shapes that it came from. Needs torch, diffusers, transformers and
safetensors.
"""

import gzip
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, Lumina2Transformer2DModel
from diffusers.loaders.single_file_utils import convert_lumina2_to_diffusers
from safetensors.torch import save_file
from transformers import Gemma2Config, Gemma2Model

import make_key_lists
import seeded
from module_rows import modules

ROOT = Path(__file__).parents[2] / "crates"
OUT = ROOT / "models/tests/fixtures/lumina2.safetensors"
KEYS = ROOT / "checkpoint/tests/fixtures/keys/lumina2.json.gz"
SEED = 43
HEADS, SHARED, HEAD, CHANNELS, CONTEXT, DEPTH, REFINER = 4, 2, 24, 4, 40, 2, 1
# Batch, height, width, text tokens, timesteps.
CALLS = [
    (1, 8, 8, 7, [0.3]),
    (2, 16, 8, 33, [1.0, 0.45]),
    (1, 5, 11, 1, [0.02]),
]


def build(channels=CHANNELS, context=CONTEXT):
    return Lumina2Transformer2DModel(
        in_channels=channels,
        hidden_size=HEADS * HEAD,
        num_layers=DEPTH,
        num_refiner_layers=REFINER,
        num_attention_heads=HEADS,
        num_kv_heads=SHARED,
        multiple_of=64,
        axes_dim_rope=[HEAD // 3] * 3,
        axes_lens=[300, 64, 64],
        cap_feat_dim=context,
    ).eval()


def original(name):
    """The original's name of a parameter whose rows are not split."""
    of_text = name.startswith("context_refiner.")
    for theirs, ours in [
        ("time_caption_embed.caption_embedder.", "cap_embedder."),
        ("time_caption_embed.timestep_embedder.linear_1.", "t_embedder.mlp.0."),
        ("time_caption_embed.timestep_embedder.linear_2.", "t_embedder.mlp.2."),
        ("norm_out.linear_1.", "final_layer.adaLN_modulation.1."),
        ("norm_out.linear_2.", "final_layer.linear."),
        (".attn.to_out.0.", ".attention.out."),
        (".attn.norm_q.", ".attention.q_norm."),
        (".attn.norm_k.", ".attention.k_norm."),
        (".linear_1.", ".w1."),
        (".linear_2.", ".w2."),
        (".linear_3.", ".w3."),
        (".ffn_norm1.", ".ffn_norm1."),
        (".norm1.linear.", ".adaLN_modulation.1."),
        (".norm1.norm.", ".attention_norm1."),
        (".norm1." if of_text else "\0", ".attention_norm1."),
        (".norm2.", ".attention_norm2."),
    ]:
        name = name.replace(theirs, ours)
    return name


def originals(module):
    """The shapes of the parameters in the original layout, by their names there."""
    shapes = {}
    for name, parameter in module.named_parameters():
        shape = list(parameter.shape)
        if ".to_q." in name:
            key = module.get_parameter(name.replace(".to_q.", ".to_k."))
            name, shape = name.replace(".attn.to_q.", ".attention.qkv."), [shape[0] + 2 * key.shape[0], shape[1]]
        elif ".to_k." in name or ".to_v." in name:
            continue
        shapes[original(name)] = shape
    return shapes


def converted(tensors, shared):
    """Diffusers' names and tensors; `shared` rows of queries, keys and values are keys, and as many values."""
    fused = {name: tensor for name, tensor in tensors.items() if ".qkv." in name}
    out = convert_lumina2_to_diffusers({name: tensor for name, tensor in tensors.items() if name not in fused})
    for name, tensor in fused.items():
        parts = tensor.split([tensor.shape[0] - 2 * shared, shared, shared])
        for part, to in zip(parts, ["to_q", "to_k", "to_v"]):
            out[name.replace(".attention.qkv.", f".attn.{to}.")] = part
    return out


def fill(module, weights):
    """Sets the parameters by their original names, and returns these with their shapes, and diffusers' modules."""
    shapes = originals(module)
    module.load_state_dict(converted({n: weights(n, tuple(s)) for n, s in shapes.items()}, SHARED * HEAD))
    return shapes, modules(shapes, lambda tensors: converted(tensors, SHARED * HEAD))


def call(module, x, context, timesteps):
    """The velocity of latents of any size."""
    height, width = x.shape[-2:]
    x = torch.nn.functional.pad(x, (0, width % 2, 0, height % 2), mode="circular")
    mask = torch.ones(context.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        out = module(x, 1 - torch.tensor(timesteps), context, mask).sample
    return -out[..., :height, :width]


def published():
    """The file of the one checkpoint: names and shapes, and the number of parameters of each component."""
    shapes = lambda module: {name: list(parameter.shape) for name, parameter in module.named_parameters()}
    with torch.device("meta"):
        transformer = Lumina2Transformer2DModel(cap_feat_dim=2304)
        text = Gemma2Model(Gemma2Config(vocab_size=256_000, hidden_size=2304, num_hidden_layers=26, intermediate_size=9216,
                                        num_attention_heads=8, num_key_value_heads=4, head_dim=256))  # fmt: skip
        vae = AutoencoderKL(**make_key_lists.VAE_16)
    own = originals(transformer)
    back = convert_lumina2_to_diffusers({name: torch.empty(shape, device="meta") for name, shape in own.items()})
    assert {name: list(tensor.shape) for name, tensor in back.items()} == shapes(transformer)
    tensors = {f"model.diffusion_model.{name}": shape for name, shape in own.items()}
    extra = ["model.diffusion_model.norm_final.weight", "text_encoders.gemma2_2b.logit_scale"]
    tensors |= dict(zip(extra, [[2304], []]))
    tensors |= {f"text_encoders.gemma2_2b.transformer.model.{name}": shape for name, shape in shapes(text).items()}
    tensors |= {f"vae.{name}": list(shape) for name, shape in make_key_lists.vae_tensors(vae).items()}
    count = lambda module: sum(parameter.numel() for parameter in module.parameters())
    parameters = {"unet": count(transformer), "clip": count(text), "vae": count(vae)}
    return {"tensors": dict(sorted(tensors.items())), "parameters": parameters, "extra": extra}


def main():
    module = build()
    shapes, modules = fill(module, lambda name, shape: torch.from_numpy(seeded.weight(name, shape, SEED)))
    width = HEADS * HEAD
    config = {
        "kind": "lumina2",
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "patch_size": 2,
        "width": width,
        "heads": HEADS,
        "kv_heads": SHARED,
        "context_dim": CONTEXT,
        "mlp_width": shapes["layers.0.feed_forward.w1.weight"][0],
        "time_width": width,
        "modulation_width": width,
        "refiner_depth": REFINER,
        "depth": DEPTH,
    }
    tensors, calls = {}, []
    for i, (batch, height, width, tokens, timesteps) in enumerate(CALLS):
        sizes = {"x": (batch, CHANNELS, height, width), "context": (batch, tokens, CONTEXT)}
        given = {n: torch.from_numpy(seeded.uniform(f"{n}.{i}", s, SEED)) for n, s in sizes.items()}
        tensors[f"out.{i}"] = call(module, given["x"], given["context"], timesteps).contiguous()
        calls.append(sizes | {"timesteps": timesteps})
    metadata = {"config": config, "params": shapes, "calls": calls, "modules": modules, "seed": SEED}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    save_file(tensors, OUT, metadata)
    keys = published()
    KEYS.write_bytes(gzip.compress(json.dumps(keys, separators=(",", ":")).encode(), 9, mtime=0))
    print(OUT.name, OUT.stat().st_size, config, [(n, t.std().item()) for n, t in tensors.items()])
    print(KEYS.name, KEYS.stat().st_size, keys["parameters"])


if __name__ == "__main__":
    main()
