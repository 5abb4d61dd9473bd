"""Makes crates/sampling/tests/fixtures/sampler_formulas.json: samplers that no library has in ComfyUI's
form, by brute force in float64.

    pip install torch k-diffusion==0.1.1 torchsde scipy
    python tools/reference/make_sampler_formulas.py

Exponential integrators are integrated by SciPy's quadrature over the polynomials that their papers put
through the guesses, not by closed coefficients. `dpmpp_2m_sde_heun` is k-diffusion's.
"""

from math import exp, expm1, log, sqrt

import torch
from make_sampling import DATA_STD, FIXTURES, SHAPE, Normal, model, write
from scipy.integrate import quad

SEED = 4321
SCALE = 2.5


def negative(x, sigma):
    """The guess without the prompt: of other data."""
    return x * (0.25 / (sigma**2 + 0.25)) - 0.1 * (x / (sigma**2 + 1) ** 0.5).sin()


def guided(x, sigma):
    return negative(x, sigma) + SCALE * (model(x, sigma) - negative(x, sigma))


class Noise:
    def __init__(self):
        self.normal = Normal(SEED)

    def __call__(self):
        return self.normal(None, None).double()


def split(sigma, down_to):
    up = min(down_to, sqrt(down_to**2 * (sigma**2 - down_to**2) / sigma**2))
    return sqrt(down_to**2 - up**2), up


def lagrange(nodes, j):
    def value(at):
        product = 1.0
        for k, node in enumerate(nodes):
            if k != j:
                product *= (at - node) / (nodes[j] - node)
        return product

    return value


def integrated(nodes, guesses, start, end, speed):
    """The polynomial through the guesses at these lambdas, over the step and its forgetting."""
    total = 0
    for j, guess in enumerate(guesses):
        value = lagrange(nodes, j)
        weight = quad(lambda u: speed * exp(-speed * (end - u)) * value(u), start, end, epsabs=1e-13)
        total = total + weight[0] * guess
    return total


def euler_cfg_pp(x, s, ancestral):
    z = Noise()
    for sigma, after in zip(s, s[1:]):
        d, u = guided(x, sigma), negative(x, sigma)
        down, up = split(sigma, after) if ancestral else (after, 0.0)
        x = d + down * (x - u) / sigma
        if ancestral and after > 0:
            x = x + up * z()
    return x


def dpmpp_2m_cfg_pp(x, s):
    last = None
    for i, (sigma, after) in enumerate(zip(s, s[1:])):
        d, u = guided(x, sigma), negative(x, sigma)
        if after == 0:
            return d
        q = after / sigma
        new = d + q * (x - u)
        if last is not None:
            r = log(s[i - 1] / sigma) / log(sigma / after)
            new = new + (1 - q) * (d - last) / (2 * r)
        x, last = new, u
    return x


def dpmpp_2s_ancestral_cfg_pp(x, s):
    z = Noise()
    for sigma, after in zip(s, s[1:]):
        d, u = guided(x, sigma), negative(x, sigma)
        if after == 0:
            return d
        down, up = split(sigma, after)
        m, g = sqrt(sigma * down), log(sigma / down)
        x2 = m / sigma * (x + d - u) - expm1(-g / 2) * d
        d2, u2 = guided(x2, m), negative(x2, m)
        x = down / sigma * (x + d - u2) - expm1(-g) * d2 + up * z()
    return x


def gradient_estimation_cfg_pp(x, s):
    last = None
    for sigma, after in zip(s, s[1:]):
        d, u = guided(x, sigma), negative(x, sigma)
        if after == 0:
            return d
        slope = (x - u) / sigma
        x = d + after * slope
        if last is not None:
            x = x + (after - sigma) * (slope - last)
        last = slope
    return x


def res_multistep(x, s, ancestral, cfg_pp):
    """The clean latent, linear in lambda through the last two guesses, integrated."""
    z, last, length = Noise(), None, None
    for sigma, after in zip(s, s[1:]):
        d = guided(x, sigma)
        p = negative(x, sigma) if cfg_pp else d
        if after == 0:
            return d
        down, up = split(sigma, after) if ancestral else (after, 0.0)
        g = log(sigma / down)
        if last is None:
            x = d + down * (x - p) / sigma
        else:
            if cfg_pp:
                x = x + d - p
            x = exp(-g) * x + integrated([0.0, -length], [p, last], 0.0, g, 1.0)
        if ancestral:
            x = x + up * z()
        last, length = p, g
    return x


