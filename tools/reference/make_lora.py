"""Writes crates/models/tests/fixtures/lora_*.safetensors: merged weights of tiny models with adapters;
and crates/checkpoint/tests/fixtures/keys/diffusers-names.json.gz: two names for each layer.

    pip install torch diffusers transformers peft safetensors lycoris-lora
    python tools/reference/make_lora.py [NAME…]

Base weights and adapters follow from their names (seeded.py). The adapters are applied and merged by
the classes of PEFT, diffusers (its loader of kohya's format) or LyCORIS. The merged weights go
back to the names and the fused rows of the original checkpoints by way of diffusers' own converters, which
are given the numbers of the elements instead of their values. A file holds, for each changed
parameter P seen as a matrix, `probe:P` = P · seeded vector of the name `probe:P`; for some
models the network's outputs; and as metadata the checkpoint's keys and the LoRA files' keys with
their shapes.
"""

import copy
import inspect
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import peft
import torch
from diffusers import FluxControlPipeline, FluxPipeline, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from diffusers.loaders import lora_conversion_utils as lora_converters
from diffusers.loaders import lora_pipeline
from diffusers.loaders import single_file_utils as converters
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

import make_key_lists as keys
import seeded

FIXTURES = Path(__file__).parents[2] / "crates/models/tests/fixtures"
SEED = 5
DIFFUSION = "model.diffusion_model."
# A changed parameter must stand out from the tolerance of the tests, 1e-4, in the probe.
VISIBLE = 1e-3


def values(name, shape, seed=SEED, gain=1):
    """Seeded values, times a power of two: products of many factors would be too small to see."""
    return torch.from_numpy(seeded.weight(name, tuple(shape), seed)) * gain


# Models.


class Part:
    """A module with seeded weights, and where each of its elements is in the original layout.

    `params` are the canonical parameters and their shapes, `keys` the tensors of the checkpoint.
    """

    def __init__(self, module, params, keys, convert, seed=SEED):
        self.module, self.params, self.keys = module.eval(), params, keys
        self.convert = convert
        self.base = torch.cat([values(name, shape, seed).flatten() for name, shape in params.items()])
        at, numbers = 0, {}
        for name, shape in params.items():
            count = torch.Size(shape).numel()
            numbers[name] = torch.arange(at, at + count).reshape(shape)
            at += count
        self.numbers = convert(numbers)
        module.load_state_dict({name: self.base[ids] for name, ids in self.numbers.items()})

    def merged(self, module):
        """The module's weights in the original layout: canonical name to tensor."""
        flat = self.base.clone()
        for name, tensor in module.state_dict().items():
            flat[self.numbers[name].flatten()] = tensor.detach().flatten()
        sizes = [torch.Size(shape).numel() for shape in self.params.values()]
        parts = zip(self.params.items(), flat.split(sizes), self.base.split(sizes))
        return {n: (new.reshape(s), old.reshape(s)) for (n, s), new, old in parts if not torch.equal(new, old)}


def unet(config):
    module = UNet2DConditionModel(**config)
    params = keys.unet_tensors(module)
    convert = lambda ids: converters.convert_ldm_unet_checkpoint(
        {DIFFUSION + name: tensor for name, tensor in ids.items()}, dict(module.config)
    )
    return Part(module, params, keys.prefixed(DIFFUSION, params), convert)


def resized(module, name, sizes):
    """A converter of a module that knows published sizes only, with others in their places."""
    source = inspect.getsource(getattr(module, name))
    for published, own in sizes.items():
        assert published in source, published
        source = source.replace(published, own)
    scope = dict(vars(module))
    exec(source, scope)
    return scope[name]


def flux(config, seed=SEED):
    module = FluxTransformer2DModel(**config)
    params = keys.flux_tensors(module)
    width = config["attention_head_dim"] * config["num_attention_heads"]
    sizes = {"inner_dim = 3072": f"inner_dim = {width}"}
    convert = resized(converters, "convert_flux_transformer_checkpoint_to_diffusers", sizes)
    return Part(module, params, keys.prefixed(DIFFUSION, params), lambda ids: convert(dict(ids)), seed)


