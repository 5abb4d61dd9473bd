"""Makes crates/sampling/tests/fixtures/flow.json: rectified flows as SD3 and Flux have them.

    pip install torch torchvision k-diffusion==0.1.1 diffusers torchsde scipy
    python tools/reference/make_flow.py

- tables: sigmas by PyTorch in float32, of diffusers' shift (SD3) and time shift (Flux).
- schedules: diffusers (`normal`), SciPy (`beta`), and the definitions in float32 and float64.
- runs: 20 steps of one analytic velocity model. euler and heun are diffusers' flow matching schedulers;
  dpmpp_2m is k-diffusion's in float64; the SDE samplers are k-diffusion's, of the same problem in the ratio
  of noise to latent, where noise is only added; the rest is brute force in float64.
"""

from math import sqrt

import diffusers
import make_sampler_formulas as formulas
import numpy as np
import scipy.stats
import torch
from k_diffusion import sampling
from make_sampling import SHAPE, Normal, digest, write

SEED = 2025
STEPS = 20
# The names of the models in the test.
MODELS = {
    "sd3": (3.0, 1000.0),
    "schnell": (1.0, 1.0),
    "auraflow": (1.73, 1.0),
    "flux": 1.15,
    "flux_square": 0.5,
}


def shifted(model, t):
    """A tensor of times from 0 to 1 to sigmas, in its dtype."""
    if isinstance(MODELS[model], tuple):
        shift = MODELS[model][0]
        return t if shift == 1.0 else shift * t / (1 + (shift - 1) * t)
    config = dict(use_dynamic_shifting=True, time_shift_type="exponential")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**config)
    return scheduler.time_shift(MODELS[model], 1.0, t)


def table(model):
    if isinstance(MODELS[model], tuple):
        multiplier = MODELS[model][1]
        timesteps = torch.arange(1, 1001) / 1000 * multiplier
        return shifted(model, timesteps / multiplier)
    return shifted(model, torch.arange(1, 10001) / 10000)


