"""`comfy-script`: python script.py URL PROMPT PICTURE"""

import json
import sys

from comfy_script.runtime import load, queue

url, prompt, picture = sys.argv[1:]
load(url)

from comfy_script.runtime import Workflow, nodes  # noqa: E402

steps = []
queue.watch_display(False)


def call_nodes(prompt):
    """Calls the nodes of the prompt, each after those that it is linked to, with what they returned."""
    values = {}

    def value(given):
        if isinstance(given, list):
            made = values[given[0]]
            return made[given[1]] if isinstance(made, (list, tuple)) else made
        return given

    todo = list(prompt)
    while todo:
        for node in list(todo):
            links = [given[0] for given in prompt[node]["inputs"].values() if isinstance(given, list)]
            if all(link in values for link in links):
                call = getattr(nodes, prompt[node]["class_type"])
                inputs = {name: value(given) for name, given in prompt[node]["inputs"].items()}
                values[node] = call(**inputs)
                todo.remove(node)


with open(prompt) as file:
    prompt = json.load(file)
with Workflow(queue=False) as workflow:
    call_nodes(prompt)
task = workflow.queue()
task.add_progress_callback(lambda step: steps.append((step.value, step.max)))
(images,) = task.wait()
images.wait()[0].save(picture)
assert steps and steps[-1][0] == steps[-1][1], steps
print(f"{len(steps)} steps heard")
