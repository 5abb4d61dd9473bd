"""`comfy-api-simplified`: python simplified.py URL PROMPT PICTURE"""

import json
import logging
import sys

from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper

url, prompt, picture = sys.argv[1:]
steps = []


class Steps(logging.Handler):
    """It logs the messages that it hears."""

    def emit(self, record):
        if isinstance(record.msg, dict) and record.msg.get("type") == "progress":
            steps.append(record.msg["data"])


logging.getLogger("comfy_api_simplified").setLevel(logging.DEBUG)
logging.getLogger("comfy_api_simplified").addHandler(Steps())
images = ComfyApiWrapper(url).queue_and_wait_images(ComfyWorkflowWrapper(prompt), "Save Image")
(image,) = images.values()
with open(picture, "wb") as file:
    file.write(image)
# It connects after it has queued, and hears what comes then.
assert steps and steps[-1]["value"] == steps[-1]["max"], json.dumps(steps)
print(f"{len(steps)} steps heard")
