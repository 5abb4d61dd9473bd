"""CLIP text encoders against transformers: tiny configurations, seeded weights (see seeded.py).

    pip install torch transformers safetensors numpy
    python tools/reference/make_clip.py

Writes crates/models/tests/fixtures/clip.safetensors. For each case NAME:
    NAME.tokens           [texts, tokens] int32
    NAME.hidden.N         output of the N-th layer from the end, without the final layer norm
    NAME.normed.N         the same with it
    NAME.pooled           pooled output, projected where the encoder projects
and in the metadata, under NAME, the configuration, the parameters with their shapes and the textual
inversion: the id whose row of the token table the seeded vector "NAME.vector" replaces.
"""

import json
import pathlib

import seeded
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

OUT = pathlib.Path(__file__).parents[2] / "crates/models/tests/fixtures/clip.safetensors"
START, END = 49406, 49407

CASES = {
    # Like CLIP-L: quick GELU, no projection, padded with the end token.
    "clip_l": dict(width=32, layers=3, heads=4, intermediate=96, act="quick_gelu", projection=None, pad=END),
    # Like OpenCLIP's: exact GELU, a projection to another width, padded with 0.
    "clip_g": dict(width=24, layers=4, heads=3, intermediate=96, act="gelu", projection=20, pad=0),
}
TEXTS = [
    [320, 1125, 539, 320, 2368],
    list(range(1000, 1075)),
    [],
    [320, 40000, 2368, END, 518, 1929],  # an end token in the text: the first one counts
]
INVERSION = 40000


def rows(pad: int) -> list[list[int]]:
    """The texts with start, end and padding to 77."""
    full = [[START, *text, END] for text in TEXTS]
    return [row + [pad] * (77 - len(row)) for row in full]


@torch.no_grad()
def run(name: str, case: dict, tensors: dict) -> dict:
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=case["width"],
        intermediate_size=case["intermediate"],
        num_hidden_layers=case["layers"],
        num_attention_heads=case["heads"],
        max_position_embeddings=77,
        hidden_act=case["act"],
        projection_dim=case["projection"] or 512,
        bos_token_id=START,
        eos_token_id=END,
        attn_implementation="eager",
    )
    model = (CLIPTextModelWithProjection if case["projection"] else CLIPTextModel)(config).eval()
    text_model = getattr(model, "text_model", model)
    prefix = "" if text_model is not model else "text_model."
    shapes = seeded.fill(model, lambda key: prefix + key)
    vector = seeded.uniform(f"{name}.vector", (case["width"],)) * 0.2
    text_model.embeddings.token_embedding.weight[INVERSION] = torch.from_numpy(vector)

    tokens = torch.tensor(rows(case["pad"]))
    output = model(input_ids=tokens, output_hidden_states=True)
    hidden = output.hidden_states
    assert len(hidden) == case["layers"] + 1
    tensors[f"{name}.tokens"] = tokens.int()
    for n in (1, 2):
        tensors[f"{name}.hidden.{n}"] = hidden[-n].contiguous()
        tensors[f"{name}.normed.{n}"] = text_model.final_layer_norm(hidden[-n]).contiguous()
    assert torch.equal(tensors[f"{name}.normed.1"], output.last_hidden_state)
    pooled = output.text_embeds if case["projection"] else output.pooler_output
    tensors[f"{name}.pooled"] = pooled.contiguous()
    return {"config": case, "shapes": shapes, "inversion": INVERSION}


def main():
    tensors = {}
    metadata = {name: json.dumps(run(name, case, tensors)) for name, case in CASES.items()}
    save_file(tensors, OUT, metadata)
    print(OUT.stat().st_size, "bytes", {k: tuple(v.shape) for k, v in tensors.items()})


if __name__ == "__main__":
    main()