def schedules(model):
    sigmas = table(model)
    count, low, high = len(sigmas), sigmas[0].item(), sigmas[-1].item()
    out = {}
    for steps in (1, 4, 20, 28):
        names = {}
        names["simple"] = [sigmas[count - 1 - x * count // steps] for x in range(steps)]
        # Timesteps are those of the shifted ends, and shifted once more: diffusers does so as well.
        if model == "sd3":
            scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=MODELS[model][0])
            scheduler.set_timesteps(steps)
            names["normal"] = scheduler.sigmas[:-1]
        else:
            names["normal"] = shifted(model, torch.linspace(high, low, steps))
        names["sgm_uniform"] = shifted(model, torch.linspace(high, low, steps + 1)[:-1])
        quantiles = scipy.stats.beta.ppf(1 - np.linspace(0, 1, steps, endpoint=False), 0.6, 0.6)
        places = dict.fromkeys(np.rint(quantiles * (count - 1)).astype(int).tolist())
        names["beta"] = [sigmas[place] for place in places]
        names["ddim_uniform"] = sigmas[range(1, count, count // steps)].flip(0)
        names["karras"] = sampling.get_sigmas_karras(steps, low, high)[:-1]
        names["exponential"] = sampling.get_sigmas_exponential(steps, low, high)[:-1]
        if steps > 1:
            i = np.arange(steps) / (steps - 1)
            names["kl_optimal"] = np.tan(i * np.arctan(low) + (1 - i) * np.arctan(high))
            linear = steps // 2
            slope, rest = 0.025 / linear, steps - linear
            bend = (1 - 0.025 - slope * rest) / rest**2
            gone = [slope * i for i in range(linear)]
            gone += [0.025 + slope * i + bend * i * i for i in range(rest)]
            names["linear_quadratic"] = [(1 - g) * high for g in gone]
        for name, values in names.items():
            out[f"{name} {steps}"] = [float(v) for v in values] + [0.0]
    return out


def denoised(x, sigma, **_):
    """The best guess for data of deviation 0.7 in a flow, bent so that no sampler is exact on it."""
    if torch.is_tensor(sigma):
        sigma = sigma.reshape(-1)[0]
    share = 1 - sigma
    return x * (share * 0.49 / (share**2 * 0.49 + sigma**2)) + 0.2 * x.tanh()


def velocity(x, sigma):
    return (x - denoised(x, sigma)) / sigma


def diffusers_run(scheduler, x):
    """The scheduler's own steps over given sigmas, the last of which is 0."""
    for place, t in enumerate(scheduler.timesteps):
        # Heun's scheduler has each sigma of a second evaluation as the first of the next step, too.
        sigma = scheduler.sigmas[place]
        x = scheduler.step(velocity(x, sigma), t, x, return_dict=False)[0]
    return x


def euler(x, sigmas):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=sigmas[:-1])
    assert torch.allclose(scheduler.sigmas, torch.tensor(sigmas), rtol=1e-6, atol=0)
    return diffusers_run(scheduler, x.float())


def heun(x, sigmas):
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(len(sigmas) - 1)
    own = torch.tensor(sigmas)
    scheduler.sigmas = torch.cat([own[:1], own[1:-1].repeat_interleave(2), own[-1:]])
    scheduler.timesteps = scheduler.sigmas[:-1] * 1000
    scheduler.set_begin_index(0)
    return diffusers_run(scheduler, x.float())


def dpmpp_2m(x, sigmas):
    return sampling.sample_dpmpp_2m(denoised, x, torch.tensor(sigmas).double(), disable=True)


class Noise:
    def __init__(self):
        self.normal = Normal(SEED)

    def __call__(self):
        return self.normal(None, None).double()


def ancestral(sigma, after, eta):
    """The sigma to step to, and the factor and the noise that lead to `after` from there: the latent's share becomes
    1 - after and the noise's deviation after."""
    down = after * (1 + (after / sigma - 1) * eta)
    factor = (1 - after) / (1 - down)
    return down, factor, sqrt(max(0.0, after**2 - (factor * down) ** 2))


def towards(x, guess, sigma, to):
    """Along the straight line to the guess."""
    noise = (x - (1 - sigma) * guess) / sigma
    return (1 - to) * guess + to * noise


def euler_ancestral(x, sigmas, eta=1.0):
    z = Noise()
    for sigma, after in zip(sigmas, sigmas[1:]):
        guess = denoised(x, sigma)
        if after == 0:
            return guess
        down, factor, up = ancestral(sigma, after, eta)
        x = factor * towards(x, guess, sigma, down) + up * z()
    return x


def dpm_2_ancestral(x, sigmas, eta=1.0):
    z = Noise()
    for sigma, after in zip(sigmas, sigmas[1:]):
        guess = denoised(x, sigma)
        if after == 0:
            return guess
        down, factor, up = ancestral(sigma, after, eta)
        middle = sqrt(sigma * down)
        there = x + velocity(x, sigma) * (middle - sigma)
        x = factor * (x + velocity(there, middle) * (down - sigma)) + up * z()
    return x


def dpmpp_2s_ancestral(x, sigmas, eta=1.0):
    z = Noise()
    for sigma, after in zip(sigmas, sigmas[1:]):
        guess = denoised(x, sigma)
        if after == 0:
            return guess
        down, factor, up = ancestral(sigma, after, eta)
        if sigma == 1.0:
            middle = 0.9999
        else:
            ratio = sqrt(sigma / (1 - sigma) * down / (1 - down))
            middle = ratio / (1 + ratio)
        guess = denoised(towards(x, guess, sigma, middle), middle)
        x = factor * towards(x, guess, sigma, down) + up * z()
    return x


def lcm(x, sigmas):
    z = Noise()
    for sigma, after in zip(sigmas, sigmas[1:]):
        x = denoised(x, sigma)
        if after > 0:
            x = (1 - after) * x + after * z()
    return x


def sde(name, largest):
    """In the ratio of noise to latent, where noise is only added."""

    def run(x, sigmas):
        # Noise is drawn for times in sigma, over the whole of the schedule.
        sigmas = torch.tensor(sigmas)
        tree = sampling.BrownianTreeNoiseSampler(
            x.float(), sigmas[sigmas > 0].min(), sigmas.max(), seed=SEED
        )
        # The ratio is infinite where there is no latent.
        sigmas[0] = min(sigmas[0], largest)
        ratios = sigmas.double() / (1 - sigmas.double())
        back = lambda ratio: ratio / (1 + ratio)
        guess = lambda y, ratio, **_: denoised(
            y * (1 - back(ratio.reshape(-1)[0])), back(ratio.reshape(-1)[0])
        )
        noise = lambda ratio, after: tree(back(ratio), back(after)).double()
        options = {}
        sampler = name
        if name == "dpmpp_2m_sde_heun":
            sampler, options = "dpmpp_2m_sde", {"solver_type": "heun"}
        start = x / (1 - sigmas[0].double())
        y = getattr(sampling, f"sample_{sampler}")(
            guess, start, ratios, disable=True, noise_sampler=noise, **options
        )
        return y * (1 - sigmas[-1].double())

    return run


def percent_to_sigma(model, percent):
    t = torch.tensor(1 - percent, dtype=torch.float64)
    return shifted(model, t).item()


def makers(model):
    largest = percent_to_sigma(model, 1e-4)
    brownian = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")
    return {
        "euler": euler,
        "heun": heun,
        "dpmpp_2m": dpmpp_2m,
        "res_multistep": lambda x, s: formulas.res_multistep(x, s, False, False),
        "res_multistep_ancestral": lambda x, s: formulas.res_multistep(x, s, True, False),
        "euler_ancestral": euler_ancestral,
        "dpm_2_ancestral": dpm_2_ancestral,
        "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
        "lcm": lcm,
        **{name: sde(name, largest) for name in brownian},
    }


def runs():
    cases = []
    formulas.guided = denoised
    formulas.SEED = SEED
    deterministic = ("euler", "heun", "dpmpp_2m", "res_multistep")
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(SEED)).double()
    for model in ("sd3", "flux"):
        lists = schedules(model)
        for scheduler in ("simple", "normal", "beta", "sgm_uniform"):
            sigmas = lists[f"{scheduler} {STEPS}"]
            for name, make in makers(model).items():
                if name not in deterministic and scheduler != "simple":
                    continue
                latent = make(noise * sigmas[0], sigmas).double().flatten().tolist()
                latent = [float(f"{v:.8g}") for v in latent]
                case = {"model": model, "scheduler": scheduler, "sampler": name, "latent": latent}
                cases.append(case)
    return cases


def main():
    tables = {}
    for model in MODELS:
        sigmas = table(model)
        tables[model] = {"digest": digest(sigmas), "some": sigmas[:: len(sigmas) // 10].tolist()}
    percents = {
        model: [percent_to_sigma(model, p) for p in (1e-4, 0.01, 0.15, 0.5, 0.8, 0.99)]
        for model in MODELS
    }
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    sizes = [(1024, 1024), (256, 256), (1536, 640), (2048, 2048)]
    shifts = [[w, h, calculate_shift(w * h // 256, 256, 4096, 0.5, 1.15)] for w, h in sizes]
    write(
        "flow.json",
        {
            "seed": SEED,
            "steps": STEPS,
            "tables": tables,
            "percents": percents,
            "shifts": shifts,
            "schedules": {model: schedules(model) for model in ("sd3", "schnell", "flux")},
            "runs": runs(),
        },
    )


if __name__ == "__main__":
    main()
