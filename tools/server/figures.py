#!/usr/bin/env python3
"""What a server costs: requests a second and their latency, memory, the time to the first step, previews.

    tools/server/figures.py --distorch target/debug/distorch [--entries 10000] [--seconds 5] [--only previews]

Starts servers of its own, in a temporary folder, with the shipped checkpoint. Client and server share the machine: each
figure has the client's part in it, which `GET /healthz` shows alone; the processor's time is the server's own. Needs Python's
standard library, and Linux for memory and the processor's time.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import uuid

from websocket import WebSocket

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
EXAMPLE = json.loads((REPOSITORY / "examples/txt2img_distorch2.json").read_text())
EDITOR = json.loads((REPOSITORY / "examples/editor.json").read_text())
CONNECTIONS = 4
STEPS = 20
# Runs of the same thing, of which the best counts: something else may use the machine.
RUNS = 3


class Server:
    """A server of a folder, for as long as the block that starts it."""

    def __init__(self, program, folder, *options):
        shipped = f"shipped:\n  checkpoints: {json.dumps(str(REPOSITORY / 'models/checkpoints'))}\n"
        (folder / "shipped.yaml").write_text(shipped)
        command = [program, "serve", "--base-dir", folder, "--extra-model-paths", folder / "shipped.yaml", "--port", "0"]
        command += ["--grace", "0", *options]
        self.log = (folder / "log").open("a+")
        start = self.log.tell()
        self.process = subprocess.Popen([str(word) for word in command], stderr=self.log, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.said(start))):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{self.said(start)}")
            time.sleep(0.02)
        self.port = int(found[1])

    def said(self, start):
        self.log.flush()
        with open(self.log.name, encoding="utf-8") as log:
            log.seek(start)
            return log.read()

    def memory(self):
        """Resident bytes, and those of them that are no file's."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return [int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024 for name in ("VmRSS", "RssAnon")]

    def computed(self):
        """Seconds of the processor's time until now."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, method, path, body=None):
        with contextlib.closing(Connection(self.port)) as connection:
            status, answer = connection.send(request(self.port, method, path, body))
        if status != 200:
            raise SystemExit(f"{method} {path}: {status} {answer[:500].decode(errors='replace')}")
        return json.loads(answer) if answer else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()


class Connection:
    """A connection that stays open, with as little of HTTP as these answers need."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.socket.makefile("rb")

    def send(self, asked):
        """The status and the body of an answer."""
        self.socket.sendall(asked)
        status = int(self.reader.readline().split()[1])
        length, is_chunked = 0, False
        while (line := self.reader.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            elif name.lower() == b"transfer-encoding":
                is_chunked = b"chunked" in value
        if not is_chunked:
            return status, self.reader.read(length)
        body = []
        while size := int(self.reader.readline(), 16):
            body.append(self.reader.read(size))
            self.reader.readline()
        self.reader.readline()
        return status, b"".join(body)

    def close(self):
        self.reader.close()
        self.socket.close()


def request(port, method, path, body=None, headers=""):
    sent = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}Content-Length: {len(sent)}\r\n\r\n"
    return head.encode() + sent


def hammer(port, asked, seconds):
    """The times of one request after the other on a connection, and the length of the last answer."""
    times, end = [], time.perf_counter() + seconds
    connection = Connection(port)
    status, answer = connection.send(asked)
    while time.perf_counter() < end or not times:
        start = time.perf_counter()
        status, answer = connection.send(asked)
        times.append(time.perf_counter() - start)
        if status != 200:
            raise SystemExit(f"{asked.splitlines()[0].decode()}: {status} {answer[:500].decode(errors='replace')}")
    connection.close()
    return times, len(answer)


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def table(*heads):
    print()
    row(*heads)
    row(*["---"] * len(heads))


def milliseconds(seconds):
    return f"{seconds * 1e3:.2f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def mebibytes(size):
    return f"{size / 2**20:.1f}"


def entry():
    """A prompt of an editor's size that makes no picture: its example, and an output that shows a number."""
    prompt = EXAMPLE | {
        "20": {"class_type": "PrimitiveInt", "inputs": {"value": 1}},
        "21": {"class_type": "PreviewAny", "inputs": {"source": ["20", 0]}},
    }
    return {"prompt": prompt, "partial_execution_targets": ["21"], "extra_data": {"extra_pnginfo": {"workflow": EDITOR}}}