def sd3(config):
    module = SD3Transformer2DModel(**config)
    params = keys.sd3_tensors(module)
    convert = lambda ids: converters.convert_sd3_transformer_checkpoint_to_diffusers(dict(ids))
    return Part(module, params, keys.prefixed(DIFFUSION, params), convert)


def clip(name, config, prefix, open_clip=False):
    module = CLIPTextModelWithProjection(CLIPTextConfig(**config, vocab_size=64, max_position_embeddings=7))
    shapes = {n: list(p.shape) for n, p in module.named_parameters()}
    if not open_clip:
        del shapes["text_projection.weight"]
        module.text_projection = torch.nn.Identity()
    stored = {n: torch.empty(s, device="meta") for n, s in shapes.items()}
    stored = keys.open_clip_tensors(module) if open_clip else {n: list(t.shape) for n, t in stored.items()}
    params = {f"{name}.{n}": shape for n, shape in shapes.items()}
    convert = lambda ids: {n.removeprefix(f"{name}."): t for n, t in ids.items()}
    return Part(module, params, keys.prefixed(prefix, stored), convert)


def sd1():
    return {
        "unet": unet(keys.TINY_SD1),
        "text_encoder": clip("clip_l", keys.TINY_CLIP, "cond_stage_model.transformer."),
    }


def sdxl():
    return {
        "unet": unet(keys.TINY_SDXL),
        "text_encoder": clip("clip_l", keys.TINY_CLIP, "conditioner.embedders.0.transformer."),
        "text_encoder_2": clip(
            "clip_g", keys.TINY_OPEN_CLIP, "conditioner.embedders.1.model.", open_clip=True
        ),
    }


# Names of modules in the files.

KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
KOHYA_XL = KOHYA | {"text_encoder": "lora_te1_"}
# PEFT's names of an adapter's tensors to kohya's.
KOHYA_TENSORS = [
    ("lora_A.weight", "lora_down.weight"),
    ("lora_B.weight", "lora_up.weight"),
    ("lora_magnitude_vector.weight", "dora_scale"),
    ("lora_magnitude_vector", "dora_scale"),
]
ADAPTER = re.compile(r"\.(lora_|hada_|lokr_)")


def split(key):
    """`module`, `tensor` of a key of PEFT's."""
    at = ADAPTER.search(key).start()
    return key.removeprefix("base_model.model.")[: at - len("base_model.model.")], key[at + 1 :]


def kohya(prefixes, rename=lambda name: name):
    def name(component, module, tensor):
        tensor = dict(KOHYA_TENSORS).get(tensor, tensor)
        module = rename(module) if component == "unet" else module
        return f"{prefixes[component]}{module.replace('.', '_')}.{tensor}"

    return name


def dotted(component, module, tensor):
    return f"{component}.{module}.{tensor}"


def raw_peft(component, module, tensor):
    return f"base_model.model.{module}.{tensor}"


def original(part):
    """Original names, with ComfyUI's prefix."""
    rename = lambda module: keys.unet_name(f"{module}.weight", part.module).removesuffix(".weight")
    return lambda component, module, tensor: f"diffusion_model.{rename(module)}.{tensor}"


# Adapters.


def targets(module, skip=()):
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    found = [name for name, leaf in module.named_modules() if isinstance(leaf, kinds)]
    return [name for name in found if not any(part in name for part in skip)]


def fill(model, component, name, seed, gain):
    """Seeds the adapter of a PEFT model; the file's tensors by key."""
    own = get_peft_model_state_dict(model)
    tensors = {name(component, *split(key)): tensor.shape for key, tensor in own.items()}
    new = [values(key, shape, seed, gain) for key, shape in tensors.items()]
    set_peft_model_state_dict(model, dict(zip(own, new)))
    again = get_peft_model_state_dict(model)
    assert all(torch.equal(again[key], tensor) for key, tensor in zip(own, new))
    return dict(zip(tensors, new))


