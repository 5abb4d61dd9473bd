#!/usr/bin/env python3
"""Runs the stages one after the other and keeps what they measure in `gpu.json` and `gpu.log`.

`check.sh` calls this. Each stage is a process with a limit of time; one that fails, crashes or takes too
long does not stop the next. The JSON is written anew whenever a stage has measured something, so that a run
which is cut short leaves what it has.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import kit
import sizes
import stages

FORMAT = 1
# How often a stage's record is looked at, in seconds.
LOOK = 0.5
# The log keeps so many bytes of each stage's output, half of them from its end.
LOG_BYTES = 1 << 20
# Ends by itself, so that whoever runs it does not have to.
TOTAL_SECONDS = 470


def main():
    arguments = parse()
    if arguments.child:
        return child(json.loads(pathlib.Path(arguments.child).read_text()))
    # Ends as an error does: with its stage, and without what is big.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out = pathlib.Path(arguments.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix="distorch-gpu-", dir=work_folder(arguments.dry_run)))
    try:
        return run_all(arguments, out, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="small sizes, no GPU")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--distorch", default="distorch", help="the binary")
    parser.add_argument("--tests", default="", help="the test program of crates/models/tests/device")
    parser.add_argument("--out", default="gpu-out")
    parser.add_argument("--stage", action="append", choices=list(stages.ORDER), help="only this one; may repeat")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="for all stages together")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def work_folder(dry_run):
    """Memory, where that has room for the models, so that no disk is measured; else the system's."""
    memory = pathlib.Path("/dev/shm")
    if not dry_run and memory.is_dir() and shutil.disk_usage(memory).free > 24 << 30:
        return str(memory)
    return None


def run_all(arguments, out, work):
    begun = time.monotonic()
    repository = pathlib.Path(__file__).resolve().parents[2]
    found = shutil.which(arguments.distorch) or arguments.distorch
    settings = kit.Settings(
        dry_run=arguments.dry_run,
        device=arguments.device,
        distorch=str(pathlib.Path(found).resolve()),
        tests=str(pathlib.Path(arguments.tests).resolve()) if arguments.tests else "",
        repository=str(repository),
        work=str(work),
        out=str(out),
    )
    report = {
        "format": FORMAT,
        "dry_run": settings.dry_run,
        "device": settings.device,
        "started": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(repository),
        "complete": False,
        "seconds": 0.0,
        "host": host(),
        "stages": {},
    }
    file, log = out / "gpu.json", out / "gpu.log"
    log.write_text("")
    kit.write_json(file, report)
    absent = missing_device(settings)
    for name in arguments.stage or stages.ORDER:
        limit = sizes.limit(name, settings.dry_run)
        limit = min(limit, arguments.seconds - (time.monotonic() - begun))
        print(f"{name} …", end=" ", flush=True)
        if absent and name != "devices":
            entry = {"status": "skipped", "reason": absent, "seconds": 0.0}
        elif limit < 2:
            entry = {"status": "skipped", "reason": "no time was left", "seconds": 0.0}
        else:
            entry = run_stage(settings, name, limit, work, log, lambda entry: keep(report, name, entry, begun, file))
        keep(report, name, entry, begun, file)
        print(f"{entry['status']}, {entry['seconds']:.1f} s", flush=True)
    report["complete"] = True
    kit.write_json(file, report)
    print(summary(report), end="")
    return 0 if all(entry["status"] in ("ok", "skipped") for entry in report["stages"].values()) else 1


def missing_device(settings):
    """Why no stage can use the device: distorch looked and did not find it."""
    try:
        asked = subprocess.run([settings.distorch, "devices", "--json"], capture_output=True, text=True, timeout=30)
        survey = json.loads(asked.stdout)
        found = [device["id"] for device in survey["devices"]]
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
        return None
    notes = "".join(f"; {note}" for note in survey.get("notes", []) + survey.get("warnings", []))
    return None if settings.device in found else f"there is no {settings.device}, only {', '.join(found)}{notes}"


def keep(report, name, entry, begun, file):
    report["stages"][name] = entry
    report["seconds"] = round(time.monotonic() - begun, 1)
    kit.write_json(file, report)


