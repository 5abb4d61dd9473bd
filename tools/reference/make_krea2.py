"""Writes crates/models/tests/fixtures/krea2.safetensors from diffusers' Krea2Transformer2DModel.

    python tools/reference/make_krea2.py

Weights and inputs follow from their names in the original layout (seeded.py); diffusers' own converter brings them to
the module. Patches are packed and places numbered by Krea2Pipeline; odd sides are padded circularly before and cropped
after. The file holds the outputs, and as metadata the configuration, the parameters' names and shapes, the calls, and
diffusers' modules, each with the original's and its first row there.
"""

import json
from pathlib import Path

import torch
from diffusers import Krea2Pipeline, Krea2Transformer2DModel
from diffusers.loaders.single_file_utils import convert_krea2_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file

import seeded
from module_rows import modules

OUT = Path(__file__).parents[2] / "crates/models/tests/fixtures/krea2.safetensors"
SEED = 61
CONFIG = {
    "in_channels": 4,
    "out_channels": 4,
    "patch_size": 2,
    "width": 128,
    "heads": 4,
    "kv_heads": 2,
    "mlp_width": 160,
    "depth": 2,
    "time_frequencies": 64,
    "text_width": 24,
    "text_layers": 3,
    "text_heads": 2,
    "text_kv_heads": 1,
    "text_mlp_width": 40,
    "layerwise_depth": 2,
    "refiner_depth": 1,
}
# Batch, height, width, text tokens, timesteps.
CALLS = [(1, 8, 8, 7, [0.3]), (2, 4, 12, 5, [1.0, 0.45]), (1, 5, 11, 9, [0.02])]
# Latents that the first call looks at, in two ways: `index`, and `at_zero` as without noise.
REFERENCES = [(1, CONFIG["in_channels"], 4, 8), (1, CONFIG["in_channels"], 6, 4)]


