#!/usr/bin/env python3
"""Hostile inputs: whatever a user gives, `distorch` ends by itself, soon, and with a sentence.

Makes inputs of every kind (command lines, allocations, workflows, model files, LoRAs, pictures, sizes,
nesting, pipes, limits of memory), runs each under a limit of address space, and reports each that ends
by a signal, runs longer than a minute, gives an exit code that is not 0, 1, 2 or 130, or shows a panic.

    python3 tools/hostile/run.py --distorch target/debug/distorch [--kind pictures] [--name text]

Needs Python's standard library and a system with limits of address space (Linux).
"""

import argparse
import concurrent.futures
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import command_lines
import limits
import model_files
import pictures
import workflows
from case import Case, Place

KINDS = [command_lines, workflows, model_files, pictures, limits]
SECONDS = 60
ADDRESS_SPACE = 3 << 30
EXIT_CODES = (0, 1, 2, 130)
# What shows a fault of the program, in whatever words the toolchain has.
FAULTS = (
    "panicked at",
    "internal error",
    "stack backtrace",
    "memory allocation of",
    "overflowed its stack",
    "this is a fault in it",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distorch", required=True, type=pathlib.Path)
    parser.add_argument("--kind", help="cases of this kind only")
    parser.add_argument("--name", help="cases with this in their name only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--verbose", action="store_true", help="show what each case says")
    args = parser.parse_args()
    repository = pathlib.Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(prefix="distorch-hostile-") as folder:
        place = Place(pathlib.Path(folder), repository)
        cases = [case for kind in KINDS for case in kind.cases(place)]
        names = [case.name for case in cases]
        assert len(set(names)) == len(names), "a name stands for two cases"
        if args.kind is None and args.name is None:
            assert len(cases) >= 300, f"{len(cases)} cases are too few"
        cases = [
            case
            for case in cases
            if (args.kind or "") in case.kind and (args.name or "") in case.name
        ]
        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            run = lambda case: one(args.distorch.resolve(), place, case)
            results = list(pool.map(run, cases))
    bad = 0
    counts = {}
    for case, (code, seconds, output, problem) in zip(cases, results):
        kind = counts.setdefault(case.kind, {})
        kind[code] = kind.get(code, 0) + 1
        if problem or args.verbose:
            print(f"{case.kind}: {case.name}: exit {code} after {seconds:.1f} s: {' '.join(map(str, case.arguments))[:300]}")
            print("    " + output[-1500:].strip().replace("\n", "\n    "))
        if problem:
            bad += 1
            print(f"  *** {problem}")
    for kind, codes in counts.items():
        told = ", ".join(f"{count} with {code}" for code, count in sorted(codes.items(), key=str))
        print(f"{kind}: {sum(codes.values())} ended, {told}")
    slowest = max(zip(results, cases), key=lambda pair: pair[0][1], default=None)
    if slowest:
        print(f"slowest: {slowest[1].name}, {slowest[0][1]:.1f} s")
    print(f"{len(cases)} hostile inputs in {time.monotonic() - begun:.0f} s, {bad} with a fault")
    sys.exit(1 if bad or not cases else 0)


def one(distorch, place, case: Case):
    """Runs a case: exit code, seconds, output, and what is wrong, if anything."""
    work = place.work(case)

    def limit():
        space = case.address_space or ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        for what, value in case.limits:
            resource.setrlimit(what, (value, value))

    env = {key: value for key, value in os.environ.items() if not key.startswith("RUST_")}
    env.pop("COMFYUI_PATH", None)
    env.update(case.environment)
    begun = time.monotonic()
    process = subprocess.Popen(
        [distorch, *case.arguments],
        cwd=work,
        env=env,
        stdin=subprocess.PIPE if case.stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=limit,
    )
    try:
        if case.closes_output:
            process.stdout.close()
            process.stdout = None
            output = b""
            process.wait(SECONDS)
        else:
            output, _ = process.communicate(case.stdin, SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0] if process.stdout else b""
        return "none", SECONDS, output.decode(errors="replace"), f"ran longer than {SECONDS} s"
    finally:
        shutil.rmtree(work, ignore_errors=True)
    seconds = time.monotonic() - begun
    text = (output or b"").decode(errors="replace")
    code = process.returncode
    problem = None
    if code not in EXIT_CODES:
        problem = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    for fault in FAULTS:
        if fault in text:
            problem = f"shows `{fault}`"
    if code in (1, 2) and not text.strip() and not case.closes_output:
        problem = "ends without a word"
    if case.expects is not None and code not in case.expects:
        problem = problem or f"exit code {code}, expected {case.expects}"
    return code, seconds, text, problem


if __name__ == "__main__":
    main()
