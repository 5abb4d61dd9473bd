"""The most memory of a GPU that is in use, by NVML, sampled while something runs."""

import subprocess
import threading
import time

PAUSE = 0.02


def used_by_nvml(index):
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used


def used_by_smi(index):
    command = ["nvidia-smi", f"--id={index}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]

    def used():
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout
        return int(output.strip()) << 20

    return used


def meter(device):
    """A function that returns the bytes in use on the device, or None where nothing tells."""
    if not device.startswith("cuda:"):
        return None
    index = int(device.removeprefix("cuda:"))
    for source in (used_by_nvml, used_by_smi):
        try:
            used = source(index)
            used()
            return used
        except Exception:
            continue
    return None


class Peak:
    """`with Peak(device) as peak: …`, then `peak.bytes`: what came on top of what was in use before."""

    def __init__(self, device):
        self.used = meter(device)
        self.bytes = None

    def __enter__(self):
        if self.used is not None:
            self.before = self.most = self.used()
            self.done = threading.Event()
            self.thread = threading.Thread(target=self.sample, daemon=True)
            self.thread.start()
        return self

    def sample(self):
        while not self.done.is_set():
            self.most = max(self.most, self.used())
            time.sleep(PAUSE)

    def __exit__(self, *_):
        if self.used is not None:
            self.done.set()
            self.thread.join()
            self.bytes = self.most - self.before