def run_stage(settings, name, limit, work, log, on_change):
    """Runs a stage in a process of its own; its entry in the report."""
    record, wishes, output = (work / f"{name}.{end}" for end in ("json", "wishes.json", "log"))
    wishes.write_text(json.dumps({
        "settings": dataclasses.asdict(settings), "stage": name, "limit": limit, "record": str(record),
    }))
    begun = time.monotonic()
    with output.open("wb") as to:
        process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).resolve()), "--child", str(wishes)],
            stdout=to, stderr=subprocess.STDOUT, start_new_session=True, cwd=work,
            env={
                **os.environ, **kit.caches(work, "caches"),
                "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
        seen, timed_out = None, False
        try:
            while process.poll() is None and not timed_out:
                time.sleep(LOOK if limit > 10 else 0.05)
                changed = record.stat().st_mtime_ns if record.exists() else None
                if changed != seen:
                    seen = changed
                    on_change(entry_of(record, "running", "", begun, limit))
                timed_out = time.monotonic() - begun > limit
        finally:
            # What it started ends with it, and with this program.
            end(process)
    with log.open("ab") as to:
        to.write(f"\n===== {name}\n".encode() + cut(output.read_bytes()))
    if timed_out:
        return entry_of(record, "timed out", f"it took longer than {limit:.0f} s", begun, limit)
    if process.returncode == 0:
        return entry_of(record, None, "", begun, limit)
    text = output.read_text(errors="replace")
    reason = f"it ended with {kit.how_it_ended(process.returncode)}: {kit.tail(text)}"
    return entry_of(record, "crashed", reason, begun, limit)


def end(process):
    """Ends a stage's whole process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def entry_of(record, status, reason, begun, limit):
    try:
        entry = json.loads(record.read_text())
    except (OSError, ValueError):
        entry = {"checks": [], "skipped": [], "data": {}}
    if status is None:
        status = entry.get("status") or ("ok" if all(check["ok"] for check in entry["checks"]) else "failed")
        reason = entry.get("reason", "")
    seconds = round(time.monotonic() - begun, 1)
    return {**entry, "status": status, "reason": reason, "seconds": seconds, "limit_seconds": round(limit, 1)}


def cut(output):
    if len(output) <= LOG_BYTES:
        return output
    half = LOG_BYTES // 2
    return output[:half] + b"\n[... cut ...]\n" + output[-half:]


def child(wishes):
    """A stage, in its process."""
    settings = kit.Settings(**wishes["settings"])
    name = wishes["stage"]
    stage = kit.Stage(settings, name, sizes.of(name, settings.dry_run), wishes["limit"], wishes["record"])
    try:
        stages.ORDER[name](stage)
    except kit.Skip as why:
        stage.record.update(status="skipped", reason=str(why))
        stage.save()
    except kit.Failed as failure:
        stage.check(name, False, failure)
    return 0


def commit(repository):
    """The commit that was packed, or that of the checkout."""
    packed = repository / "gpu-kit" / "commit"
    if packed.is_file():
        return packed.read_text().strip()
    try:
        command = ["git", "-C", str(repository), "rev-parse", "--short=12", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def host():
    """The machine beside its GPU."""
    about = {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        about["processor"] = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        memory = pathlib.Path("/proc/meminfo").read_text().splitlines()[0]
        about["memory_bytes"] = int(memory.split()[1]) << 10
    except (OSError, StopIteration, IndexError, ValueError):
        pass
    return about


def summary(report):
    """What is not as it has to be, in short lines; the JSON and the log say all."""
    lines = []
    for name, entry in report["stages"].items():
        if entry["status"] not in ("ok", "failed"):
            lines.append(f"{name}: {entry['status']}: {entry['reason']}")
        lines += [f"{name}: {check['name']}: {check['detail']}" for check in entry.get("checks", []) if not check["ok"]]
    short = lambda text: text if len(text) < 300 else f"{text[:140]} … {text[-140:]}"
    return "".join(f"{short(' '.join(line.split()))}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
