"""Published clients of ComfyUI's API against a server of this program: python check.py DISTORCH

Each queues the shipped example, follows its progress, and fetches a picture, which has to be the one that
`distorch run` makes. Nothing that one has made helps another: each has a seed of its own.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image, ImageChops

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
STEPS = 4


def prompt_with(seed):
    """The shipped example in small."""
    prompt = json.loads((REPOSITORY / "examples/txt2img_distorch2.json").read_text())
    prompt["3"]["inputs"].update(seed=seed, steps=STEPS)
    prompt["5"]["inputs"].update(width=64, height=64)
    return prompt


def run(command, **options):
    """The output of a command that has to succeed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, **options)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def comfy_cli(url, prompt, picture):
    """`comfy run`, which prints where the picture is."""
    host, port = url.removeprefix("http://").split(":")
    programs = Path(sys.executable).parent
    command = [programs / "comfy", "--skip-prompt", "--no-enable-telemetry", "run", "--workflow", prompt]
    command += ["--host", host, "--port", port, "--wait", "--verbose"]
    environment = os.environ | {"COMFY_NO_TELEMETRY": "1", "DO_NOT_TRACK": "1", "COLUMNS": "400", "HOME": str(picture.parent)}
    said = run(command, env=environment)
    found = re.search(r"https?://\S*/view\?[^\s'\"\x1b]*", said)
    if not found:
        raise SystemExit(f"no address of a picture in what `comfy run` says:\n{said}")
    picture.write_bytes(urllib.request.urlopen(found.group()).read())
    return "its output names the picture"


def script(*command):
    """A client that is a script: it is told the server, the prompt's file and the picture's."""
    return lambda url, prompt, picture: run([*command, url, prompt, picture]).strip().splitlines()[-1]


CLIENTS = {
    "@saintno/comfyui-sdk": script("node", HERE / "saintno.mjs"),
    "@stable-canvas/comfyui-client": script("node", HERE / "stable_canvas.mjs"),
    "comfy-api-simplified": script(sys.executable, HERE / "simplified.py"),
    "comfy-script": script(sys.executable, HERE / "script.py"),
    "comfy-cli": comfy_cli,
}


def start(distorch, folder):
    """A server, and its address."""
    log = open(folder / "log", "w")
    command = [distorch, "serve", "--port", "0", "--base-dir", REPOSITORY, "--queue", f"sqlite:{folder}/queue.sqlite"]
    command += ["--output-dir", folder / "output", "--input-dir", folder / "input", "--grace", "0"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    while server.poll() is None:
        if found := re.search(r"listening on (http://\S+)", (folder / "log").read_text()):
            return server, found.group(1)
        time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{(folder / 'log').read_text()}")


def main(distorch):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = {}
        for seed, client in enumerate(CLIENTS):
            prompts[client] = folder / f"prompt_{seed}.json"
            prompts[client].write_text(json.dumps(prompt_with(seed)))
            run([distorch, "run", prompts[client], "--base-dir", REPOSITORY, "--output-dir", folder / f"alone_{seed}"])
        server, url = start(distorch, folder)
        try:
            for seed, (client, ask) in enumerate(CLIENTS.items()):
                picture = folder / f"picture_{seed}.png"
                said = ask(url, prompts[client], picture)
                (alone,) = (folder / f"alone_{seed}").iterdir()
                served, alone = Image.open(picture).convert("RGB"), Image.open(alone).convert("RGB")
                if served.size != alone.size or ImageChops.difference(served, alone).getbbox():
                    raise SystemExit(f"{client}: its picture is not the one that `distorch run` makes")
                print(f"{client}: the same picture; {said}", flush=True)
        finally:
            server.terminate()
            server.wait()
        if re.search("panic", (folder / "log").read_text(), re.IGNORECASE):
            raise SystemExit((folder / "log").read_text())


if __name__ == "__main__":
    main(*sys.argv[1:])
