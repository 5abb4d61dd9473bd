"""Times in PyTorch the operators that `distorch bench operators --list --json` lists, a line of JSON for each.

    python3 torch_operators.py LIST DEVICE DTYPE ROUNDS

The clock is as in `distorch bench operators`: a call first, then several at once with one wait for the device,
their results kept until it is over.
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
LONG_ENOUGH, MOST_CALLS, MOST_BYTES = 0.005, 64, 1 << 30


def prepare(operator, device, dtype):
    """The operator with random inputs."""

    def values(*shape, scale=1.0):
        return ((torch.rand(shape, device=device) * 2 - 1) * scale).to(dtype)

    def weight(*shape):
        return values(*shape, scale=math.sqrt(3 / math.prod(shape[1:])))

    o = operator
    match o["kind"]:
        case "conv":
            x, w = values(o["batch"], o["inputs"], o["height"], o["width"]), weight(o["outputs"], o["inputs"], o["kernel"], o["kernel"])
            bias = values(o["outputs"])
            return lambda: F.conv2d(x, w, bias, stride=o["stride"], padding=o["kernel"] // 2)
        case "linear":
            x, w, bias = values(o["batch"], o["rows"], o["inputs"]), weight(o["outputs"], o["inputs"]), values(o["outputs"])
            return lambda: F.linear(x, w, bias)
        case "attention":
            heads, dim = o["heads"], o["dim"]
            split = lambda x: x.view(x.shape[0], x.shape[1], heads, dim).transpose(1, 2)
            q = values(o["batch"], o["queries"], heads * dim)
            k, v = (values(o["batch"], o["keys"], heads * dim) for _ in range(2))

            def attention():
                y = F.scaled_dot_product_attention(split(q), split(k), split(v))
                return y.transpose(1, 2).reshape(q.shape)

            return attention
        case "group_norm":
            x = values(o["batch"], o["channels"], o["height"], o["width"])
            w, bias = values(o["channels"]), values(o["channels"])
            return lambda: F.silu(F.group_norm(x, o["groups"], w, bias, 1e-5))
        case "layer_norm":
            x, w, bias = values(o["batch"], o["rows"], o["features"]), values(o["features"]), values(o["features"])
            return lambda: F.layer_norm(x, (o["features"],), w, bias, 1e-5)
    raise ValueError(f"no operator {o['kind']}")


def timed(call, wait, rounds):
    """Seconds of the first call, the calls of a round, and each round's seconds of a call."""

    def elapsed(calls):
        wait()
        start = time.perf_counter()
        results = [call() for _ in range(calls)]
        wait()
        seconds = time.perf_counter() - start
        return seconds, results[-1]

    first, result = elapsed(1)
    one = max(elapsed(1)[0], 1e-7)
    fit = max(MOST_BYTES // (result.numel() * result.element_size()), 1)
    calls = min(max(math.ceil(LONG_ENOUGH / one), 1), MOST_CALLS, fit)
    if calls > 1:
        elapsed(calls)
    return first, calls, [elapsed(calls)[0] / calls for _ in range(rounds)]


def main():
    listed, device, dtype, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    is_cuda = device.startswith("cuda")
    wait = (lambda: torch.cuda.synchronize(device)) if is_cuda else (lambda: None)
    # What PyTorch does on a card unless told otherwise: products in f32 are in f32.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode(), open(listed) as lines:
        for operator in map(json.loads, lines):
            first, calls, seconds = timed(prepare(operator, device, DTYPES[dtype]), wait, rounds)
            ordered = sorted(seconds)
            print(json.dumps({
                "name": operator["name"], "dtype": dtype, "device": device, "first_seconds": first, "calls": calls,
                "min_seconds": ordered[0],
                "median_seconds": (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2,
            }), flush=True)


if __name__ == "__main__":
    main()
