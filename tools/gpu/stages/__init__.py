"""The stages in the order in which they run. Each is a function that fills a `kit.Stage`."""

from stages import (
    correctness,
    devices,
    first_picture,
    lora,
    models,
    offload,
    operators,
    pictures,
)

ORDER = {
    "devices": devices.run,
    "correctness": correctness.run,
    "pictures": pictures.run,
    "operators": operators.run,
    "models": models.run,
    "offload": offload.run,
    "lora": lora.run,
    "first_picture": first_picture.run,
}
