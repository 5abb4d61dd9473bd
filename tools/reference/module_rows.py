"""Where diffusers' modules are in the original layout, found by what its converter does with numbered parameters."""

import torch


def numbered(shapes):
    """Parameters of these shapes, whose values are numbers of their own, and the first of each."""
    at, numbers, starts = 0, {}, {}
    for name, shape in shapes.items():
        starts[name] = at
        count = torch.Size(shape).numel()
        numbers[name] = torch.arange(at, at + count).reshape(shape)
        at += count
    return numbers, starts


def modules(shapes, convert):
    """Diffusers' modules, each with the original's, its first row there and its number of rows.

    `shapes` are the originals' by their names; `convert` brings tensors of these names to diffusers'.
    """
    numbers, starts = numbered(shapes)
    found = {}
    for name, ids in convert(numbers).items():
        if name.endswith(".weight"):
            first = ids.flatten()[0].item()
            layer = max((n for n in starts if starts[n] <= first), key=starts.get)
            columns = torch.Size(shapes[layer][1:]).numel()
            row = (first - starts[layer]) // columns
            found[name.removesuffix(".weight")] = [layer.rsplit(".", 1)[0], row, ids.shape[0]]
    return found
