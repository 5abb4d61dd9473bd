"""Makes the fixtures of crates/sampling/tests from other people's implementations.

    pip install torch k-diffusion==0.1.1 diffusers torchsde scipy
    python tools/reference/make_sampling.py

- noise.json: torch.randn on the CPU, torchsde's Brownian tree.
- timesteps.json: PyTorch in float32, of the published formulas.
- schedules.json: k-diffusion, diffusers and SciPy; formulas in float64 where no library has them.
- model_sampling.json: diffusers' LCM scheduler; k-diffusion's schedules between sigmas of one's choice.
- guidance.json: PyTorch's interpolation of masks; diffusers' rescaled guidance.
- samplers.json (more in make_sampler_formulas.py): 20 steps of k-diffusion's samplers and diffusers' UniPC, and of published formulas in
  float64 where no library has the sampler, all of one analytic denoiser.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch

# The package's own start imports evaluation code, whose requirements sampling does not need.
package = types.ModuleType("k_diffusion")
package.__path__ = [str(Path(importlib.util.find_spec("k_diffusion").origin).parent)]
sys.modules["k_diffusion"] = package

FIXTURES = Path(__file__).resolve().parents[2] / "crates/sampling/tests/fixtures"
MASK = (1 << 64) - 1


def digest(tensor):
    """FNV-1a over the 32-bit patterns: equal digests mean equal bits."""
    value = 0xCBF29CE484222325
    for word in tensor.contiguous().view(torch.int32).flatten().tolist():
        value = ((value ^ (word & 0xFFFFFFFF)) * 0x100000001B3) & MASK
    return f"{value:016x}"


def write(name, value):
    path = FIXTURES / name
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")
    print(name, path.stat().st_size)


def torch_randn():
    """Digests of torch.randn: each case is one seed and the shapes drawn one after the other."""
    seeds = [0, 1, 42, 1234567890123, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
    cases = [(7, [[n] for n in range(1, 41)])]
    cases += [(seed, [[1, 4, 64, 64]]) for seed in seeds]
    cases += [(seed, [[1, 4, 128, 128]]) for seed in seeds[:3]]
    cases += [(seed, [[n]]) for n in range(1, 41) for seed in (42, 2**63 + n)]
    cases += [(5, [[2, 4, 13, 11]]), (6, [[3, 16, 7, 9], [3, 16, 7, 9]]), (8, [[1, 4, 1, 1]])]
    cases += [(9, [[3], [5], [1, 4, 8, 8], [7], [16], [15], [1], [2, 4, 33, 17]])]
    cases += [(seed, [[4, 4, 96, 64]]) for seed in (3, 2**40 + 5)]
    out = []
    for seed, shapes in cases:
        generator = torch.Generator().manual_seed(seed)
        digests = [digest(torch.randn(shape, generator=generator)) for shape in shapes]
        out.append({"seed": str(seed), "shapes": shapes, "digests": digests})
    return out


def brownian():
    """k-diffusion's Brownian noise: the values for queries in the order a sampler makes them."""
    from k_diffusion.sampling import BrownianTreeNoiseSampler

    out = []
    for seed, shape, sigmas in [
        (42, [1, 4, 4, 4], [14.614642, 7.25, 3.1, 1.4, 0.5, 0.0291675]),
        (2**40 + 3, [1, 4, 3, 1], [14.614642, 11.9, 0.5, 0.1]),
        (0, [1, 1, 5, 5], [1.0, 0.5, 0.0078125]),
        (2**64 - 1, [2, 4, 2, 2], [80.0, 3.7, 0.03]),
    ]:
        x = torch.zeros(shape)
        sigmas = torch.tensor(sigmas)
        sampler = BrownianTreeNoiseSampler(x, sigmas.min(), sigmas.max(), seed=seed)
        queries = [(a, b) for a, b in zip(sigmas[:-1], sigmas[1:])] + [(sigmas[0], sigmas[-1])]
        out.append(
            {
                "seed": str(seed),
                "shape": shape,
                "sigmas": [s.item() for s in sigmas],
                "queries": [[a.item(), b.item()] for a, b in queries],
                "noise": [sampler(a, b).flatten().tolist() for a, b in queries],
            }
        )
    return out


