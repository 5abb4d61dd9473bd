"""What stages work with: the kit's settings, the record that a stage fills, commands with a limit."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback

# Lines of a command's output that a failure shows.
SHOWN_LINES = 12
# Declares a device where a stage needs one that is not the host and the machine has none.
SIMULATED = "cuda:0=64GiB"


@dataclasses.dataclass
class Settings:
    """Of one run of the kit; every stage's process reads the same."""

    dry_run: bool
    device: str
    distorch: str
    # The test program (crates/models/tests/device), if there is one.
    tests: str
    repository: str
    # For what is big and what goes away: model files, caches, pictures.
    work: str
    out: str

    @property
    def is_host(self):
        """Whether the CPU is tested, in the place of a GPU."""
        return self.device == "cpu"

    @property
    def placed_on(self):
        """The device of plans: weights stream to it, which they don't to the host."""
        return "cuda:0" if self.is_host else self.device

    @property
    def simulate(self):
        """Options that declare it where it is not there."""
        return ["--simulate", SIMULATED] if self.is_host else []

    def path(self, *parts):
        return str(pathlib.Path(self.work, *parts))


class Failed(Exception):
    """A command or a comparison that did not do what it should; the stage's other parts go on."""


class Skip(Exception):
    """What is not here: the part, or the stage, is left out."""


class Stage:
    """The record of one stage, in a file that is whole at any time."""

    def __init__(self, settings, name, sizes, limit, file):
        self.settings, self.name, self.sizes = settings, name, sizes
        self.ends = time.monotonic() + limit
        self.file = pathlib.Path(file)
        self.record = {"checks": [], "skipped": [], "data": {}}
        self.save()

    def save(self):
        write_json(self.file, self.record)

    def left(self):
        """Seconds that the stage has left."""
        return self.ends - time.monotonic()

    def put(self, key, value):
        self.record["data"][key] = value
        self.save()

    def add(self, key, value):
        self.record["data"].setdefault(key, []).append(value)
        self.save()

    def check(self, name, ok, detail=""):
        """Whether something is as it has to be."""
        self.record["checks"].append({"name": name, "ok": bool(ok), "detail": str(detail)[:2000]})
        print(f"{'ok' if ok else 'NOT OK'}: {name} {detail}"[:2000], flush=True)
        self.save()

    def skip(self, what, why):
        self.record["skipped"].append({"what": what, "why": str(why)})
        print(f"skipped: {what}: {why}", flush=True)
        self.save()

    @contextlib.contextmanager
    def part(self, name):
        """A part that may fail without the others."""
        try:
            yield
        except Skip as why:
            self.skip(name, why)
        except Failed as failure:
            self.check(name, False, failure)
        except Exception as error:
            traceback.print_exc()
            self.check(name, False, f"{type(error).__name__}: {error}")

    def run(self, command, limit=None, env=None, on_line=None):
        """Standard output of a command that succeeds; `on_line` gets each line as it comes. Standard error goes to
        the log, and its end into the failure."""
        limit = min(limit or self.left(), self.left())
        if limit <= 1:
            raise Failed(f"no time was left for `{pathlib.Path(command[0]).name} {command[1]}`")
        print(f"+ {shlex.join(command)}", flush=True)
        begun = time.monotonic()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", env={**os.environ, **(env or {})}, cwd=self.settings.work,
        )
        timer = threading.Timer(limit, process.kill)
        timer.start()
        lines, said = [], []

        def listen():
            for line in process.stderr:
                said.append(line)
                print(line, end="", flush=True)

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            for line in process.stdout:
                lines.append(line)
                if on_line is not None:
                    on_line(line)
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
            listener.join(timeout=1)
        output = "".join(lines)
        if on_line is None:
            print(output, flush=True)
        took = time.monotonic() - begun
        print(f"  {took:.1f} s, exit code {code}", flush=True)
        if code == 0:
            return output
        how = f"was stopped after {took:.0f} s" if took >= limit - 0.1 else f"ended with {how_it_ended(code)}"
        program = pathlib.Path(command[0]).name
        raise Failed(f"{program} {how}: {tail(''.join(said)) or tail(output)}")

    def distorch(self, *arguments, **options):
        """Runs `distorch`; standard output, with standard error in the log."""
        return self.run([self.settings.distorch, *map(str, arguments)], **options)

    def distorch_json(self, *arguments, **options):
        """The JSON that `distorch` prints."""
        lines = []
        self.distorch(*arguments, on_line=lines.append, **options)
        return json.loads("".join(lines))

    def python(self, script, *arguments, **options):
        """Runs one of the kit's scripts and returns the JSON lines that it prints."""
        here = pathlib.Path(__file__).parent
        lines = []

        def read(line):
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))

        self.run([sys.executable, str(here / script), *map(str, arguments)], on_line=read, **options)
        return lines


def caches(work, name):
    """The environment in which distorch, CubeCL and the driver keep compiled and tuned kernels in a folder of this
    name: not the user's, and what `minimal` tuning chose apart from the rest."""
    folder = pathlib.Path(work, name)
    return {
        "DISTORCH_CACHE_DIR": str(folder / "distorch"),
        "XDG_CACHE_HOME": str(folder / "user"),
        "CUDA_CACHE_PATH": str(folder / "driver"),
    }


def minimal_tuning(work):
    """The environment in which few candidates of a kernel are tried: all that a right result needs."""
    return {"CUBECL_AUTOTUNE_LEVEL": "minimal", **caches(work, "minimal-caches")}


def how_it_ended(code):
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def tail(text):
    return "\n".join(text.strip().splitlines()[-SHOWN_LINES:])


def finite(value):
    """The value with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(file, value):
    """Whole or not at all."""
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(finite(value), indent=1, allow_nan=False) + "\n")
    os.replace(part, file)


def has_torch(*modules):
    """Raises Skip where PyTorch, or a module beside it, is not here."""
    import importlib.util

    for module in ("torch", *modules):
        if importlib.util.find_spec(module) is None:
            raise Skip(f"no {module}")
