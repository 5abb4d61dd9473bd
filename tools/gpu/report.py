#!/usr/bin/env python3
"""Makes tables and a picture of what `check.sh` measured.

    python3 tools/gpu/report.py gpu-out/gpu.json              # the tables, as Markdown
    python3 tools/gpu/report.py gpu-out/gpu.json --keep       # also keeps the JSON in docs/gpu/ and rewrites
                                                              # docs/gpu.md's tables from all that are there

A dry run has measured no GPU: it can be shown, never kept.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
# Our time in PyTorch's below which an operator is as fast as it has to be: 1 / 0.8.
SLOW = 1.25
WORDS = {"ok": "ok", "failed": "not as it has to be", "timed out": "cut off", "crashed": "crashed", "skipped": "left out"}


class NotAGpu(Exception):
    """What was measured is no GPU."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=pathlib.Path)
    parser.add_argument("--keep", action="store_true", help="keep the JSON and rewrite docs/gpu.md")
    parser.add_argument("--docs", type=pathlib.Path, default=DOCS, help=argparse.SUPPRESS)
    parser.add_argument("--svg", type=pathlib.Path, help="draw the offload sweep here")
    arguments = parser.parse_args()
    report = json.loads(arguments.json.read_text())
    print(tables(report))
    if arguments.svg:
        arguments.svg.write_text(svg(report))
    if arguments.keep:
        try:
            kept = keep(report, arguments.docs)
        except NotAGpu as error:
            sys.exit(f"error: {error}")
        print(f"kept as {kept}", file=sys.stderr)


def keep(report, docs):
    """Keeps a card's JSON and picture in `docs/gpu/`, and rewrites the tables of `docs/gpu.md`."""
    folder = docs / "gpu"
    cards = {file: json.loads(file.read_text()) for file in folder.glob("*.json")}
    file = folder / f"{slug(report)}.json"
    cards[file] = report
    for kept in cards.values():
        require_gpu(kept)
    folder.mkdir(exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n")
    sections = []
    for kept, card in sorted(cards.items()):
        picture = svg(card)
        if picture:
            kept.with_suffix(".svg").write_text(picture)
        sections.append(tables(card, f"gpu/{kept.stem}.svg" if picture else None))
    page = docs / "gpu.md"
    text = page.read_text()
    head, found, rest = text.partition(BEGIN)
    _, ended, rest = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{page} has no `{BEGIN}` … `{END}`")
    page.write_text(f"{head}{BEGIN}\n\n" + "\n\n".join(sections) + f"\n\n{END}{rest}")
    return file


def require_gpu(report):
    if report["dry_run"]:
        raise NotAGpu("this is a dry run's JSON: it says nothing of a GPU and is not kept")
    if not report["device"].startswith(("cuda:", "rocm:")):
        raise NotAGpu(f"{report['device']} is no GPU")
    if report["device"] not in [device["id"] for device in data(report, "devices").get("survey", {}).get("devices", [])]:
        raise NotAGpu(f"{report['device']} was not found on that machine")


def data(report, stage):
    return report["stages"].get(stage, {}).get("data", {})


def card(report):
    """The card's name."""
    if report["dry_run"]:
        return f"DRY RUN on {report['device']}"
    found = data(report, "devices").get("card", {}).get("name")
    survey = data(report, "devices").get("survey", {}).get("devices", [])
    names = [device["name"] for device in survey if device["id"] == report["device"]]
    return found or (names[0] if names else report["device"])


def slug(report):
    return re.sub(r"[^a-z0-9]+", "-", card(report).lower()).strip("-")


def table(header, rows):
    """A Markdown table; columns after the first are numbers where their name ends in a colon."""
    if not rows:
        return ""
    rule = ["---:" if name.endswith(":") else "---" for name in header]
    header = [name.removesuffix(":") for name in header]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [header, rule, *rows])


