"""Counts which of other people's workflows this program could run, were the files that they name there.

    python tools/templates/count.py templates FOLDER   # of the wheel comfyui-workflow-templates-json, unpacked
    python tools/templates/count.py examples FOLDER    # of any files, such as ComfyUI-MultiGPU's example_workflows
    python tools/templates/count.py run FOLDER         # runs them with small random models in place of those they name

For the templates, those of kind `image` with open models count, weighted by the `usage` of their index, by the model that
comes first. Nothing of the files is kept. The judge is `crates/workflow/examples/validate_workflows.rs`; what runs them is
`run_small.rs` beside it.
"""

import argparse
import collections
import json
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
JUDGE = ["cargo", "run", "--quiet", "--package", "distorch-workflow", "--example", "validate_workflows", "--"]
RUNNER = [*JUDGE[:-2], "run_small", "--"]


def judged(files, judge):
    """What the judge finds of each file."""
    done = subprocess.run([*judge, *map(str, files)], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return {found["file"]: found["found"] for found in map(json.loads, done.stdout.splitlines())}


def templates(folder, judge, shown):
    index = json.loads(next(folder.rglob("index.json")).read_text())
    files = {path.stem: path for path in folder.rglob("*.json")}
    rows = [
        (files[template["name"]], template.get("usage") or 0, (template.get("models") or ["none"])[0])
        for kind in index
        if kind.get("type") == "image"
        for template in kind["templates"]
        if template.get("openSource") and template["name"] in files
    ]
    found = judged([path for path, _, _ in rows], judge)
    usage, valid, families = 0, 0, collections.defaultdict(lambda: [0, 0, 0, 0])
    missing = collections.Counter()
    for path, used, family in rows:
        is_valid = found[str(path)]["valid"]
        row = families[family]
        row[0] += 1
        row[1] += is_valid
        row[2] += used
        row[3] += used * is_valid
        usage, valid = usage + used, valid + used * is_valid
        for name in set(found[str(path)]["missing"]):
            missing[name] += used
        if shown and not is_valid:
            print(f"{used:6} {path.name}: {found[str(path)]['problem'].strip().splitlines()[0]}")
    print(f"{'family':28} {'templates':>9} {'valid':>6} {'usage':>7} {'valid':>7}")
    for family, row in sorted(families.items(), key=lambda item: -item[1][2]):
        print(f"{family:28} {row[0]:9} {row[1]:6} {row[2]:7} {row[3]:7}")
    count = sum(row[1] for row in families.values())
    print(f"{count} of {len(rows)} templates; {valid} of {usage} by usage, {100 * valid / max(usage, 1):.1f} %")
    print("nodes that are missing, by usage:", dict(missing.most_common(12)))


def examples(folder, judge, shown):
    files = sorted(folder.rglob("*.json"))
    found = judged(files, judge)
    for path in files:
        problem = found[str(path)]["problem"]
        lines = (problem or "valid").strip().splitlines()
        print(f"{path.name}: {lines[0] if not shown else ' | '.join(line.strip() for line in lines)}")
    print(f"{sum(found[str(path)]['valid'] for path in files)} of {len(files)} are valid")


def run(folder, judge, shown):
    files = sorted(folder.rglob("*.json"))
    found = judged(files, judge)
    for path in files:
        problem = found[str(path)].get("problem")
        print(f"{path.name}: {problem.strip().splitlines()[0] if problem else 'ran'}")
    print(f"{sum(found[str(path)]['ran'] for path in files)} of {len(files)} ran")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["templates", "examples", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", action="store_true", help="say what is wrong with each")
    parser.add_argument("--judge", type=Path, help="the judge as it was built, instead of building it")
    given = parser.parse_args()
    judge = [str(given.judge)] if given.judge else RUNNER if given.kind == "run" else JUDGE
    count = {"templates": templates, "examples": examples, "run": run}[given.kind]
    count(given.folder.resolve(), judge, given.problems)


if __name__ == "__main__":
    main()
