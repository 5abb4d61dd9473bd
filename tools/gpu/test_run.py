"""The runner: stages that hang, crash, fail or lack something do not stop the others, and what was measured stays.

    python3 -m unittest discover --start-directory tools/gpu

A script stands in for `distorch`.
"""

import json
import os
import pathlib
import stat
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import zipfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import kit
import png
import programs
from stages import correctness

DISTORCH = """#!/bin/sh
case "$1 $2" in
    "devices --json") echo '{"devices": [{"id": "DEVICE", "name": "test"}], "notes": []}' ;;
    "bench link") echo '{"device": "cpu", "bytes": 1, "copies": []}' ;;
    "bench operators")
        echo '{"name": "tiny conv", "kind": "conv", "dtype": "f32", "flops": 8, "min_seconds": 2.0, "first_seconds": 3.0}'
        sleep 600 ;;
    "bench lora") kill -SEGV $PPID; sleep 600 ;;
    "generate --base-dir") echo "error: no such thing" >&2; exit 2 ;;
    "generate --ckpt") exit 0 ;;
esac
"""


class Runner(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def options(self):
        program = self.folder / "distorch"
        program.write_text(DISTORCH.replace("DEVICE", "cpu"))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return ["--distorch", str(program), "--out", str(self.folder)]

    def command(self, device, *options):
        return [sys.executable, str(HERE / "run.py"), "--dry-run", "--device", device, *self.options(), *options]

    def run_kit(self, *options, device="cpu"):
        # As on a machine without PyTorch.
        blocked = self.folder / "blocked"
        blocked.mkdir(exist_ok=True)
        (blocked / "sitecustomize.py").write_text(BLOCK_TORCH)
        env = {**os.environ, "PYTHONPATH": str(blocked)}
        run = subprocess.run(
            self.command(device, *options), capture_output=True, text=True, timeout=120, env=env
        )
        self.assertEqual(run.stderr, "")
        self.code = run.returncode
        return json.loads((self.folder / "gpu.json").read_text())

    def test_a_stage_that_hangs_is_cut_off_and_keeps_what_it_measured(self):
        report = self.run_kit("--stage", "operators", "--stage", "devices", "--seconds", "4")
        operators = report["stages"]["operators"]
        self.assertEqual(operators["status"], "timed out")
        self.assertEqual([timed["min_seconds"] for timed in operators["data"]["distorch"]], [2.0])
        self.assertEqual(report["stages"]["devices"]["status"], "skipped")
        self.assertIn("no time", report["stages"]["devices"]["reason"])
        self.assertTrue(report["complete"])
        self.assertEqual(self.code, 1)

    def test_a_run_that_is_ended_keeps_what_it_measured_and_leaves_nothing_running(self):
        out = self.folder / "gpu.json"
        run = subprocess.Popen(
            self.command("cpu", "--stage", "operators"), stdout=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(self.folder)}
        )
        measured = lambda: out.exists() and "tiny conv" in out.read_text()
        for _ in range(600):
            if measured():
                break
            time.sleep(0.1)
        run.terminate()
        self.assertEqual(run.wait(timeout=30), 143)
        self.assertFalse(json.loads(out.read_text())["complete"])
        self.assertTrue(measured())
        self.assertEqual(list(self.folder.glob("distorch-gpu-*")), [], "the work folder is gone")

    def test_a_stage_that_crashes_does_not_stop_the_next(self):
        report = self.run_kit("--stage", "lora", "--stage", "devices")
        self.assertEqual(report["stages"]["lora"]["status"], "crashed")
        self.assertIn("SIGSEGV", report["stages"]["lora"]["reason"])
        self.assertEqual(report["stages"]["devices"]["status"], "ok")
        self.assertIn("===== devices", (self.folder / "gpu.log").read_text())

    def test_without_a_gpu_the_first_stage_says_so(self):
        report = self.run_kit("--stage", "devices", "--stage", "pictures", device="cuda:0")
        devices = report["stages"]["devices"]
        self.assertEqual(devices["status"], "failed")
        found = {check["name"]: check["ok"] for check in devices["checks"]}
        self.assertFalse(found["cuda:0 is there"])
        self.assertEqual(report["stages"]["pictures"]["status"], "skipped")
        self.assertEqual(report["stages"]["pictures"]["reason"], "there is no cuda:0, only cpu")

    def test_what_is_not_installed_is_left_out(self):
        report = self.run_kit("--stage", "devices", "--stage", "correctness", "--stage", "first_picture")
        skipped = report["stages"]["devices"]["skipped"]
        self.assertEqual(skipped, [{"what": "link in PyTorch", "why": "no torch"}])
        self.assertEqual(report["stages"]["devices"]["status"], "ok")
        self.assertEqual(report["stages"]["correctness"]["status"], "skipped")
        first = report["stages"]["first_picture"]
        self.assertEqual([run["caches"] for run in first["data"]["runs"]], ["empty", "filled"])
        self.assertEqual(self.code, 0)

    def test_a_command_that_fails_is_told_with_its_words(self):
        report = self.run_kit("--stage", "pictures")
        checks = report["stages"]["pictures"]["checks"]
        self.assertFalse(any(check["ok"] for check in checks))
        self.assertIn("exit code 2: error: no such thing", checks[0]["detail"])