def sd_sigmas():
    """The table of Stable Diffusion, ascending, as diffusers computes it (but in float64)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas_bar = torch.cumprod(1 - betas, 0)
    return ((1 - alphas_bar) / alphas_bar) ** 0.5


def schedules():
    import diffusers
    import scipy.stats
    from k_diffusion.external import DiscreteSchedule
    from k_diffusion.sampling import get_sigmas_exponential, get_sigmas_karras

    table = sd_sigmas().float()
    low, high = table[0].item(), table[-1].item()
    config = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    lists = []

    def add(name, steps, sigmas, source):
        sigmas = [float(s) for s in sigmas]
        lists.append({"name": name, "steps": steps, "sigmas": sigmas, "source": source})

    discrete = DiscreteSchedule(table, quantize=False)
    for steps in (1, 2, 5, 20, 30):
        add("karras", steps, get_sigmas_karras(steps, low, high), "k-diffusion")
        add("exponential", steps, get_sigmas_exponential(steps, low, high), "k-diffusion")
        add("normal", steps, discrete.get_sigmas(steps), "k-diffusion")
        # The trailing schedule less its last, from 999 to 0 in steps + 1.
        add("sgm_uniform", steps, [*discrete.get_sigmas(steps + 1)[:-2], 0.0], "k-diffusion")
        if steps > 1:
            i = np.arange(steps) / (steps - 1)
            sigmas = np.tan(i * np.arctan(low) + (1 - i) * np.arctan(high))
            add("kl_optimal", steps, [*sigmas, 0.0], "formula of the paper in float64")
    # Mochi's schedule, of the derivation: linear to the threshold, then the parabola through it
    # with the same slope that reaches 1 at the end.
    for steps in (2, 7, 20):
        linear = steps // 2
        slope, rest = 0.025 / linear, steps - linear
        bend = (1 - 0.025 - slope * rest) / rest**2
        noise = [slope * i for i in range(linear)]
        noise += [0.025 + slope * i + bend * i * i for i in range(rest)]
        add("linear_quadratic", steps, [*((1 - n) * high for n in noise), 0.0], "parabola, float64")
    for steps in (1, 3, 20, 30, 999, 1000):
        picked = [table[-(1 + x * 1000 // steps)] for x in range(steps)]
        add("simple", steps, [*picked, 0.0], "whole-number arithmetic")
    for steps in (1, 3, 20, 30, 49, 600):
        # DDIM's timesteps: a whole stride, offset by 1.
        picked = table[range(1, 1000, 1000 // steps)].flip(0)
        add("ddim_uniform", steps, [*picked, 0.0], "range with a stride")
    scheduler = diffusers.EulerDiscreteScheduler(**config, use_beta_sigmas=False)
    assert abs(scheduler.sigmas[0].item() - high) < 1e-4
    places = []
    for steps in [*range(1, 121), 200, 500]:
        ts = 1 - np.linspace(0, 1, steps, endpoint=False)
        picked = np.rint(scipy.stats.beta.ppf(ts, 0.6, 0.6) * 999).astype(int).tolist()
        places.append({"steps": steps, "places": list(dict.fromkeys(picked))})

    # Zero terminal SNR of diffusers, but for the last, whose value is a convention.
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas_bar = torch.cumprod(1 - rescale_zero_terminal_snr(betas), 0)
    zsnr = (((1 - alphas_bar) / alphas_bar) ** 0.5)[:-1:37].tolist()

    probes = [high, 10.0, 1.0, 0.3, 0.0291675, 0.05]
    timesteps = [discrete.sigma_to_t(torch.tensor([s]), quantize=False).item() for s in probes]
    quantized = [discrete.sigma_to_t(torch.tensor([s]), quantize=True).item() for s in probes]
    return {
        "table": table[::37].tolist(),
        "schedules": lists,
        "beta_places": places,
        "zero_terminal_snr": zsnr,
        "timesteps": {"sigmas": probes, "fractional": timesteps, "nearest": quantized},
    }


def timesteps():
    """The timesteps of schedules in timesteps, in float32 step by step: many are half way between two
    of the table."""
    steps = 45
    table = sd_sigmas()

    # Lin and others 2023, algorithm 1, with ComfyUI's convention for the last level.
    share = (1 / (table**2 + 1)).sqrt()
    share = (share - share[-1]) * (share[0] / (share[0] - share[-1]))
    share = share**2
    share[-1] = 4.8973451890853435e-08
    rescaled = ((1 - share) / share) ** 0.5
    # Tables are made in float64 and kept in float32.
    kept = lambda table: (table.float(), table.log().float())
    models = {
        "plain": (*kept(table), 1),
        "zero_terminal_snr": (*kept(rescaled), 1),
        "distilled": (*kept(table[19::20]), 20),
    }
    out = {}
    for name, (sigmas, logs, stride) in models.items():

        def timestep(sigma):
            return (sigma.log() - logs).abs().argmin().item() * stride + stride - 1

        def sigma(timestep):
            place = ((timestep - (stride - 1)) / stride).clamp(0, len(logs) - 1)
            low, high, weight = place.floor().long(), place.ceil().long(), place.frac()
            return ((1 - weight) * logs[low] + weight * logs[high]).exp()

        ends = timestep(sigmas[-1]), timestep(sigmas[0])
        told = lambda ts: [timestep(sigma(t)) for t in ts]
        out[name] = {
            "normal": [told(torch.linspace(*ends, n)) for n in range(1, steps + 1)],
            "sgm_uniform": [told(torch.linspace(*ends, n + 1)[:-1]) for n in range(1, steps + 1)],
        }
    return out


SHAPE = [1, 4, 4, 4]
DATA_STD = 0.7


def model(x, sigma, **_):
    """The best guess for data of deviation DATA_STD, bent so that no sampler is exact on it."""
    if torch.is_tensor(sigma):
        sigma = sigma.reshape(-1)[0]
    return x * (DATA_STD**2 / (sigma**2 + DATA_STD**2)) + 0.2 * (x / (sigma**2 + 1) ** 0.5).tanh()


class Normal:
    """The noise of an ancestral sampler: one generator, seeded with the run's seed plus one."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed + 1)

    def __call__(self, sigma, sigma_next):
        return torch.randn(SHAPE, generator=self.generator)


