"""What each stage measures, in full on a GPU and small in a dry run, and how long it may take."""

# Seconds of each stage: on a GPU, in a dry run.
LIMITS = {
    "devices": (30, 30),
    "correctness": (80, 120),
    "pictures": (50, 120),
    "operators": (95, 60),
    "models": (110, 90),
    "offload": (60, 60),
    "lora": (20, 30),
    "first_picture": (25, 60),
}

FULL = {
    "devices": {"mib": 256, "copies": 10},
    "correctness": {"groups": ["kernels", "copies", "homes", "networks"]},
    "pictures": {"side": 128, "steps": 8, "dtypes": ["f32", "f16"], "layouts": ["distorch2", "interleave"]},
    # The most important first: whatever is cut off by the limit is at the end.
    "operators": {
        "runs": [("sd15", "f16"), ("sdxl", "f16"), ("flux", "f16"), ("sd15", "bf16"), ("sdxl", "bf16"), ("flux", "bf16")],
        "rounds": 5,
    },
    "models": {
        "models": [("sd15", 512), ("sdxl", 1024)],
        "dtypes": ["f16", "bf16"],
        "steps": 5,
    },
    "offload": {
        "model": "sdxl",
        "side": 1024,
        "dtype": "f16",
        "shares": [0, 25, 50, 75, 100],
        "steps": 2,
        "runs": [("distorch2", True), ("distorch2", False), ("interleave", True), ("interleave", False)],
    },
    "lora": {"model": "sdxl", "dtype": "f16", "rank": 32},
    "first_picture": {"model": "sd15", "side": 512, "steps": 2, "dtype": "f16"},
}

DRY = {
    "devices": {"mib": 8, "copies": 2},
    "correctness": {"groups": ["kernels", "copies", "homes", "networks"]},
    "pictures": {"side": 32, "steps": 2, "dtypes": ["f32"], "layouts": ["interleave"]},
    "operators": {"runs": [("tiny", "f32"), ("tiny", "f16")], "rounds": 2},
    "models": {"models": [("tiny", 64)], "dtypes": ["f32"], "steps": 1},
    "offload": {
        "model": "tiny",
        "side": 64,
        "dtype": "f32",
        "shares": [0, 100],
        "steps": 1,
        "runs": [("distorch2", True), ("interleave", False)],
    },
    "lora": {"model": "tiny", "dtype": "f32", "rank": 4},
    "first_picture": {"model": "tiny", "side": 32, "steps": 1, "dtype": "f32"},
}


def limit(stage, dry_run):
    return LIMITS[stage][1 if dry_run else 0]


def of(stage, dry_run):
    return (DRY if dry_run else FULL)[stage]
