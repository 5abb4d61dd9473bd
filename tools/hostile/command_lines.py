"""Command lines: options, numbers, allocations, devices, `--set`."""

from case import Case, text_to_image

ALLOCATIONS = [
    "", ";", ";;;;", ",", "cpu", "cpu,", ",50%", "cpu,50", "cpu,-1%", "cpu,nan%", "cpu,inf%",
    "cpu,0%", "cpu,1e400%", "cpu,1e-400%", "cpu,50%;cpu,50%", "cuda:0,50%", "gpu,50%",
    "cuda:99999999999999999999,50%", "cpu,50%;cpu,1gb", "cpu,1gb;cuda:0,*;cpu,*", "cpu,*", "*,*",
    "cpu,1tb", "cpu,99999999999999999999999gb", "cpu,0x10gb", "cpu,1 gb gb", "cpu,.", "cpu,.5gb",
    "cpu,50%\0", "ćpu,50%", "cpu，50%", "CPU,50%", "cpu,1.2.3%", "cpu,50%%", "cpu,50%;" * 5000,
    "cpu," + "9" * 100_000 + "%", "a" * 100_000, "cpu,0.1b", "cpu,1b", "cpu;4;cpu", "cpu;nan;cpu",
]

SIMULATED = [
    "", ",", "cuda:0", "cuda:0=", "cuda:0=8", "cuda:0=-8GiB", "cuda:0=0", "cuda:0=1B", "cuda:0=nanGiB",
    "cuda:0=8GiB@", "cuda:0=8GiB@0GB/s", "cuda:0=8GiB@-1GB/s", "cuda:0=8GiB@1e-300GB/s",
    "cuda:0=8GiB,cuda:0=8GiB", "cpu=1B", "cpu=0", "cuda:0=99999999999999999999GiB",
    ",".join(f"cuda:{n}=1GiB" for n in range(3000)), "mps=1GiB", "vulkan:0=1GiB,metal=1MiB",
]

SETS = [
    "", "=", ".=", "sampler", "sampler.=1", ".steps=1", "sampler.steps", "sampler.steps=", "sampler.steps=[",
    "sampler.steps={}", "sampler.steps=null", "sampler.steps=-1", "sampler.steps=1e999",
    "sampler.steps=99999999999999999999999999999999999999", "sampler.seed=-1", "sampler.cfg=NaN",
    "sampler.cfg=1e308", "sampler.nothing=1", "nobody.steps=1", "sampler.model=[\"sampler\",0]",
    "sampler.model=[\"ckpt\",99999999999]", "sampler.model=[\"ckpt\",-1]", "good.text=" + "(" * 100_000,
    "good.text=" + "embedding:" * 10_000, "save.filename_prefix=../../../x", "save.filename_prefix=" + "a" * 5000,
    "save.filename_prefix=a\0b", "sampler.steps=" + "[" * 100_000, "ckpt.ckpt_name=" + "x" * 90_000,
    "ckpt.ckpt_name=/etc/passwd", "KSampler.seed=1", "decode.vae=1",
]

NUMBERS = [
    ("--steps", "0"), ("--steps", "-1"), ("--steps", "99999999999999999999"), ("--steps", "nan"),
    ("--seed", "-1"), ("--seed", "18446744073709551615"), ("--seed", "18446744073709551616"),
    ("--cfg", "nan"), ("--cfg", "inf"), ("--cfg", "-inf"), ("--cfg", "1e38"), ("--cfg", "100"),
    ("--denoise", "0"), ("--denoise", "-1"), ("--denoise", "2"), ("--denoise", "1e-300"),
    ("--batch", "0"), ("--clip-skip", "0"), ("--clip-skip", "24"), ("--clip-skip", "999999999999"),
    ("--sampler", "no_such"), ("--sampler", ""), ("--scheduler", "x" * 100_000),
    ("--lora", "nothing.safetensors:1"), ("--lora", "tiny-outlines.safetensors:nan"),
    ("--lora", "tiny-outlines.safetensors:1e30"), ("--lora", ":"), ("--lora", ""),
    ("--device", "cuda:0"), ("--device", "cuda:-1"), ("--device", "💥"), ("--device", ""),
    ("--virtual-vram-gb", "nan"), ("--virtual-vram-gb", "1e300"), ("--virtual-vram-gb", "-4"),
    ("--donor-device", "cuda:7"), ("--image", "/nothing.png"), ("--image", "/"), ("--image", ""),
    ("-o", ""), ("-o", "/"), ("-o", "/dev/null/x.png"), ("-o", "/dev/full"), ("-o", "x.jpg"),
    ("-o", "a" * 300 + ".png"), ("-o", "\n.png"), ("--prompt", ""), ("--prompt", "\x01\x7f\u202e"),
    ("--prompt", "word " * 20_000), ("--prompt", "(" * 450 + "x" + ")" * 450),
    ("--prompt", "(" * 90_000), ("--prompt", "(x:1e999)"), ("--prompt", "(x:nan)"),
    ("--prompt", "a" * 100_000), ("--prompt", "\\" * 9999), ("--prompt", "embedding:../../x"),
]