def published(name, x, sigmas):
    """Samplers that no library has, as published, step by step in float64."""
    x = x.double()
    s = [float(v) for v in sigmas]
    ds, guesses = [], []
    for i in range(len(s) - 1):
        guess = model(x, s[i])
        d = (x - guess) / s[i]
        dt = s[i + 1] - s[i]
        if name == "heunpp2":
            if i + 1 < len(s) - 1:
                x2 = x + d * dt
                d2 = (x2 - model(x2, s[i + 1])) / s[i + 1]
                if i + 2 == len(s) - 1:
                    w2 = s[i + 1] / (2 * s[0])
                    d = (1 - w2) * d + w2 * d2
                else:
                    x3 = x2 + d2 * (s[i + 2] - s[i + 1])
                    d3 = (x3 - model(x3, s[i + 2])) / s[i + 2]
                    w2, w3 = s[i + 1] / (3 * s[0]), s[i + 2] / (3 * s[0])
                    d = (1 - w2 - w3) * d + w2 * d2 + w3 * d3
            x = x + d * dt
        elif s[i + 1] == 0:
            x = guess
        elif name == "gradient_estimation":
            x = x + (2 * d - ds[-1] if ds else d) * dt
        elif name == "ipndm":
            table = {0: [1], 1: [3 / 2, -1 / 2], 2: [23 / 12, -16 / 12, 5 / 12]}
            table[3] = [55 / 24, -59 / 24, 37 / 24, -9 / 24]
            past = [d, *reversed(ds)]
            x = x + sum(c * p for c, p in zip(table[min(i, 3)], past)) * dt
        elif name == "res_multistep":
            # The exact integral of a clean latent linear in t = -log sigma.
            t, t_next = -np.log(s[i]), -np.log(s[i + 1])
            if not guesses:
                x = x + d * dt
            else:
                slope = (guess - guesses[-1]) / (t + np.log(s[i - 1]))
                h = t_next - t
                decay = np.exp(-h)
                x = decay * x + (1 - decay) * guess + (h - 1 + decay) * slope
        ds.append(d)
        guesses.append(guess)
    return x


