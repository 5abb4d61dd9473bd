"""Writes crates/workflow/tests/fixtures/pipeline.safetensors: what PyTorch makes of the shipped checkpoint.

    python tools/reference/make_pipeline.py

The networks are transformers' and diffusers' own classes around the checkpoint's weights (see
tools/train_tiny/networks.py), the samplers and schedules k-diffusion's. Workflows are read from
examples/, so that both sides run the same file. Needs what tools/train_tiny needs, and k-diffusion.

For every sampler that puts no noise in, the latent after 20 steps; for two examples, the 8-bit
picture.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

# The package's own start imports evaluation code, whose requirements sampling does not need.
package = types.ModuleType("k_diffusion")
package.__path__ = [str(Path(importlib.util.find_spec("k_diffusion").origin).parent)]
sys.modules["k_diffusion"] = package
from k_diffusion import external, sampling  # noqa: E402

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools/train_tiny"))
from networks import SCALING_FACTOR, Words, load  # noqa: E402

CHECKPOINT = ROOT / "models/checkpoints/tiny-shapes.safetensors"
FIXTURE = ROOT / "crates/workflow/tests/fixtures/pipeline.safetensors"
EXAMPLES = ["txt2img_distorch2", "img2img"]

# ComfyUI's name: k-diffusion's function.
SAMPLERS = {
    "euler": sampling.sample_euler,
    "heun": sampling.sample_heun,
    "dpm_2": sampling.sample_dpm_2,
    "lms": sampling.sample_lms,
    "dpm_fast": sampling.sample_dpm_fast,
    "dpm_adaptive": sampling.sample_dpm_adaptive,
    "dpmpp_2m": sampling.sample_dpmpp_2m,
}
# These leave out the last noise level before 0.
DISCARDS = {"dpm_2"}


class Pipeline:
    """The checkpoint, and what ComfyUI's nodes do with it."""

    def __init__(self):
        self.text, self.unet, self.vae = load(CHECKPOINT)
        self.words = Words()
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alphas = torch.cumprod(1 - betas, 0).float()
        eps = lambda x, t, context: self.unet(x, t, context).sample
        wrapper = type("Denoiser", (external.DiscreteEpsDDPMDenoiser,), {
            "get_eps": lambda self, *args, **kwargs: self.inner_model(*args, **kwargs)
        })
        self.denoiser = wrapper(eps, alphas, quantize=True)

    def encode_text(self, prompt):
        return self.text(self.words.batch([prompt])).last_hidden_state

    def encode(self, picture):
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        return self.vae.encode(pixels * 2 - 1).latent_dist.mode()

    def decode(self, latent):
        picture = (self.vae.decode(latent).sample / 2 + 0.5).clamp(0, 1)
        # Bytes as ComfyUI's SaveImage makes them.
        return (picture[0].permute(1, 2, 0) * 255).to(torch.uint8).contiguous()

    def sigmas(self, scheduler, steps, denoise, discard):
        total = int(steps / denoise) if denoise < 1 else steps
        count = total + discard
        if scheduler == "normal":
            sigmas = self.denoiser.get_sigmas(count)
        else:
            low, high = self.denoiser.sigma_min.item(), self.denoiser.sigma_max.item()
            sigmas = sampling.get_sigmas_karras(count, low, high)
        if discard:
            sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
        return sigmas[-(steps + 1) :]

    def sample(self, positive, negative, latent, seed, steps, cfg, sampler_name, scheduler, denoise):
        sigmas = self.sigmas(scheduler, steps, denoise, sampler_name in DISCARDS)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
        largest = torch.isclose(sigmas[0], self.denoiser.sigma_max)
        scale = (1 + sigmas[0] ** 2).sqrt() if largest else sigmas[0]
        x = latent * SCALING_FACTOR + noise * scale

        def guided(x, sigma):
            twice = torch.cat([x, x])
            both = self.denoiser(twice, sigma.repeat(2), context=torch.cat([positive, negative]))
            with_prompt, without = both.chunk(2)
            return without + (with_prompt - without) * cfg

        run = SAMPLERS[sampler_name]
        if sampler_name in ("dpm_fast", "dpm_adaptive"):
            low, high = sigmas[-2].item(), sigmas[0].item()
            extra = {"n": len(sigmas) - 1} if sampler_name == "dpm_fast" else {}
            return run(guided, x, low, high, disable=True, **extra) / SCALING_FACTOR
        if sampler_name == "lms":
            # ComfyUI's ends with a plain denoising, as other samplers do.
            x = run(guided, x, sigmas[:-1], disable=True)
            return guided(x, sigmas[-2:-1]) / SCALING_FACTOR
        return run(guided, x, sigmas, disable=True) / SCALING_FACTOR


def follow(pipeline, graph, link):
    """The value of an output, by the few node classes that the examples use."""
    node = graph[link[0]]
    given = node["inputs"]
    value = lambda name: follow(pipeline, graph, given[name])
    match node["class_type"]:
        case "CLIPTextEncode":
            return pipeline.encode_text(given["text"])
        case "EmptyLatentImage":
            return torch.zeros(given["batch_size"], 4, given["height"] // 8, given["width"] // 8)
        case "LoadImage":
            return np.array(Image.open(ROOT / "input" / given["image"]).convert("RGB"))
        case "VAEEncode":
            return pipeline.encode(value("pixels"))
        case "KSampler":
            numbers = {k: given[k] for k in ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")}
            return pipeline.sample(value("positive"), value("negative"), value("latent_image"), **numbers)
        case "VAEDecode":
            return pipeline.decode(value("samples"))
    raise NotImplementedError(node["class_type"])


@torch.no_grad()
def main():
    pipeline = Pipeline()
    graphs = {name: json.loads((ROOT / f"examples/{name}.json").read_text()) for name in EXAMPLES}
    tensors = {}
    for name, graph in graphs.items():
        save = next(node for node in graph.values() if node["class_type"] == "SaveImage")
        tensors[f"picture.{name}"] = follow(pipeline, graph, save["inputs"]["images"])
    graph = graphs["txt2img_distorch2"]
    for sampler in SAMPLERS:
        for scheduler in ("normal", "karras"):
            graph["3"]["inputs"] |= {"sampler_name": sampler, "scheduler": scheduler}
            tensors[f"latent.{sampler}.{scheduler}"] = follow(pipeline, graph, ["3", 0]).contiguous()
    FIXTURE.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, FIXTURE)
    for name, tensor in tensors.items():
        print(name, list(tensor.shape), f"{tensor.float().abs().max():.3f}")


if __name__ == "__main__":
    main()
