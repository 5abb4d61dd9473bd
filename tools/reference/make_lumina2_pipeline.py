"""Writes crates/workflow/tests/fixtures/lumina2.safetensors: what diffusers' and transformers' classes make of a small
Lumina 2 checkpoint, for crates/workflow/tests/qwen3_pictures.rs.

    python tools/reference/make_lumina2_pipeline.py    # behind make_gemma2.py

Weights follow from their keys in a one-file checkpoint (seeded.py). Prompts are cut by SentencePiece and encoded by Gemma 2
as make_gemma2.py does it; the schedule is ComfyUI's `simple` of a flow with shift 6, the sampler Euler's, guidance mixes two
predictions as ComfyUI's `cfg`, or keeps the guided guess as short as the positive one (`renorm`, of ComfyUI's RenormCFG,
computed here in float64). The file holds, for each strength of the guidance, the latent as the autoencoder reads it and the
picture's bytes, and as metadata the prompts and the numbers of the run.
"""

import gzip
import json
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file

import make_gemma2
import make_lumina2
from make_z_image_pipeline import autoencoder, weights

OUT = Path(__file__).parents[2] / "crates/workflow/tests/fixtures/lumina2.safetensors"
PROMPTS = ["You draw. <Prompt Start> a red circle, 红色的圆", "blurry"]
SEED, STEPS, WIDTH, HEIGHT, SHIFT = 5, 20, 72, 64, 6.0
SCALE, OFFSET = 0.3611, 0.1159
GUIDANCE = [1.0, 3.0]
# Of RenormCFG: the noise from which on the positive guess is alone (between two steps), and how long the guided one may be.
RENORM = {"cfg_trunc": 0.85, "renorm_cfg": 0.8}


def text_encoder():
    module = make_gemma2.build(make_gemma2.CONFIG | {"layers": 3})
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    module.load_state_dict(weights(shapes, "text_encoders.gemma2.transformer.model."))
    return module


def guided(positive, negative, cfg):
    return negative + cfg * (positive - negative)


def renormed(x, sigma, positive, negative, cfg):
    """The velocity of ComfyUI's RenormCFG, of one picture."""
    clean, without = ((x - sigma * v).double() for v in (positive, negative))
    if sigma >= RENORM["cfg_trunc"]:
        return positive
    made = guided(clean, without, cfg)
    most = RENORM["renorm_cfg"] * clean.norm()
    if made.norm() >= most:
        made = made * (most / made.norm())
    return ((x.double() - made) / sigma).float()


@torch.no_grad()
def main():
    network, vae = make_lumina2.build(channels=16, context=24), autoencoder()
    own = make_lumina2.originals(network)
    shared = make_lumina2.SHARED * make_lumina2.HEAD
    network.load_state_dict(make_lumina2.converted(weights(own, "model.diffusion_model."), shared))
    model = gzip.decompress(make_gemma2.VOCABULARY.read_bytes())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    encoder = text_encoder()
    positive, negative = (make_gemma2.encode(encoder, processor, [(text, 1.0)]) for text in PROMPTS)
    times = [1 - step / STEPS for step in range(STEPS)]
    sigmas = [SHIFT * t / (1 + (SHIFT - 1) * t) for t in times] + [0.0]
    tensors = {}
    for name, cfg in [(str(cfg), cfg) for cfg in GUIDANCE] + [("renorm", GUIDANCE[-1])]:
        x = torch.randn([1, 16, HEIGHT // 8, WIDTH // 8], generator=torch.Generator().manual_seed(SEED))
        for sigma, following in zip(sigmas, sigmas[1:]):
            velocity = lambda context: make_lumina2.call(network, x, context, [sigma])
            v = velocity(positive)
            if name == "renorm":
                v = renormed(x, sigma, v, velocity(negative), cfg)
            elif cfg != 1.0:
                v = guided(v, velocity(negative), cfg)
            x = x + (following - sigma) * v
        latent = x / SCALE + OFFSET
        tensors[f"latent.{name}"] = latent.contiguous()
        picture = (vae.decode(latent).sample / 2 + 0.5).clamp(0, 1)
        tensors[f"picture.{name}"] = (picture[0].permute(1, 2, 0) * 255).to(torch.uint8).contiguous()
    run = {"seed": SEED, "steps": STEPS, "width": WIDTH, "height": HEIGHT, "guidance": GUIDANCE, "renorm": RENORM}
    metadata = {"prompts": json.dumps(PROMPTS), "run": json.dumps(run)}
    save_file(tensors, OUT, metadata)
    print(OUT.name, OUT.stat().st_size, {n: (t.float().mean().item(), t.float().std().item()) for n, t in tensors.items()})


if __name__ == "__main__":
    main()
