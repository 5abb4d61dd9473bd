"""The test program on the device: kernels against the CPU's results, copies, homes, networks.

Its groups run one after the other in processes of their own: one that ends the driver leaves the others.
"""

import json
import pathlib
import re

import kit

MEASURED = re.compile(r"measured (\{.*?\})\s*$", re.MULTILINE)
SKIPPED = re.compile(r"skipped: (.*)$", re.MULTILINE)
RESULT = re.compile(r"test result: \w+\. (\d+) passed; (\d+) failed")
FAILURES = re.compile(r"^failures:\n((?:    \S+\n)+)", re.MULTILINE)


def run(stage):
    program = stage.settings.tests
    if not program or not pathlib.Path(program).is_file():
        raise kit.Skip("no test program is given")
    groups = stage.sizes["groups"]
    for index, group in enumerate(groups):
        # What is left, in equal parts: a group that hangs leaves time for the others.
        limit = stage.left() * 2 / (len(groups) - index + 1)
        with stage.part(group):
            one_group(stage, program, group, limit)


def one_group(stage, program, group, limit):
    tuning = kit.minimal_tuning(stage.settings.work)
    env = {"DISTORCH_TEST_DEVICE": stage.settings.device, "RUST_BACKTRACE": "0", **tuning}
    lines = []
    command = [program, f"{group}::", "--nocapture", "--test-threads=1"]
    failure = None
    try:
        stage.run(command, limit=limit, env=env, on_line=lines.append)
    except kit.Failed as error:
        failure = error
    output = "".join(lines)
    print(output, flush=True)
    for measured in MEASURED.findall(output):
        stage.add("errors", {"group": group, **json.loads(measured)})
    for why in sorted(set(SKIPPED.findall(output))):
        stage.skip(f"a part of {group}", why)
    result = RESULT.search(output)
    if result is None:
        raise failure or kit.Failed("the test program said nothing of its result")
    passed, failed = map(int, result.groups())
    stage.add("groups", {"group": group, "passed": passed, "failed": failed})
    stage.check(f"{group} has tests", passed + failed > 0)
    names = FAILURES.findall(output)
    for name in names[-1].split() if names else []:
        stage.check(name, False, why_it_failed(output, name))
    if failed == 0:
        stage.check(group, True, f"{passed} tests")


def why_it_failed(output, name):
    """What the panic of a test said."""
    found = re.search(rf"thread '{re.escape(name)}'[^\n]*panicked at [^\n]*\n(.*?)(?=\nnote: |\ntest |\nFAILED|\Z)", output, re.DOTALL)
    return found[1].strip() if found else "it failed"
