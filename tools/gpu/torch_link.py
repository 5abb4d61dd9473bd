"""Copies between the host and a device in PyTorch: a line about it, then one for each kind of copy.

    python3 torch_link.py cuda:0 256 10
"""

import json
import sys
import time

import torch


def main():
    device, size, copies = sys.argv[1], int(sys.argv[2]) << 20, int(sys.argv[3])
    is_cuda = device.startswith("cuda")
    about = {"version": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if is_cuda:
        about["card"] = torch.cuda.get_device_name(device)
        about["capability"] = list(torch.cuda.get_device_capability(device))
    print(json.dumps(about), flush=True)
    wait = (lambda: torch.cuda.synchronize(device)) if is_cuda else (lambda: None)
    there = torch.ones(size, dtype=torch.uint8, device=device)
    for pinned in (False, True) if is_cuda else (False,):
        here = torch.ones(size, dtype=torch.uint8, pin_memory=pinned)
        for direction, copy in (("upload", lambda: there.copy_(here)), ("download", lambda: here.copy_(there))):
            seconds = []
            for _ in range(copies + 1):
                wait()
                start = time.perf_counter()
                copy()
                wait()
                seconds.append(time.perf_counter() - start)
            least = min(seconds[1:])
            print(json.dumps({
                "direction": direction, "pinned": pinned, "min_seconds": least, "bytes_per_second": size / least,
            }), flush=True)


if __name__ == "__main__":
    main()