def scalings(model):
    """Each adapted module's scale, by its name."""
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "scaling", None), dict) and "default" in module.scaling
    }


def patterned(module, every):
    """Ranks and alphas of their own for every n-th target."""
    chosen = targets(module)[::every]
    return {
        "rank_pattern": {name: 2 + at % 3 for at, name in enumerate(chosen)},
        "alpha_pattern": {name: 1.5 + at % 4 for at, name in enumerate(chosen)},
    }


def by_peft(parts, config, name, seed=SEED, alphas=None, gain=1):
    """Adapters of PEFT's, merged by PEFT: (file's tensors, alphas, merged modules)."""
    tensors, constants, merged = {}, {}, {}
    for component, part in parts.items():
        model = peft.get_peft_model(part.module, config(part.module))
        model.eval()
        tensors |= fill(model, component, name, seed, gain)
        for module, layer in scalings(model).items() if alphas else ():
            alpha = alphas(layer)
            if alpha is not None:
                constants[name(component, module, "alpha")] = float(alpha)
        merged[component] = model.merge_and_unload()
    return tensors, constants, merged


def lora(**options):
    options = {"r": 4, "lora_alpha": 3} | options
    return lambda module: peft.LoraConfig(**{"target_modules": targets(module)} | options)


def loha(module):
    return peft.LoHaConfig(
        r=3, alpha=2, target_modules=targets(module), use_effective_conv2d=True, init_weights=False
    )


def lokr(module):
    # A rank as large as the second factor leaves that whole.
    whole = {name: 16 for name in targets(module)[::4]}
    return peft.LoKrConfig(
        r=2, alpha=3, rank_pattern=whole, target_modules=targets(module), init_weights=False,
        use_effective_conv2d=True, decompose_both=True,
    )


# Fixtures.