def fill(server, count):
    """Queues prompts and waits until they have run; the seconds that both took."""
    asked = request(server.port, "POST", "/prompt", entry())
    start = time.perf_counter()
    connection = Connection(server.port)
    for _ in range(count):
        status, answer = connection.send(asked)
        if status != 200:
            raise SystemExit(answer.decode())
    while server.ask("GET", "/prompt")["exec_info"]["queue_remaining"]:
        time.sleep(0.05)
    connection.close()
    return time.perf_counter() - start


def measure_requests(program, folder, entries, seconds):
    options = ["--queue", f"sqlite:{folder / 'queue.sqlite'}", "--max-queue", "1000000", "--max-history", entries]
    table("", "")
    with Server(program, folder, *options) as server:
        time.sleep(1)
        row("memory after the start, MiB (of which the program's own)", " ".join(f"{mebibytes(size)}" for size in server.memory()))
        spent = fill(server, entries)
        row(f"{entries} prompts queued and run, a second", f"{entries / spent:.0f}")
        row("memory then, MiB (of which the program's own)", " ".join(f"{mebibytes(size)}" for size in server.memory()))
    # Without a worker: what is queued here waits, and takes nothing of the machine.
    with Server(program, folder, *options, "--no-worker") as server:
        some = next(iter(server.ask("GET", "/history?max_items=1&offset=5000" if entries > 5000 else "/history?max_items=1")))
        gzip = "Accept-Encoding: gzip\r\n"
        table("request", "answer, kB", "p50, ms", "p99, ms", "processor, ms", "a second, one connection", f"a second, {CONNECTIONS} connections")
        for name, method, path, body, headers in [
            ("`GET /healthz`", "GET", "/healthz", None, ""),
            ("`GET /object_info`", "GET", "/object_info", None, ""),
            ("the same, as browsers ask for it: gzip", "GET", "/object_info", None, gzip),
            ("`GET /object_info/KSampler`", "GET", "/object_info/KSampler", None, ""),
            ("`GET /prompt`", "GET", "/prompt", None, ""),
            ("`GET /history?max_items=64`", "GET", "/history?max_items=64", None, ""),
            ("the same with gzip", "GET", "/history?max_items=64", None, gzip),
            (f"`GET /history`, all {entries}", "GET", "/history", None, ""),
            ("`GET /history/{id}`", "GET", f"/history/{some}", None, ""),
            ("`GET /api/jobs?limit=64`", "GET", "/api/jobs?limit=64", None, ""),
            ("`POST /prompt`", "POST", "/prompt", entry(), ""),
        ]:
            asked = request(server.port, method, path, body, headers)
            before = server.computed()
            times, length = hammer(server.port, asked, seconds)
            computed = (server.computed() - before) / (len(times) + 1)
            times.sort()
            with multiprocessing.Pool(CONNECTIONS) as pool:
                start = time.perf_counter()
                many = pool.starmap(hammer, [(server.port, asked, seconds)] * CONNECTIONS)
                spent = time.perf_counter() - start
            rate = sum(len(times) for times, _ in many) / spent
            p99 = times[min(len(times) - 1, round(len(times) * 0.99))]
            alone = len(times) / sum(times)
            middle = milliseconds(statistics.median(times))
            row(name, f"{length / 1e3:.1f}", middle, milliseconds(p99), milliseconds(computed), f"{alone:.0f}", f"{rate:.0f}")
        rss, own = server.memory()
        row("memory after that, MiB (of which the program's own)", f"{mebibytes(rss)} {mebibytes(own)}")


def picture(seed, side):
    prompt = json.loads(json.dumps(EXAMPLE))
    prompt["3"]["inputs"].update(seed=seed, steps=STEPS)
    prompt["5"]["inputs"].update(width=side, height=side)
    # What is made is looked at while it is made only.
    return {key: node for key, node in prompt.items() if key not in ("8", "9")} | {
        "21": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}}
    }