def tables(report, picture=None):
    """All that was measured, as a section of Markdown."""
    parts = [f"### {card(report)}", about(report)]
    if report["dry_run"]:
        parts.append("**A dry run: small sizes, no GPU. Its times say nothing.**")
    parts += [stages(report), problems(report)]
    for title, make in [
        ("Link", link),
        ("Errors beside the CPU and PyTorch", errors),
        ("Pictures", pictures),
        ("Operators", operators),
        ("Models", models),
        ("A part of the UNet elsewhere", offload),
        ("LoRA", lora),
        ("First picture", first_picture),
    ]:
        text = make(report)
        if text:
            parts += [f"#### {title}", text]
    if picture:
        parts.append(f"![steps with a part elsewhere, against the roofline]({picture})")
    return "\n\n".join(part for part in parts if part)


def about(report):
    host, found = report["host"], data(report, "devices")
    lines = [f"Commit {report['commit']}, {report['started']}, {report['seconds']:.0f} s."]
    if not report["complete"]:
        lines.append("The run was cut short.")
    lines.append(f"{host.get('processor', host['system'])}, {host['cores']} cores.")
    torch = found.get("torch", {})
    for name, value in [
        ("driver", found.get("card", {}).get("driver_version")),
        ("NVRTC", found.get("nvrtc")),
        ("PyTorch", torch.get("version")),
    ]:
        if value:
            lines.append(f"{name} {value}.")
    return " ".join(lines)


def stages(report):
    rows = []
    for name, entry in report["stages"].items():
        checks = entry.get("checks", [])
        good = sum(check["ok"] for check in checks)
        skipped = sorted({f"{skip['what']}: {skip['why']}" for skip in entry.get("skipped", [])})
        notes = ([first_line(entry["reason"])] if entry.get("reason") else []) + skipped
        rows.append([name, WORDS.get(entry["status"], entry["status"]), f"{entry['seconds']:.0f} s", f"{good} of {len(checks)}", "; ".join(notes)])
    return table(["stage", "", "time:", "checks:", "left out"], rows)


def first_line(text):
    return text.strip().splitlines()[0] if text.strip() else ""


def problems(report):
    lines = []
    for name, entry in report["stages"].items():
        for check in entry.get("checks", []):
            if not check["ok"]:
                lines.append(f"- {name}: {check['name']}: {first_line(check['detail'])}")
    return "Not as it has to be:\n\n" + "\n".join(lines) if lines else ""


def link(report):
    found = data(report, "devices")
    rows = []
    for whose, copies in [("distorch", found.get("link", {}).get("copies", [])), ("PyTorch", found.get("torch_link", []))]:
        for copy in copies:
            memory = "pinned" if copy["pinned"] else "pageable"
            rows.append([whose, copy["direction"], memory, f"{copy['bytes_per_second'] / 1e9:.1f} GB/s"])
    return table(["", "direction", "memory", "speed:"], rows)


def errors(report):
    """The largest error of each kind of comparison and dtype, beside its tolerance."""
    worst = {}
    for error in data(report, "correctness").get("errors", []):
        key = (error["group"], error["dtype"])
        share = error["error"] / error["tolerance"]
        worst[key] = max(worst.get(key, (-1.0,)), (share, error["error"], error["tolerance"], error["what"]))
    rows = [
        [group, dtype, f"{error:.1e}", f"{tolerance:.1e}", what]
        for (group, dtype), (_, error, tolerance, what) in sorted(worst.items())
    ]
    return table(["group", "dtype", "largest error:", "tolerance:", "of"], rows)


def pictures(report):
    found = data(report, "pictures")
    rows = []
    for beside in found.get("beside_the_cpu", []):
        same = [place["same"] for place in found.get("same", []) if place["dtype"] == beside["dtype"]]
        rows.append([beside["dtype"], f"{beside['mean']:.3f}", beside["largest"], f"{sum(same)} of {len(same)}"])
    return table(["dtype", "mean difference to the CPU's, of 255:", "largest:", "placements with the same bits:"], rows)