class Fixture:
    def __init__(self, name, parts):
        self.name, self.parts = name, parts
        self.tensors, self.loras, self.calls = {}, [], []

    def lora(self, tensors, constants=None, metadata=None, strengths=(1, 1), seed=SEED, gain=1):
        constants = constants or {}
        for key, tensor in tensors.items():
            assert key in constants or torch.equal(tensor, values(key, tensor.shape, seed, gain)), key
        self.loras.append(
            {
                "tensors": {key: list(tensor.shape) for key, tensor in tensors.items()},
                "values": constants,
                "metadata": metadata or {},
                "strengths": strengths,
                "seed": seed,
                "gain": gain,
            }
        )

    def merged(self, modules):
        """Takes the modules' weights as the expected ones."""
        for component, module in modules.items():
            changed = self.parts[component].merged(module)
            assert changed, component
            for name, (new, old) in changed.items():
                probe = f"probe:{name}"
                rows = lambda tensor: tensor.reshape(tensor.shape[0], -1).double()
                vector = torch.from_numpy(seeded.uniform(probe, (rows(new).shape[1],), SEED)).double()
                new, old = rows(new) @ vector, rows(old) @ vector
                assert (new - old).abs().max() > VISIBLE * new.abs().max(), name
                self.tensors[probe] = new.float()

    def outputs(self, module, y=None):
        """Runs the merged UNet."""
        x, context, timesteps = (2, 4, 8, 8), (2, 5, module.config.cross_attention_dim), [3.0, 801.0]
        given = {n: torch.from_numpy(seeded.uniform(n, s, SEED)) for n, s in [("x", x), ("context", context)]}
        added = None
        if y is not None:
            pooled = torch.from_numpy(seeded.uniform("pooled", (2, y), SEED))
            times = torch.tensor([[512.0, 768, 0, 16, 1024, 1024]] * 2)
            added = {"text_embeds": pooled, "time_ids": times}
            embedded = module.add_time_proj(times.flatten()).reshape(2, -1)
            self.tensors["y"] = torch.cat([pooled, embedded], 1).contiguous()
        with torch.no_grad():
            out = module(given["x"], torch.tensor(timesteps), given["context"], added_cond_kwargs=added)
        self.tensors["out"] = out.sample.contiguous()
        self.calls.append({"x": x, "context": context, "timesteps": timesteps})

    def outputs_of_mmdit(self, module):
        """Runs the merged MMDiT."""
        config, timesteps = module.config, [3.0, 801.0]
        shapes = {
            "x": (2, config.in_channels, 8, 6),
            "context": (2, 5, config.joint_attention_dim),
            "vector": (2, config.pooled_projection_dim),
        }
        given = [torch.from_numpy(seeded.uniform(name, shape, SEED)) for name, shape in shapes.items()]
        with torch.no_grad():
            self.tensors["out"] = module(*given, torch.tensor(timesteps)).sample.contiguous()
        self.calls.append(shapes | {"timesteps": timesteps})

    def outputs_of_flux(self, module, channels):
        """Runs the merged Flux transformer on latents of so many channels."""
        shapes = {"x": (2, channels, 6, 4), "context": (2, 5, 96), "vector": (2, 64)}
        given = {n: torch.from_numpy(seeded.uniform(n, s, SEED)) for n, s in shapes.items()}
        ids = FluxPipeline._prepare_latent_image_ids(2, 3, 2, "cpu", torch.float32)
        module.pos_embed.axes_dim = (4, 14, 14)  # crates/models/src/flux/rope.rs
        with torch.no_grad():
            out = module(
                hidden_states=FluxPipeline._pack_latents(given["x"], 2, channels, 6, 4),
                encoder_hidden_states=given["context"], pooled_projections=given["vector"],
                timestep=torch.tensor([0.25, 0.875]), guidance=torch.tensor([3.5, 2.0]),
                img_ids=ids, txt_ids=torch.zeros(5, 3),
            ).sample
        self.tensors["out"] = out.reshape(2, 3, 2, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(2, 16, 6, 4)
        self.calls.append({"shapes": shapes, "timesteps": [0.25, 0.875], "guidance": [3.5, 2.0]})

    def write(self):
        checkpoint = {k: s for part in self.parts.values() for k, s in part.keys.items()}
        metadata = {
            "checkpoint": checkpoint, "loras": self.loras, "calls": self.calls, "seed": SEED
        }
        metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()}
        path = FIXTURES / f"lora_{self.name}.safetensors"
        save_file({k: t.contiguous() for k, t in sorted(self.tensors.items())}, path, metadata)
        print(path.name, path.stat().st_size, len(self.tensors))


def only(parts, *components):
    return {component: parts[component] for component in components}


def peft_config(parts, config):
    """PEFT's configuration as diffusers writes it into a file's metadata."""
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, _pack_dict_with_prefix

    packed = {}
    for component, part in parts.items():
        own = config(part.module).to_dict()
        own = {key: list(value) if isinstance(value, set) else value for key, value in own.items()}
        packed |= _pack_dict_with_prefix(own, component)
    wanted = re.compile(r"\.(r|lora_alpha|rank_pattern|alpha_pattern|use_rslora)$")
    packed = {key: value for key, value in packed.items() if wanted.search(key)}
    return {LORA_ADAPTER_METADATA_KEY: json.dumps(packed, indent=2, sort_keys=True)}


def diffusers_sd1(name):
    """diffusers' names, with ranks and alphas of their own in the metadata."""
    fixture = Fixture(name, sd1())
    config = lambda module: lora(**patterned(module, 5))(module)
    metadata = peft_config(fixture.parts, config)
    tensors, _, merged = by_peft(fixture.parts, config, dotted)
    fixture.lora(tensors, metadata=metadata)
    fixture.merged(merged)
    return fixture


def rslora_sdxl(name):
    """diffusers' names for SDXL, two text encoders; alpha over the root of the rank; biases.

    PEFT adapts a bias only where there is one. Half of the UNet keeps the file small.
    """
    fixture = Fixture(name, sdxl())
    def biased(module):
        found = [name for name in targets(module) if module.get_submodule(name).bias is not None]
        return [name for name in found if "resnets" not in name and ".ff." not in name]

    config = lambda module: lora(
        use_rslora=True, lora_bias=True, target_modules=biased(module)
    )(module)
    metadata = peft_config(fixture.parts, config)
    tensors, _, merged = by_peft(fixture.parts, config, dotted)
    fixture.lora(tensors, metadata=metadata)
    fixture.merged(merged)
    return fixture