def build(config):
    head = config["width"] // config["heads"]
    place = 6 * (head // 16)
    return Krea2Transformer2DModel(
        in_channels=config["in_channels"] * 4,
        num_layers=config["depth"],
        attention_head_dim=head,
        num_attention_heads=config["heads"],
        num_key_value_heads=config["kv_heads"],
        intermediate_size=config["mlp_width"],
        timestep_embed_dim=config["time_frequencies"],
        text_hidden_dim=config["text_width"],
        num_text_layers=config["text_layers"],
        text_num_attention_heads=config["text_heads"],
        text_num_key_value_heads=config["text_kv_heads"],
        text_intermediate_size=config["text_mlp_width"],
        num_layerwise_text_blocks=config["layerwise_depth"],
        num_refiner_text_blocks=config["refiner_depth"],
        axes_dims_rope=(head - 2 * place, place, place),
        rope_theta=1000.0,
        norm_eps=1e-5,
    ).eval()


def originals(config):
    """The shapes of the parameters in the original layout, by their names there."""
    width, text, patch = config["width"], config["text_width"], 4
    shapes = {
        "first.weight": [width, patch * config["in_channels"]],
        "first.bias": [width],
        "tmlp.0.weight": [width, config["time_frequencies"]],
        "tmlp.0.bias": [width],
        "tmlp.2.weight": [width, width],
        "tmlp.2.bias": [width],
        "tproj.1.weight": [6 * width, width],
        "tproj.1.bias": [6 * width],
        "txtfusion.projector.weight": [1, config["text_layers"]],
        "txtmlp.0.scale": [text],
        "txtmlp.1.weight": [width, text],
        "txtmlp.1.bias": [width],
        "txtmlp.3.weight": [width, width],
        "txtmlp.3.bias": [width],
        "last.norm.scale": [width],
        "last.linear.weight": [patch * config["out_channels"], width],
        "last.linear.bias": [patch * config["out_channels"]],
        "last.modulation.lin": [2, width],
    }

    def block(name, width, heads, kv_heads, mlp):
        head = width // heads
        shapes.update(
            {
                f"{name}.prenorm.scale": [width],
                f"{name}.postnorm.scale": [width],
                f"{name}.attn.wq.weight": [width, width],
                f"{name}.attn.wk.weight": [kv_heads * head, width],
                f"{name}.attn.wv.weight": [kv_heads * head, width],
                f"{name}.attn.gate.weight": [width, width],
                f"{name}.attn.qknorm.qnorm.scale": [head],
                f"{name}.attn.qknorm.knorm.scale": [head],
                f"{name}.attn.wo.weight": [width, width],
                f"{name}.mlp.gate.weight": [mlp, width],
                f"{name}.mlp.up.weight": [mlp, width],
                f"{name}.mlp.down.weight": [width, mlp],
            }
        )

    for n in range(config["depth"]):
        shapes[f"blocks.{n}.mod.lin"] = [6 * width]
        block(f"blocks.{n}", width, config["heads"], config["kv_heads"], config["mlp_width"])
    of_text = (text, config["text_heads"], config["text_kv_heads"], config["text_mlp_width"])
    for n in range(config["layerwise_depth"]):
        block(f"txtfusion.layerwise_blocks.{n}", *of_text)
    for n in range(config["refiner_depth"]):
        block(f"txtfusion.refiner_blocks.{n}", *of_text)
    return shapes


def canonical(name):
    """A parameter that a module owns itself is called as its layer, and as itself."""
    return f"{name}.lin" if name.endswith(".lin") else name


def call(module, x, context, timesteps, references=(), at_zero=False):
    """The velocity of latents of any size; the context's layers lie side by side. References are latents behind the noisy
    one with an index each, and are modulated as at time 0 where that is asked for."""
    height, width = x.shape[-2:]
    x = torch.nn.functional.pad(x, (0, width % 2, 0, height % 2), mode="circular")
    batch, channels, rows, columns = x.shape

    class Packing:
        patch_size, vae_scale_factor = 2, 1

    packed = Krea2Pipeline._pack_latents(Packing, x, batch, channels, rows, columns)
    places = Krea2Pipeline.prepare_position_ids(context.shape[1], rows // 2, columns // 2, "cpu")
    layers = module.config.num_text_layers
    patches = packed.shape[1]
    for index, latent in enumerate(references, 1):
        tall, wide = latent.shape[-2:]
        packed = torch.cat([packed, Krea2Pipeline._pack_latents(Packing, latent, batch, channels, tall, wide)], 1)
        ids = Krea2Pipeline.prepare_position_ids(0, tall // 2, wide // 2, "cpu")
        ids[:, 0] = index
        places = torch.cat([places, ids])

    def modulate(_, __, shared):
        clean = module.time_embed(torch.zeros(batch), dtype=shared.dtype)
        clean = torch.nn.functional.linear(
            torch.nn.functional.gelu(clean, approximate="tanh"), module.time_mod_proj.weight, module.time_mod_proj.bias
        )
        looked_at = packed.shape[1] - patches
        return torch.cat([shared.expand(-1, context.shape[1] + patches, -1), clean.expand(-1, looked_at, -1)], 1)

    hook = module.time_mod_proj.register_forward_hook(modulate) if at_zero else None
    with torch.no_grad():
        out = module(packed, context.unflatten(2, (layers, -1)), torch.tensor(timesteps), places).sample[:, :patches]
    if hook:
        hook.remove()
    return Krea2Pipeline._unpack_latents(Packing, out, rows, columns)[:, :, 0, :height, :width]


def main():
    module, shapes = build(CONFIG), originals(CONFIG)
    weights = {n: torch.from_numpy(seeded.weight(canonical(n), tuple(s), SEED)) for n, s in shapes.items()}
    module.load_state_dict(convert_krea2_transformer_checkpoint_to_diffusers(weights))
    tensors, calls = {}, []
    for i, (batch, height, width, tokens, timesteps) in enumerate(CALLS):
        states = CONFIG["text_layers"] * CONFIG["text_width"]
        sizes = {"x": (batch, CONFIG["in_channels"], height, width), "context": (batch, tokens, states)}
        given = {n: torch.from_numpy(seeded.uniform(f"{n}.{i}", s, SEED)) for n, s in sizes.items()}
        tensors[f"out.{i}"] = call(module, given["x"], given["context"], timesteps).contiguous()
        calls.append(sizes | {"timesteps": timesteps})
        if i == 0:
            references = [torch.from_numpy(seeded.uniform(f"reference.{n}", s, SEED)) for n, s in enumerate(REFERENCES)]
            for method, at_zero in [("index", False), ("at_zero", True)]:
                out = call(module, given["x"], given["context"], timesteps, references, at_zero)
                tensors[method] = out.contiguous()
    params = {canonical(n): s for n, s in shapes.items()}
    rows = modules(shapes, convert_krea2_transformer_checkpoint_to_diffusers)
    metadata = {"config": CONFIG, "params": params, "calls": calls, "modules": rows, "seed": SEED}
    metadata["references"] = REFERENCES
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, {n: t.std().item() for n, t in tensors.items()})


if __name__ == "__main__":
    main()