def deis(x, sigmas):
    """tAB-DEIS of order 3 with SciPy's quadrature instead of a sum."""
    import scipy.integrate

    first = 1e-3
    low, high = np.log(0.002**2 + 1), np.log(80.0**2 + 1)
    rate = 2 * (low / first - high) / (first - 1)
    start = high - 0.5 * rate
    time = lambda s: (np.sqrt(start**2 + 2 * rate * np.log(s**2 + 1)) - start) / rate
    sigma = lambda t: np.sqrt(np.exp(0.5 * rate * t**2 + start * t) - 1)
    speed = lambda t: (1 + sigma(t) ** 2) * (rate * t + start) / (2 * sigma(t))
    x, s, ds = x.double(), [float(v) for v in sigmas], []
    for i in range(len(s) - 1):
        guess = model(x, s[i])
        if s[i + 1] == 0:
            return guess
        ds.insert(0, (x - guess) / s[i])
        ds = ds[:3]
        nodes = [time(v) for v in s[i :: -1][: len(ds)]]
        for j, d in enumerate(ds):
            others = [n for k, n in enumerate(nodes) if k != j]
            poly = lambda t: np.prod([(t - n) / (nodes[j] - n) for n in others])
            integral = scipy.integrate.quad(lambda t: speed(t) * poly(t), time(s[i]), time(s[i + 1]))
            x = x + d * integral[0]
    return x


def uni_pc(x, sigmas, variant):
    """diffusers' UniPC, given the sigmas, as a model that predicts noise."""
    import diffusers

    scheduler = diffusers.UniPCMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        solver_order=min(3, len(sigmas) - 2),
        solver_type=variant,
        final_sigmas_type="sigma_min",
    )
    steps = len(sigmas) - 1
    scheduler.set_timesteps(steps)
    scheduler.sigmas = sigmas.clone()
    scheduler.sigmas[-1] = max(sigmas[-1], torch.tensor(0.001))
    scheduler.timesteps = torch.arange(steps, 0, -1)
    scheduler.config.lower_order_final = True
    alpha = lambda s: 1 / (s**2 + 1) ** 0.5
    x = x * alpha(scheduler.sigmas[0])
    for i in range(steps):
        sigma = scheduler.sigmas[i]
        latent = x / alpha(sigma)
        eps = (latent - model(latent, sigma)) / sigma
        x = scheduler.step(eps, scheduler.timesteps[i], x).prev_sample
    return x / alpha(scheduler.sigmas[-1])


def ddpm(x, sigmas, seed):
    """Algorithm 2 of the DDPM paper through the posterior's mean in x0 form, in float64."""
    noise = Normal(seed)
    s = [float(v) for v in sigmas]
    share = lambda v: 1 / (v * v + 1)
    unit = x.double() * share(s[0]) ** 0.5
    for i in range(len(s) - 1):
        bar, bar_next = share(s[i]), share(s[i + 1])
        alpha = bar / bar_next
        guess = model(unit / bar**0.5, s[i])
        mean = bar_next**0.5 * (1 - alpha) / (1 - bar) * guess
        mean = mean + alpha**0.5 * (1 - bar_next) / (1 - bar) * unit
        unit = mean
        if s[i + 1] > 0:
            variance = (1 - alpha) * (1 - bar_next) / (1 - bar)
            unit = mean + variance**0.5 * noise(None, None)
    return unit / share(s[-1]) ** 0.5