def by_diffusers(fixture, files, mixin, **options):
    """Loads kohya's format by diffusers' loader and fuses it into the modules."""
    for at, (tensors, constants, strength) in enumerate(files):
        state = dict(tensors) | {key: torch.tensor(value) for key, value in constants.items()}
        state, alphas, *_ = mixin.lora_state_dict(state, **options)
        unet = fixture.parts["unet"].module
        unet.load_lora_adapter(dict(state), prefix="unet", network_alphas=alphas, adapter_name=f"file{at}")
        for component in ["text_encoder", "text_encoder_2"]:
            if component in fixture.parts:
                mixin.load_lora_into_text_encoder(
                    dict(state), alphas, fixture.parts[component].module, prefix=component, adapter_name=f"file{at}"
                )
        unet.set_adapters([f"file{at}"])
        unet.fuse_lora(lora_scale=strength)
        unet.unload_lora()
    return {"unet": unet}


def kohya_files(module, rename, prefixes, files):
    """Files in kohya's format for a UNet: the tensors, the alphas."""
    chosen = [name for name in targets(module) if "attentions" in name or "resnets" in name or "samplers" in name]
    for at, strength in files:
        config = lora(target_modules=chosen[at:], r=4 + 2 * at)
        tensors, constants, _ = by_peft(
            {"unet": SimpleNamespace(module=copy.deepcopy(module))},
            config, kohya(prefixes, rename), SEED + at, alphas=lambda layer: 1.0 + layer.r["default"] / 3,
        )
        yield tensors, constants, strength


def kohya_sd1(name):
    """kohya's names, two files with a strength each, fused by diffusers; and what the UNet makes of it."""
    fixture = Fixture(name, only(sd1(), "unet"))
    module = fixture.parts["unet"].module
    files = list(kohya_files(module, lambda name: name, KOHYA, [(0, 0.75), (1, -0.5)]))
    for at, (tensors, constants, strength) in enumerate(files):
        fixture.lora(tensors, constants, strengths=(strength, 1), seed=SEED + at)
    merged = by_diffusers(fixture, files, StableDiffusionLoraLoaderMixin)
    fixture.merged(merged)
    fixture.outputs(merged["unet"])
    return fixture


def kohya_sdxl(name):
    """kohya's names for SDXL, which are those of the original blocks."""
    fixture = Fixture(name, only(sdxl(), "unet"))
    module = fixture.parts["unet"].module
    rename = lambda name: keys.unet_name(f"{name}.weight", module).removesuffix(".weight")
    files = list(kohya_files(module, rename, KOHYA_XL, [(0, 1.25)]))
    for tensors, constants, strength in files:
        fixture.lora(tensors, constants, strengths=(strength, 1))
    merged = by_diffusers(
        fixture, files, StableDiffusionXLLoraLoaderMixin, unet_config=module.config
    )
    fixture.merged(merged)
    fixture.outputs(merged["unet"], y=keys.TINY_SDXL["projection_class_embeddings_input_dim"] - 6 * 256)
    return fixture


def kohya_text(name):
    """kohya's names for SDXL's two text encoders, merged by PEFT."""
    fixture = Fixture(name, only(sdxl(), "text_encoder", "text_encoder_2"))
    tensors, constants, merged = by_peft(
        fixture.parts, lora(r=3), kohya(KOHYA_XL), alphas=lambda layer: layer.lora_alpha["default"]
    )
    fixture.lora(tensors, constants)
    fixture.merged(merged)
    return fixture