BLOCK_TORCH = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torch" else find(name, package)
"""


class Output(unittest.TestCase):
    """What the test program prints."""

    PRINTED = (
        'test kernels::conv ... measured {"what": "a", "dtype": "f32", "error": 0.5, "tolerance": 0.1, "within": false}\n'
        "\nthread 'kernels::conv' (7) panicked at crates/models/tests/device/main.rs:90:9:\n"
        "a in f32: 5e-1 is over 1e-1\nnote: run with `RUST_BACKTRACE=1` environment variable\nFAILED\n"
        "test kernels::linear ... skipped: cpu does not compute in bf16\nok\n\n"
        "failures:\n\nfailures:\n    kernels::conv\n\n"
        "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.10s\n"
    )

    def test_it_is_read(self):
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder, "tests")
            program.write_text(f"#!/bin/sh\ncat <<'EOF'\n{self.PRINTED}EOF\nexit 101\n")
            program.chmod(0o755)
            settings = kit.Settings(True, "cpu", "", str(program), "", folder, folder)
            stage = kit.Stage(settings, "correctness", {"groups": ["kernels"]}, 60, pathlib.Path(folder, "r.json"))
            correctness.run(stage)
            record = json.loads(pathlib.Path(folder, "r.json").read_text())
        self.assertEqual(record["data"]["groups"], [{"group": "kernels", "passed": 1, "failed": 1}])
        self.assertEqual(record["data"]["errors"][0]["error"], 0.5)
        self.assertEqual([skip["why"] for skip in record["skipped"]], ["cpu does not compute in bf16"])
        failed = [check for check in record["checks"] if not check["ok"]]
        self.assertEqual([check["name"] for check in failed], ["kernels::conv"])
        self.assertIn("5e-1 is over 1e-1", failed[0]["detail"])


class Programs(unittest.TestCase):
    """What Cargo built goes into one file and comes out of it."""

    def message(self, folder, kind, name, content):
        executable = pathlib.Path(folder, f"{name}-0f1e2d")
        executable.write_bytes(content)
        executable.chmod(0o755)
        return {"reason": "compiler-artifact", "target": {"kind": [kind], "name": name}, "executable": str(executable)}

    def test_they_are_packed_and_unpacked(self):
        contents = {"distorch": bytes(range(256)) * 1000, "device-tests": b"\xe8" * 4096}
        with tempfile.TemporaryDirectory() as folder:
            messages = [
                {"reason": "compiler-artifact", "target": {"kind": ["lib"], "name": "distorch"}, "executable": None},
                self.message(folder, "bin", "distorch", contents["distorch"]),
                self.message(folder, "test", "device", contents["device-tests"]),
                {"reason": "build-finished", "success": True},
            ]
            lines, packed = pathlib.Path(folder, "messages"), pathlib.Path(folder, "programs.tar.xz")
            lines.write_text("".join(json.dumps(message) + "\n" for message in messages))
            wheels = pathlib.Path(folder, "wheels")
            wheels.mkdir()
            text = "def twice(x):\n    return x + x\n" * 1000
            with zipfile.ZipFile(wheels / "twice-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
                wheel.writestr("twice/__init__.py", text)
            programs.pack(lines, wheels, packed)
            self.assertLess(packed.stat().st_size, 10_000)
            out = pathlib.Path(folder, "out")
            programs.unpack(packed, out)
            for name, content in contents.items():
                self.assertEqual((out / name).read_bytes(), content)
                self.assertTrue(os.access(out / name, os.X_OK))
            with zipfile.ZipFile(out / "wheels" / "twice-1-py3-none-any.whl") as wheel:
                self.assertIsNone(wheel.testzip())
                self.assertEqual(wheel.read("twice/__init__.py").decode(), text)
            lines.write_text(json.dumps(messages[1]) + "\n")
            with self.assertRaisesRegex(SystemExit, "no device-tests"):
                programs.pack(lines, wheels, packed)


class Numbers(unittest.TestCase):
    def test_json_has_no_infinity(self):
        self.assertEqual(kit.finite({"a": [1.5, float("inf"), {"b": (float("nan"), 2)}]}), {"a": [1.5, None, {"b": [None, 2]}]})


class Png(unittest.TestCase):
    def write(self, path, rows, filters):
        """A grey picture of 3 columns whose rows are stored with these filters."""
        raw, above = b"", bytes(3)
        for kind, row in zip(filters, rows):
            guess = []
            for x in range(3):
                a, b, c = (row[x - 1] if x else 0), above[x], (above[x - 1] if x else 0)
                # The PNG specification's table of filters, and its text on Paeth's.
                p = a + b - c
                nearest = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
                guess.append([0, a, b, (a + b) // 2, nearest][kind])
            raw += bytes([kind]) + bytes((value - g) % 256 for value, g in zip(row, guess))
            above = row
        chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        header = struct.pack(">IIBBBBB", 3, len(rows), 8, 0, 0, 0, 0)
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
        )

    def test_every_filter_is_undone(self):
        rows = [bytes([9, 200, 31]), bytes([250, 3, 77]), bytes([1, 2, 255]), bytes([90, 91, 4]), bytes([8, 8, 8])]
        with tempfile.TemporaryDirectory() as folder:
            one, other = pathlib.Path(folder, "a.png"), pathlib.Path(folder, "b.png")
            self.write(one, rows, [0, 1, 2, 3, 4])
            self.assertEqual(png.pixels(one), (3, 5, 1, b"".join(rows)))
            self.write(other, [bytes([9, 200, 46]), *rows[1:]], [4, 3, 2, 1, 0])
            self.assertEqual(png.difference(one, other), (1.0, 15))


if __name__ == "__main__":
    unittest.main()