def er_sde(x, s):
    z = Noise()
    f = lambda v: v * (exp(v**0.3) + 10)
    guesses, slopes, sigmas = [], [], []
    for sigma, after in zip(s, s[1:]):
        d = guided(x, sigma)
        if after == 0:
            return d
        r, delta = f(after) / f(sigma), after - sigma
        points = [after - k * delta / 200 for k in range(200)]
        new = r * x + (1 - r) * d
        if guesses:
            slope = (d - guesses[-1]) / (sigma - sigmas[-1])
            new = new + (delta - f(after) * delta / 200 * sum(1 / f(p) for p in points)) * slope
            if slopes:
                bend = (slope - slopes[-1]) / ((sigma - sigmas[-2]) / 2)
                total = sum((p - sigma) / f(p) for p in points)
                new = new + (delta**2 / 2 - f(after) * delta / 200 * total) * bend
            slopes.append(slope)
        x = new + sqrt(max(0.0, after**2 - sigma**2 * r**2)) * z()
        guesses.append(d)
        sigmas.append(sigma)
    return x


def seeds(x, s, parts, eta, constant_end):
    """Guesses at the start and at these parts of the step; noise that keeps its past."""
    z = Noise()
    for sigma, after in zip(s, s[1:]):
        nodes, guesses = [0.0], [guided(x, sigma)]
        if after == 0:
            return guesses[0]
        h, speed = log(sigma / after), 1 + eta
        n, reached = 0.0, 0.0
        for part in [*parts, 1.0]:
            if eta:
                kept = exp(-(part - reached) * h)
                n = n * kept + sqrt(max(0.0, -expm1(-2 * (part - reached) * h))) * z()
            there = sigma * exp(-part * h)
            stage = there / sigma * exp(-part * h * eta) * x + there * n
            last_of_two = len(guesses) > len(parts)
            if last_of_two and constant_end:
                used = ([0.0], guesses[-1:])
            else:
                # The start and the newest guess.
                used = (nodes[:1] + nodes[1:][-1:], guesses[:1] + guesses[1:][-1:])
            stage = stage + integrated(*used, 0.0, part * h, speed)
            reached = part
            if len(guesses) <= len(parts):
                nodes.append(part * h)
                guesses.append(guided(stage, there))
        x = stage
    return x


def sa_solver(x, s, again, stochastic):
    z = Noise()
    count, zero = len(s) - 1, s[-1] == 0
    lam = [-log(v) if v else None for v in s]
    guesses, known = [], []

    def take(i, start, order, tau, noise):
        h = lam[i + 1] - lam[i]
        end = s[i + 1] / s[i] * exp(-(tau**2) * h) * start
        end = end + integrated(known[-order:], guesses[-order:], lam[i], lam[i + 1], 1 + tau**2)
        return end + noise

    predicted = x
    step = None
    for i in range(count):
        d = guided(predicted, s[i])
        guesses.append(d)
        known.append(lam[i])
        x = predicted
        if i > 0 and (s[i + 1] > 0 or again):
            order = min(4, len(guesses), count - i if zero else 4)
            x = take(i - 1, step[0], order, *step[1:])
            if again:
                d = guided(x, s[i])
                guesses[-1] = d
        if s[i + 1] == 0:
            return d
        tau = 1.0 if stochastic[0] <= s[i + 1] <= stochastic[1] else 0.0
        h = lam[i + 1] - lam[i]
        noise = s[i + 1] * sqrt(-expm1(-2 * h)) * z() if tau else 0.0
        step = (x, tau, noise)
        predicted = take(i, x, min(3, len(guesses), count - 1 - i if zero else 3), tau, noise)
    return predicted