def dora_sd1(name):
    """DoRA as PEFT saves it."""
    fixture = Fixture(name, only(sd1(), "unet"))
    tensors, constants, merged = by_peft(fixture.parts, lora(use_dora=True, lora_alpha=4), raw_peft)
    fixture.lora(tensors)
    fixture.merged(merged)
    return fixture


def loha_sd1(name):
    fixture = Fixture(name, sd1())
    tensors, constants, merged = by_peft(
        fixture.parts, loha, kohya(KOHYA), alphas=lambda layer: layer.alpha["default"], gain=2
    )
    fixture.lora(tensors, constants, gain=2)
    fixture.merged(merged)
    return fixture


def lokr_sd1(name):
    """LoKr under original names. Where nothing is factored the format has no scale, PEFT has one."""
    fixture = Fixture(name, only(sd1(), "unet"))
    part = fixture.parts["unet"]

    def alpha(layer):
        if "default" in layer.lokr_w1 and "default" in layer.lokr_w2:
            layer.scaling["default"] = 1.0
            return None
        return layer.alpha["default"]

    tensors, constants, merged = by_peft(fixture.parts, lokr, original(part), alphas=alpha, gain=2)
    kinds = {key.rsplit(".", 1)[1] for key in tensors}
    assert kinds == {f"lokr_{kind}" for kind in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")}, kinds
    fixture.lora(tensors, constants, gain=2)
    fixture.merged(merged)
    return fixture


def lycoris(name, parts, gain=1, alpha=2, **options):
    """LyCORIS' own networks, merged by LyCORIS."""
    from lycoris import create_lycoris

    fixture = Fixture(name, parts)
    tensors, constants, merged = {}, {}, {}
    for component, part in parts.items():
        network = create_lycoris(part.module, 1.0, linear_dim=4, linear_alpha=alpha, **options)
        network.apply_to()
        state, new = network.state_dict(), {}
        for key, tensor in state.items():
            if key.endswith(".alpha"):
                constants[key], new[key] = tensor.item(), tensor
            else:
                new[key] = values(key, tensor.shape, SEED, gain)
                tensors[key] = new[key]
        missing, unexpected = network.load_state_dict(new, strict=False)
        assert not unexpected and not missing, (missing, unexpected)
        network.restore()
        with torch.no_grad():
            network.merge_to(1.0)
        merged[component] = part.module
    fixture.lora(tensors, constants, gain=gain)
    fixture.merged(merged)
    return fixture


def transformer(name, part, **options):
    """The diffusers names of transformers, whose originals fuse layers."""
    fixture = Fixture(name, {"transformer": part})
    tensors, _, merged = by_peft(fixture.parts, lora(lora_alpha=4, **options), dotted)
    fixture.lora(tensors)
    fixture.merged(merged)
    return fixture


def diffusers_sd3(name):
    """diffusers' names for SD3, as ai-toolkit writes them too; and what the MMDiT makes of it."""
    fixture = transformer(name, sd3(keys.TINY_SD3))
    fixture.outputs_of_mmdit(fixture.parts["transformer"].module)
    return fixture


def kohya_sd3(name):
    """kohya's names for SD3, which are those of the original's fused layers, merged by the format's formula."""
    fixture = Fixture(name, {"transformer": sd3(keys.TINY_SD3)})
    part = fixture.parts["transformer"]
    sizes = [torch.Size(shape).numel() for shape in part.params.values()]
    weights = {n: w.reshape(s) for (n, s), w in zip(part.params.items(), part.base.split(sizes))}
    tensors, alphas = {}, {}
    layers = [n for n, s in part.params.items() if n.endswith(".weight") and len(s) > 1]
    for at, weight in enumerate(layers):
        outputs, inputs, *kernel = part.params[weight]
        rank, alpha = 3 + at % 3, 1.5 + at % 4
        module = f"lora_unet_{weight.removesuffix('.weight').replace('.', '_')}"
        down = values(f"{module}.lora_down.weight", (rank, inputs, *kernel))
        up = values(f"{module}.lora_up.weight", (outputs, rank, *(1 for _ in kernel)))
        tensors |= {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up}
        alphas[f"{module}.alpha"] = alpha
        change = up.flatten(1).double() @ down.flatten(1).double() * (alpha / rank)
        weights[weight] = (weights[weight].double() + change.reshape(part.params[weight])).float()
    part.module.load_state_dict(part.convert(weights))
    fixture.lora(tensors, alphas)
    fixture.merged({"transformer": part.module})
    fixture.outputs_of_mmdit(part.module)
    return fixture


def onetrainer_sd3(name):
    """OneTrainer's names for SD3: diffusers' with underscores and alphas."""
    fixture = Fixture(name, {"transformer": sd3(keys.TINY_SD3)})
    rename = kohya({"transformer": "lora_transformer_"})
    tensors, alphas, merged = by_peft(
        fixture.parts, lora(r=2), rename, alphas=lambda layer: layer.lora_alpha["default"]
    )
    fixture.lora(tensors, alphas)
    fixture.merged(merged)
    return fixture


def kohya_flux(name):
    """kohya's names for Flux, and the original ones with ComfyUI's prefix: fused layers, which diffusers' converter
    splits; and what the transformer makes of both files."""
    part = flux(keys.TINY_FLUX)
    fixture = Fixture(name, {"unet": part})
    module, width = part.module, keys.TINY_FLUX["attention_head_dim"] * keys.TINY_FLUX["num_attention_heads"]
    sizes = {"[3072, 3072, 3072, 12288]": f"[{width}, {width}, {width}, {4 * width}]"}
    convert = resized(lora_converters, "_convert_kohya_flux_lora_to_diffusers", sizes)
    layers = [key.removesuffix(".weight") for key, shape in part.params.items() if "_blocks." in key and len(shape) == 2]
    forms = [
        (lambda layer: "lora_unet_" + layer.replace(".", "_"), ["lora_down", "lora_up"], 3, 0.75, "{}.alpha"),
        (lambda layer: "diffusion_model." + layer, ["lora_A", "lora_B"], 5, -0.5, None),
    ]
    for at, (rename, (down, up), rank, strength, alpha) in enumerate(forms):
        tensors, constants = {}, {}
        for number, layer in enumerate(layers[at:]):
            rows, columns = part.params[f"{layer}.weight"]
            for tensor, shape in [(down, (rank, columns)), (up, (rows, rank))]:
                key = f"{rename(layer)}.{tensor}.weight"
                tensors[key] = values(key, shape, SEED + at)
            if alpha:
                constants[alpha.format(rename(layer))] = 1.0 + number % 3
        fixture.lora(tensors, constants, strengths=(strength, 1), seed=SEED + at)
        kohya_tensor = lambda key: key.replace("lora_A", "lora_down").replace("lora_B", "lora_up")
        state = {kohya_tensor(key): tensor for key, tensor in tensors.items()}
        state = convert(state | {key: torch.tensor(value) for key, value in constants.items()})
        module.load_lora_adapter(dict(state), prefix="transformer", adapter_name=f"file{at}")
        module.set_adapters([f"file{at}"])
        module.fuse_lora(lora_scale=strength)
        module.unload_lora()
    fixture.merged({"unet": module})
    fixture.outputs_of_flux(module, 16)
    return fixture


def control_flux(name):
    """Black Forest Labs' layout of a control LoRA, which widens what the transformer takes to a second latent, sets the
    norms of queries and keys and adds to biases; loaded by diffusers' pipeline, and what the transformer makes of it."""
    part = flux(keys.TINY_FLUX)
    fixture = Fixture(name, {"unet": part})
    module, width = part.module, keys.TINY_FLUX["attention_head_dim"] * keys.TINY_FLUX["num_attention_heads"]
    rank, strength, tensors = 4, 0.75, {}
    for key, shape in part.params.items():
        layer, kind = key.rsplit(".", 1)
        if kind == "scale":
            tensors[key] = values(key, shape)
        elif kind == "bias":
            tensors[f"{layer}.lora_B.bias"] = values(f"{layer}.lora_B.bias", shape)
        else:
            rows, columns = shape
            columns = 2 * columns if layer == "img_in" else columns
            for tensor, sides in [("lora_A", (rank, columns)), ("lora_B", (rows, rank))]:
                tensors[f"{layer}.{tensor}.weight"] = values(f"{layer}.{tensor}.weight", sides)
    fixture.lora(tensors, strengths=(strength, 1))
    config = module.config
    sizes = {
        "inner_dim = 3072": f"inner_dim = {width}",
        "num_layers = 19": f"num_layers = {config.num_layers}",
        "num_single_layers = 38": f"num_single_layers = {config.num_single_layers}",
    }
    published = resized(lora_converters, "_convert_bfl_flux_control_lora_to_diffusers", sizes)

    def convert(state):
        state = published(state)
        # The converter swaps the halves of the last modulation's rows in both factors; the first one's are ranks.
        key = "transformer.norm_out.linear.lora_A.weight"
        return state | {key: lora_converters.swap_scale_shift(state[key])}

    lora_pipeline._convert_bfl_flux_control_lora_to_diffusers = convert
    pipe = FluxControlPipeline(None, None, None, None, None, None, module)
    pipe.load_lora_weights(dict(tensors), adapter_name="control")
    pipe.set_adapters(["control"], [strength])
    fixture.outputs_of_flux(pipe.transformer, 32)
    return fixture


SD1_UNET = lambda: only(sd1(), "unet")
CASES = {case.__name__: case for case in [
    diffusers_sd1, rslora_sdxl, kohya_sd1, kohya_sdxl, kohya_text, dora_sd1, loha_sd1, lokr_sd1,
    diffusers_sd3, kohya_sd3, onetrainer_sd3, kohya_flux, control_flux,
]} | {
    "tucker_sd1": lambda name: lycoris(
        name, SD1_UNET(), algo="locon", use_tucker=True, train_norm=True
    ),
    # DoRA by LyCORIS has another norm than ComfyUI's: make_lora_weightwise.py.
    "full_sd1": lambda name: lycoris(name, SD1_UNET(), algo="full"),
    "flux": lambda name: transformer(name, flux(keys.TINY_FLUX), use_dora=True),
}


def names():
    """diffusers' names of the leaf modules of published UNets, with the original ones."""
    published = {
        "sd15": keys.SD1, "sd21-v": keys.SD2, "sdxl-base": keys.SDXL, "sdxl-ssd1b": keys.SSD_1B,
        "sdxl-refiner": keys.REFINER,
    }
    found = {}
    for name, config in published.items():
        module = keys.meta(lambda: UNet2DConditionModel(**config))
        original = lambda leaf: keys.unet_name(f"{leaf}.weight", module).removesuffix(".weight")
        found[name] = {leaf: original(leaf) for leaf in keys.leaves(module)}
    keys.write("diffusers-names", found)
    keys.write("flux-names", flux_names())


def flux_names():
    """Which rows of which original layer a leaf module of diffusers' transformer is: [layer, [first rows]]; more than
    one first row where the halves are swapped."""
    part = flux(keys.TINY_FLUX)
    at, starts = 0, {}
    for name, shape in part.params.items():
        starts[at] = (name.rsplit(".", 1)[0], torch.Size(shape[1:]).numel())
        at += torch.Size(shape).numel()
    found = {}
    for name, ids in part.numbers.items():
        if name.endswith(".weight"):
            rows = ids.reshape(ids.shape[0], -1)[:, 0]
            start = max(start for start in starts if start <= rows.min())
            layer, columns = starts[start]
            rows = (rows - start) // columns
            jumps = [0] + [i + 1 for i, step in enumerate(rows.diff()) if step != 1]
            found[name.removesuffix(".weight")] = [layer, [int(rows[i]) for i in jumps]]
    return found


def main():
    FIXTURES.mkdir(exist_ok=True)
    if not sys.argv[1:] or "names" in sys.argv[1:]:
        names()
    for name, case in CASES.items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            fixture = case(name)
            fixture.write()


if __name__ == "__main__":
    main()