def lcm(x, sigmas, seed):
    noise = Normal(seed)
    for sigma, following in zip(sigmas[:-1], sigmas[1:]):
        x = model(x, sigma)
        if following > 0:
            x = x + following * noise(None, None)
    return x


def samplers():
    from k_diffusion import sampling

    seed = 1234
    low, high = 0.0291675, 14.614642
    zero = sampling.get_sigmas_karras(20, low, high)
    without_zero = zero[:-1]
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * high
    cases = []

    def add(name, sigmas, x, source, **options):
        x = x.float().flatten().tolist()
        sigmas = sigmas.tolist()
        cases.append(
            {"name": name, "sigmas": sigmas, "latent": x, "source": source, "options": options}
        )

    for sigmas in (zero, without_zero):
        for name in ("euler", "heun", "dpm_2", "dpmpp_2m"):
            x = getattr(sampling, f"sample_{name}")(model, start, sigmas, disable=True)
            add(name, sigmas, x, "k-diffusion")
        for name in ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral"):
            for eta in (1.0, 0.5):
                sample = getattr(sampling, f"sample_{name}")
                noise = Normal(seed)
                x = sample(model, start, sigmas, disable=True, noise_sampler=noise, eta=eta)
                add(name, sigmas, x, "k-diffusion", eta=eta)
        for name in ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"):
            noise = sampling.BrownianTreeNoiseSampler(
                start, sigmas[sigmas > 0].min(), sigmas.max(), seed=seed
            )
            sample = getattr(sampling, f"sample_{name}")
            x = sample(model, start, sigmas, disable=True, noise_sampler=noise)
            add(name, sigmas, x, "k-diffusion")
        for name in ("heunpp2", "ipndm", "res_multistep", "gradient_estimation"):
            add(name, sigmas, published(name, start, sigmas), "published formula, float64")
        add("deis", sigmas, deis(start, sigmas), "published formula, SciPy's quadrature")
        add("ddpm", sigmas, ddpm(start, sigmas, seed), "published formula, float64")
        add("lcm", sigmas, lcm(start, sigmas, seed), "published formula")
        discarded = torch.cat([sigmas[:-2], sigmas[-1:]])
        for name, variant in (("uni_pc", "bh1"), ("uni_pc_bh2", "bh2")):
            x = uni_pc(start, discarded, variant)
            add(name, discarded, x, "diffusers")
    # k-diffusion has no step to 0 of its own here.
    x = sampling.sample_lms(model, start, without_zero, disable=True)
    add("lms", without_zero, x, "k-diffusion")
    for count in (5, 6, 7, 20, 21):
        sigmas = torch.linspace(high, low, count + 1)
        x = sampling.sample_dpm_fast(model, start, low, high, count, disable=True)
        add("dpm_fast", sigmas, x, "k-diffusion")
    noise = Normal(seed)
    x = sampling.sample_dpm_fast(
        model, start, low, high, 20, disable=True, eta=0.7, noise_sampler=noise
    )
    add("dpm_fast", torch.linspace(high, low, 21), x, "k-diffusion", eta=0.7)
    x = sampling.sample_dpm_adaptive(model, start, low, high, disable=True)
    add("dpm_adaptive", without_zero, x, "k-diffusion")
    noise = Normal(seed)
    x = sampling.sample_dpm_adaptive(
        model, start, low, high, disable=True, eta=0.5, noise_sampler=noise
    )
    add("dpm_adaptive", without_zero, x, "k-diffusion", eta=0.5)
    return {"seed": seed, "shape": SHAPE, "data_std": DATA_STD, "cases": cases}