def run(server, seed, side):
    """Queues a picture; when it was sent, when its sampler began, when each step was done, and the processor's time of all
    steps."""
    client = uuid.uuid4().hex
    watch = WebSocket(server.port, client)
    watch.say({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
    watch.until("feature_flags")
    watch.until("feature_flags")
    sent = time.perf_counter()
    body = {"prompt": picture(seed, side), "client_id": client}
    answer = server.ask("POST", "/prompt", body)
    watch.until("executing", prompt_id=answer["prompt_id"], node="3")
    began, computed = time.perf_counter(), server.computed()
    steps = []
    while len(steps) < STEPS:
        watch.until("progress", prompt_id=answer["prompt_id"], node="3")
        steps.append(time.perf_counter())
    computed = server.computed() - computed
    watch.until("executing", prompt_id=answer["prompt_id"], node=None)
    watch.close()
    return sent, began, steps, computed


def measure_first_step(program, folder):
    table("128×128, the shipped checkpoint", "ms to the sampler", "ms to the end of the first step", "ms of a later step")
    with Server(program, folder, "--queue", f"sqlite:{folder / 'first.sqlite'}") as server:
        def told(name, runs):
            sampler = min(began - sent for sent, began, *_ in runs)
            first = min(steps[0] - sent for sent, _, steps, _ in runs)
            later = min(statistics.median(b - a for a, b in zip(steps, steps[1:])) for *_, steps, _ in runs)
            row(name, milliseconds(sampler), milliseconds(first), milliseconds(later))

        told("first prompt of a server: the checkpoint is loaded", [run(server, 1, 128)])
        told(f"later prompts, the best of {4 * RUNS}", [run(server, 2 + seed, 128) for seed in range(4 * RUNS)])


def tiny_decoder(path):
    """TAESD's decoder with random weights, in its own layout and sizes."""
    blocks, plain = [3, 4, 5, 8, 9, 10, 13, 14, 15, 18], [7, 12, 17]
    shapes = {"1.weight": (64, 4, 3, 3), "1.bias": (64,), "19.weight": (3, 64, 3, 3), "19.bias": (3,)}
    for block in blocks:
        for conv in (0, 2, 4):
            shapes[f"{block}.conv.{conv}.weight"] = (64, 64, 3, 3)
            shapes[f"{block}.conv.{conv}.bias"] = (64,)
    shapes |= {f"{place}.weight": (64, 64, 3, 3) for place in plain}
    header, values = {}, b""
    dice = random.Random(1)
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        data = struct.pack(f"<{count}e", *(dice.uniform(-0.05, 0.05) for _ in range(count)))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(values), len(values) + len(data)]}
        values += data
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


def measure_previews(program, folder):
    tiny_decoder(folder / "models/vae_approx/taesd_decoder.safetensors")
    side = 128
    table(f"`--preview-method`, {STEPS} steps of {side}×{side}", "a step, ms: the best run's mean", "the processor's time, ms")
    means, computing = {}, {}
    with contextlib.ExitStack() as stack:
        servers = {
            method: stack.enter_context(
                Server(program, folder, "--queue", f"sqlite:{folder / method}.sqlite", "--preview-method", method)
            )
            for method in ("none", "latent2rgb", "taesd")
        }
        # In turns, so that what else uses the machine meets all of them.
        for seed in range(RUNS + 1):
            for method, server in servers.items():
                _, began, steps, computed = run(server, seed, side)
                # The first run loads.
                if seed:
                    means.setdefault(method, []).append((steps[-1] - began) / STEPS)
                    computing.setdefault(method, []).append(computed / STEPS)
    for method, times in means.items():
        row(f"`{method}`", milliseconds(min(times)), milliseconds(min(computing[method])))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distorch", type=pathlib.Path, required=True, help="the program")
    parser.add_argument("--entries", type=int, default=10_000, help="prompts of the history")
    parser.add_argument("--seconds", type=float, default=5, help="how long each request is repeated")
    parser.add_argument("--only", choices=("requests", "first-step", "previews"), help="one of the tables")
    args = parser.parse_args()
    program = args.distorch.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if args.only in (None, "requests"):
            measure_requests(program, folder, args.entries, args.seconds)
        if args.only in (None, "first-step"):
            measure_first_step(program, folder)
        if args.only in (None, "previews"):
            measure_previews(program, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
