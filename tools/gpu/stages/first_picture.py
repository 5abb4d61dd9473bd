"""The time from a program's start to its picture, with empty caches of kernels and with those of the run before."""

import pathlib
import time

import kit
import model_files


def run(stage):
    settings, sizes = stage.settings, stage.sizes
    source = model_files.options(stage, sizes["model"])
    if source[0] == "--random":
        # `generate` needs a file.
        source = ["--ckpt", str(pathlib.Path(settings.repository, model_files.SHIPPED))]
    caches = pathlib.Path(settings.path("fresh-caches"))
    caches.mkdir(parents=True, exist_ok=True)
    env = kit.caches(settings.work, caches.name)
    side = sizes["side"]
    for caching in ("empty", "filled"):
        with stage.part(f"with {caching} caches"):
            begun = time.monotonic()
            stage.distorch(
                "generate", *source, "--prompt", "a lighthouse", "--steps", sizes["steps"], "--seed", "1",
                "--width", side, "--height", side, "--device", settings.placed_on, *settings.simulate,
                "--dtype", sizes["dtype"], "--output", settings.path(f"first-{caching}.png"), "--overwrite",
                "--allow-nan", env=env,
            )
            stage.add("runs", {
                "caches": caching, "seconds": time.monotonic() - begun,
                "cache_bytes": sum(file.stat().st_size for file in caches.rglob("*") if file.is_file()),
            })
    stage.put("checkpoint", pathlib.Path(source[1]).name)