def model_sampling():
    """The 50 levels of latent consistency models, their boundary scalings, and free schedules."""
    from diffusers import LCMScheduler
    from k_diffusion import sampling

    scheduler = LCMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", original_inference_steps=50
    )
    scheduler.set_timesteps(50)
    timesteps = scheduler.timesteps.flip(0)
    bar = scheduler.alphas_cumprod.double()
    scalings = [scheduler.get_scalings_for_boundary_condition_discrete(t.item()) for t in timesteps]
    turbo = torch.arange(9, -1, -1) * 100 + 99
    sigma = lambda t: (((1 - bar[t]) / bar[t]) ** 0.5).tolist()
    between = [
        ("karras", sampling.get_sigmas_karras, [7, 12.5, 0.05, 5.0]),
        ("exponential", sampling.get_sigmas_exponential, [7, 12.5, 0.05]),
        ("polyexponential", sampling.get_sigmas_polyexponential, [7, 12.5, 0.05, 1.7]),
        ("vp", sampling.get_sigmas_vp, [6, 19.9, 0.1, 1e-3]),
    ]
    lists = []
    for name, schedule, given in between:
        steps, *rest = given
        if name != "vp":
            rest[0], rest[1] = rest[1], rest[0]  # k-diffusion takes the smallest sigma first
        lists.append({"name": name, "given": given, "sigmas": schedule(steps, *rest).tolist()})
    return {
        "lcm": {
            "timesteps": timesteps.tolist(),
            "sigmas": sigma(timesteps),
            "skip": [skip for skip, _ in scalings],
            "out": [out for _, out in scalings],
        },
        "turbo": sigma(turbo),
        "between": lists,
    }


def guidance():
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(shape, generator=generator)
    masks = []
    for count, size, batch, to in [
        (1, (8, 8), 1, (1, 1)),
        (1, (5, 7), 2, (3, 4)),
        (2, (3, 2), 3, (7, 5)),
        (3, (4, 4), 2, (4, 4)),
    ]:
        mask = torch.rand((count, 1, *size), generator=generator)
        fitted = torch.nn.functional.interpolate(mask, size=to, mode="bilinear")
        fitted = torch.cat([fitted] * batch)[:batch].repeat(1, 2, 1, 1)
        masks.append(
            {
                "values": mask.flatten().tolist(),
                "shape": [count, *size],
                "latent": list(fitted.shape),
                "fitted": fitted.flatten().tolist(),
            }
        )
    videos = []
    separate = torch.Generator().manual_seed(4)
    for frames, size, to in [(3, (4, 5), (7, 3, 6)), (5, (2, 2), (2, 5, 3)), (1, (3, 3), (4, 2, 2))]:
        mask = torch.rand((1, 1, frames, *size), generator=separate)
        fitted = torch.nn.functional.interpolate(mask, size=to, mode="trilinear")
        videos.append(
            {
                "values": mask.flatten().tolist(),
                "shape": [frames, *size],
                "latent": [2, 2, *to],
                "fitted": fitted.repeat(2, 2, 1, 1, 1).flatten().tolist(),
            }
        )
    # diffusers rescales what the model puts out; here that is velocity.
    x, positive, negative = draw(2, 4, 3, 3) * 3, draw(2, 4, 3, 3), draw(2, 4, 3, 3)
    sigma, scale, part = 1.7, 7.5, 0.7
    root = (sigma**2 + 1) ** 0.5
    velocity = lambda guess: (x / root**2 - guess) * root / sigma
    guided = velocity(negative) + scale * (velocity(positive) - velocity(negative))
    guided = rescale_noise_cfg(guided, velocity(positive), guidance_rescale=part)
    flat = lambda t: t.flatten().tolist()
    return {
        "masks": masks,
        "video_masks": videos,
        "rescale": {
            "x": flat(x),
            "positive": flat(positive),
            "negative": flat(negative),
            "sigma": sigma,
            "scale": scale,
            "part": part,
            "guided": flat(x / root**2 - guided * sigma / root),
        },
    }


if __name__ == "__main__":
    FIXTURES.mkdir(parents=True, exist_ok=True)
    write("noise.json", {"torch": torch.__version__, "randn": torch_randn(), "brownian": brownian()})
    write("schedules.json", schedules())
    write("timesteps.json", timesteps())
    write("samplers.json", samplers())
    write("model_sampling.json", model_sampling())
    write("guidance.json", guidance())