def ipndm_v(x, s):
    """As its authors published it, with a bracket that closes too early."""
    past = []
    for i in range(len(s) - 1):
        d = (x - guided(x, s[i])) / s[i]
        if s[i + 1] == 0:
            return guided(x, s[i])
        past.insert(0, d)
        h = [s[i + 1 - k] - s[i - k] for k in range(min(i, 3) + 1)]
        c = [1.0, 0.0, 0.0, 0.0]
        if i >= 1:
            c[0] += h[0] / (2 * h[1])
            c[1] -= h[0] / (2 * h[1])
        if i >= 2:
            a = 0.5 * (
                1 - h[0] / (3 * (h[0] + h[1])) * (h[0] * (h[0] + h[1])) / (h[1] * (h[1] + h[2]))
            )
            for k, factor in enumerate([1, -(1 + h[1] / h[2]), h[1] / h[2]]):
                c[k] += factor * a
        if i >= 3:
            b = (1 - h[0] / (3 * (h[0] + h[1]))) / 2
            b += (1 - h[0] / (2 * (h[0] + h[1]))) * h[0] / (6 * (h[0] + h[1] + h[2]))
            b *= h[0] * (h[0] + h[1]) / (h[1] * (h[1] + h[2]))
            b *= (h[0] + h[1] + h[2]) / (h[1] + h[2] + h[3])
            k = h[1] * (h[1] + h[2]) / (h[2] * (h[2] + h[3]))
            q = h[1] / h[2]
            for j, factor in enumerate([1, -(1 + q + k), q + k * (1 + h[2] / h[3]), -k * q]):
                c[j] += factor * b
        x = x + (s[i + 1] - s[i]) * sum(weight * p for weight, p in zip(c, past))
    return x


def dpmpp_2m_sde_heun(x, s):
    from k_diffusion import sampling

    sigmas = torch.tensor(s)
    noise = sampling.BrownianTreeNoiseSampler(
        x.float(), sigmas[sigmas > 0].min(), sigmas.max(), seed=SEED
    )
    denoise = lambda x, sigma, **_: guided(x, sigma.reshape(-1)[0])
    return sampling.sample_dpmpp_2m_sde(
        denoise, x.float(), sigmas, disable=True, noise_sampler=noise, solver_type="heun"
    )


def main():
    from k_diffusion import sampling

    low, high = 0.0291675, 14.614642
    stochastic = (0.5, 5.0)
    zero = sampling.get_sigmas_karras(12, low, high).tolist()
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(SEED)) * zero[0]
    makers = {
        "euler_cfg_pp": lambda x, s: euler_cfg_pp(x, s, False),
        "euler_ancestral_cfg_pp": lambda x, s: euler_cfg_pp(x, s, True),
        "dpmpp_2m_cfg_pp": dpmpp_2m_cfg_pp,
        "dpmpp_2s_ancestral_cfg_pp": dpmpp_2s_ancestral_cfg_pp,
        "gradient_estimation_cfg_pp": gradient_estimation_cfg_pp,
        "res_multistep_cfg_pp": lambda x, s: res_multistep(x, s, False, True),
        "res_multistep_ancestral": lambda x, s: res_multistep(x, s, True, False),
        "res_multistep_ancestral_cfg_pp": lambda x, s: res_multistep(x, s, True, True),
        "er_sde": er_sde,
        "seeds_2": lambda x, s: seeds(x, s, [0.5], 1.0, True),
        "seeds_3": lambda x, s: seeds(x, s, [1 / 3, 2 / 3], 1.0, False),
        "exp_heun_2_x0": lambda x, s: seeds(x, s, [1.0], 0.0, False),
        "exp_heun_2_x0_sde": lambda x, s: seeds(x, s, [1.0], 1.0, False),
        "sa_solver": lambda x, s: sa_solver(x, s, False, stochastic),
        "sa_solver_pece": lambda x, s: sa_solver(x, s, True, stochastic),
        "ipndm_v": ipndm_v,
        "dpmpp_2m_sde_heun": dpmpp_2m_sde_heun,
    }
    cases = []
    for name, make in makers.items():
        for sigmas in (zero, zero[:-1]):
            latent = make(start.double(), sigmas).flatten().tolist()
            latent = [float(f"{v:.8g}") for v in latent]
            cases.append({"name": name, "zero": sigmas[-1] == 0, "latent": latent})
    out = {
        "seed": SEED,
        "shape": SHAPE,
        "data_std": DATA_STD,
        "scale": SCALE,
        "sigmas": zero,
        "stochastic": stochastic,
        "cases": cases,
    }
    write("sampler_formulas.json", out)


if __name__ == "__main__":
    main()