def operators(report):
    found = data(report, "operators")
    theirs = {(timed["name"], timed["dtype"]): timed for timed in found.get("torch", [])}
    rows, ratios = [], {}
    for timed in found.get("distorch", []):
        other = theirs.get((timed["name"], timed["dtype"]))
        ratio = ""
        if other:
            value = timed["min_seconds"] / other["min_seconds"]
            ratios.setdefault((timed["kind"], timed["dtype"]), []).append(value)
            ratio = f"**{value:.2f}**" if value > SLOW else f"{value:.2f}"
        rate = f"{timed['flops'] / timed['min_seconds'] / 1e12:.1f}" if timed["flops"] else ""
        rows.append([
            timed["name"], timed["dtype"], milliseconds(timed["min_seconds"]), milliseconds(other["min_seconds"]) if other else "",
            ratio, rate, f"{timed['first_seconds']:.2f} s",
        ])
    text = table(["operator", "dtype", "distorch:", "PyTorch:", "ratio:", "TFLOP/s:", "first call:"], rows)
    if not ratios:
        return text
    means = [
        [kind, dtype, len(values), f"{statistics.geometric_mean(values):.2f}", f"{max(values):.2f}"]
        for (kind, dtype), values in sorted(ratios.items())
    ]
    summary = table(["kind", "dtype", "shapes:", "ratio, geometric mean:", "worst:"], means)
    return f"Our time in parts of PyTorch's; over {SLOW} is bold.\n\n{summary}\n\n{text}"


def milliseconds(seconds):
    return f"{seconds * 1e3:.3f} ms"


def models(report):
    found = data(report, "models")
    theirs = {(run["which"], run["dtype"]): {stage["stage"]: stage for stage in run["stages"]} for run in found.get("torch", [])}
    rows = []
    for run in found.get("distorch", []):
        other = theirs.get((run["which"], run["dtype"]), {})
        label = f"{run['which']}, {run['width']}², {run['dtype']}"
        rows.append(comparison(label, "loading", run["load_seconds"], other.get("load", {}).get("seconds"), "s"))
        for stage in run["stages"]:
            rows.append(comparison(
                label, {"text": "both prompts", "step": "a step", "decode": "decoding"}[stage["stage"]],
                stage["median_seconds"], other.get(stage["stage"], {}).get("median_seconds"), "s",
            ))
        if run.get("nvml_peak_bytes") is not None:
            memory = other.get("memory", {}).get("peak_bytes")
            gib = lambda size: None if size is None else size / 2**30
            rows.append(comparison(label, "peak memory", gib(run["nvml_peak_bytes"]), gib(memory), "GiB"))
            if run.get("planned_bytes") is not None:
                planned, idle = gib(run["planned_bytes"]), gib(found.get("idle_bytes") or 0)
                rows.append([label, "planned", f"{planned:.2f} GiB", "", ""])
                rows.append([label, "of the driver and kernels", f"{idle:.2f} GiB", "", ""])
    return table(["model", "", "distorch:", "diffusers:", "ratio:"], rows)


def comparison(label, what, ours, theirs, unit):
    digits = 3 if unit == "s" else 2
    other = "" if theirs is None else f"{theirs:.{digits}f} {unit}"
    ratio = "" if not theirs else f"{ours / theirs:.2f}"
    return [label, what, f"{ours:.{digits}f} {unit}", other, ratio]


def offload(report):
    found = data(report, "offload")
    theirs = {run["share_percent"]: run for run in found.get("diffusers", [])}
    rows = []
    for run in found.get("distorch", []):
        for point in run["points"]:
            other = theirs.get(point["share_percent"])
            # Its parts are larger than layers: what share it really keeps elsewhere.
            beside = f"{other['min_seconds']:.3f} s with {other['elsewhere_bytes'] / other['bytes']:.0%}" if other else ""
            rows.append([
                point["layout"], "pinned" if run["pin"] else "file", f"{point['share_percent']} %",
                f"{point['bandwidth'] / 1e9:.1f} GB/s", f"{point['step_seconds']:.3f} s", f"{point['roofline_seconds']:.3f} s",
                f"{point['ratio']:.3f}", beside,
            ])
    return table(["layout", "home", "elsewhere:", "link:", "step:", "roofline:", "ratio:", "diffusers' group offloading:"], rows)