OTHERS = [
    [], ["--help"], ["nothing"], ["run"], ["run", ""], ["run", "/"], ["run", "/dev/null"], ["run", "nothing.json"],
    ["run", "-"], ["generate"], ["inspect"], ["inspect", "/"], ["inspect", "/dev/null"], ["inspect", "/dev/zero"],
    ["inspect", ""], ["inspect", "\0"[:0] + "x" * 5000], ["plan", "/dev/null"], ["plan", "--blocks", "/dev/null"],
    ["plan", "--blocks", "/dev/zero"], ["models", "nothing"], ["models", "--base-dir", "/nothing"],
    ["models", "--extra-model-paths", "/dev/zero"], ["models", "--extra-model-paths", "/"],
    ["nodes", "NoSuchNode"], ["nodes", "--json"], ["devices", "--json", "--json"], ["completions", "klingon"],
    ["completions", "bash"], ["bench", "offload", "--threads", "0"], ["--simulate"],
]


def cases(place):
    base = ["--base-dir", str(place.base)]
    for index, text in enumerate(ALLOCATIONS):
        if "\0" in text:  # no command line has one
            workflow = text_to_image()
            workflow["ckpt"] = {
                "class_type": "CheckpointLoaderAdvancedDisTorch2MultiGPU",
                "inputs": {"ckpt_name": "tiny-shapes.safetensors", "unet_expert_mode_allocations": text},
            }
            yield place.run("allocations", f"allocation-{index}", workflow)
            continue
        arguments = ["plan", "tiny-shapes.safetensors", *base, "--unet-expert-mode-allocations", text]
        simulated = ["--simulate", "cuda:0=8MiB"] if index % 2 else []
        yield Case("allocations", f"allocation-{index}", arguments + simulated)
    for index, text in enumerate(SIMULATED):
        yield Case("devices", f"simulated-{index}", ["devices", "--simulate", text])
        if index % 3 == 0:
            device = ["--device", "cuda:0"] if index % 2 else []
            yield place.generate("devices", f"made-{index}", "--simulate", text, *device)
    for index, text in enumerate(SETS):
        if "\0" in text:
            yield place.run("set", f"set-{index}", text_to_image(save_filename_prefix="a\0b"))
        else:
            yield place.run("set", f"set-{index}", text_to_image(), "--set", text)
    for index, (option, value) in enumerate(NUMBERS):
        yield place.generate("command lines", f"option-{index}", option, value)
    for index, arguments in enumerate(OTHERS):
        more = base if arguments and arguments[0] in ("run", "generate", "plan") else []
        yield Case("command lines", f"line-{index}", arguments + more, stdin=b"" if "-" in arguments else None)
    yield Case("command lines", "no-unicode", ["run", b"\xff\xfe.json"])
    yield Case("command lines", "no-unicode-set", ["run", "x.json", "--set", b"\xff=1"])
    for arguments in (["nodes"], ["nodes", "--json"], ["devices"], ["--help"], ["completions", "zsh"]):
        name = "closed-" + "-".join(arguments)
        yield Case("closed pipes", name, arguments, closes_output=True)
    yield Case("closed pipes", "closed-models", ["models", *base], closes_output=True)
    yield Case("closed pipes", "closed-nothing", ["nothing"], closes_output=True)
    plan = ["plan", "tiny-shapes.safetensors", *base]
    yield Case("closed pipes", "closed-plan", plan, closes_output=True)
    made = place.generate("closed pipes", "closed-generate")
    yield Case(made.kind, made.name, made.arguments, closes_output=True)
    made = place.run("closed pipes", "closed-run", text_to_image())
    yield Case(made.kind, made.name, made.arguments, closes_output=True)