def lora(report):
    found = data(report, "lora")
    ours, theirs = found.get("distorch"), found.get("peft", [])
    if not ours:
        return ""
    best = lambda values: f"{min(values):.3f} s" if values else ""
    rows = [
        ["put on", best(ours["apply_seconds"]), best([turn["apply_seconds"] for turn in theirs])],
        ["put on, the first time", f"{ours['first_seconds']:.3f} s", f"{theirs[0]['apply_seconds']:.3f} s" if theirs else ""],
        ["taken off", best(ours["remove_seconds"]), best([turn["remove_seconds"] for turn in theirs])],
    ]
    text = table([f"rank {ours['rank']}, {ours['layers']} layers, {ours['dtype']}", "distorch:", "peft:"], rows)
    return f"{ours['model']}. peft adds to the weights and takes off again; distorch reads the file anew.\n\n{text}"


def first_picture(report):
    rows = [
        [run["caches"], f"{run['seconds']:.1f} s", f"{run['cache_bytes'] / 2**20:.1f} MiB"]
        for run in data(report, "first_picture").get("runs", [])
    ]
    return table(["caches of kernels", "from start to picture:", "caches after:"], rows)


COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e"]
WIDTH, HEIGHT, LEFT, BOTTOM, RIGHT, TOP = 720, 400, 60, 45, 230, 30


def svg(report):
    """Steps in parts of the roofline over the share that lives elsewhere; empty where none was measured."""
    found = data(report, "offload")
    lines, rooflines = [], {}
    for run in found.get("distorch", []):
        points = [(point["share_percent"], point["ratio"]) for point in run["points"]]
        for point in run["points"]:
            rooflines.setdefault(point["share_percent"], []).append(point["roofline_seconds"])
        if points:
            lines.append((f"{run['points'][0]['layout']}, {'pinned' if run['pin'] else 'file'}", points))
    beside = [
        (run["share_percent"], run["min_seconds"] / min(rooflines[run["share_percent"]]))
        for run in found.get("diffusers", [])
        if run["share_percent"] in rooflines
    ]
    if beside:
        lines.append(("diffusers", beside))
    if not lines:
        return ""
    top = max(1.2, max(ratio for _, points in lines for _, ratio in points) * 1.05)
    x = lambda share: LEFT + share / 100 * (WIDTH - LEFT - RIGHT)
    y = lambda ratio: HEIGHT - BOTTOM - ratio / top * (HEIGHT - BOTTOM - TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-weight="bold">{escape(card(report))}: a step in parts of the roofline</text>',
        f'<text x="{x(50):.0f}" y="{HEIGHT - 8}" text-anchor="middle">per cent of the UNet elsewhere</text>',
    ]
    for share in (0, 25, 50, 75, 100):
        parts.append(f'<text x="{x(share):.0f}" y="{HEIGHT - 26}" text-anchor="middle">{share}</text>')
    step = next(step for step in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if top / step <= 8)
    for mark in range(int(top / step) + 1):
        at = mark * step
        colour = "#888" if at == 1 else "#ddd"
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(at):.1f}" y2="{y(at):.1f}" stroke="{colour}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{at:g}</text>')
    for number, (name, points) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        at = " ".join(f"{x(share):.1f},{y(ratio):.1f}" for share, ratio in sorted(points))
        parts.append(f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="2"/>')
        row = TOP + 18 + 20 * number
        parts.append(f'<line x1="{WIDTH - RIGHT + 16}" x2="{WIDTH - RIGHT + 40}" y1="{row}" y2="{row}" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 46}" y="{row + 4}">{escape(name)}</text>')
    return "\n".join(parts) + "\n</svg>\n"


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


if __name__ == "__main__":
    main()
