//! DPM-Solver++ for the diffusion SDE (Lu and others 2022; k-diffusion), with Brownian noise.

use distorch_runtime::Tensor;

use super::{Run, SampleError, ancestral, carry, steps};

/// DPM-Solver++ (stochastic): the guess is taken again half way down, with noise there too.
pub(super) fn dpmpp_sde(
    run: &mut Run<'_>,
    mut x: Tensor<4>,
    sigmas: &[f64],
) -> Result<Tensor<4>, SampleError> {
    let (eta, s_noise) = (run.eta(1.0), run.options.s_noise);
    let noise = run.brownian(&x, sigmas);
    for (i, sigma, next) in steps(sigmas) {
        let denoised = run.begin(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let middle = middle_sigma(sigma, next);

        let (down, up) = ancestral(sigma, middle, eta);
        let there = carry(x.clone(), denoised, sigma, down)
            + noise.between(sigma, middle, &x) * (s_noise * up);
        let guess = run.denoise(&there, middle)?;

        let (down, up) = ancestral(sigma, next, eta);
        let added = noise.between(sigma, next, &x) * (s_noise * up);
        x = carry(x, guess, sigma, down) + added;
    }
    Ok(x)
}

/// The geometric middle, through float32 logarithms: Brownian noise is drawn for times of 6
/// decimals, and the reference rounds before it gets there.
fn middle_sigma(sigma: f64, next: f64) -> f64 {
    let (t, t_next) = (-(sigma as f32).ln(), -(next as f32).ln());
    let middle = t + (t_next - t) * 0.5;
    f64::from((-middle).exp())
}

/// DPM-Solver++(2M) SDE, with the midpoint rule.
pub(super) fn dpmpp_2m_sde(
    run: &mut Run<'_>,
    mut x: Tensor<4>,
    sigmas: &[f64],
) -> Result<Tensor<4>, SampleError> {
    let noise = SdeNoise::new(run, &x, sigmas);
    let mut last: Option<Past> = None;
    for (i, sigma, next) in steps(sigmas) {
        let denoised = run.begin(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let h = (sigma / next).ln();
        let pull = -(-h * (1.0 + noise.eta)).exp_m1();
        x = x * (1.0 - pull) + denoised.clone() * pull;
        if let Some((h_last, old)) = last {
            x = x + (denoised.clone() - old) * (0.5 * pull * h / h_last);
        }
        x = noise.add(x, sigma, next);
        last = Some((h, denoised));
    }
    Ok(x)
}

/// DPM-Solver++(3M) SDE: as many as three guesses, as a polynomial.
pub(super) fn dpmpp_3m_sde(
    run: &mut Run<'_>,
    mut x: Tensor<4>,
    sigmas: &[f64],
) -> Result<Tensor<4>, SampleError> {
    let noise = SdeNoise::new(run, &x, sigmas);
    let (mut last, mut before): (Option<Past>, Option<Past>) = (None, None);
    for (i, sigma, next) in steps(sigmas) {
        let denoised = run.begin(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let h = (sigma / next).ln();
        let h_eta = h * (1.0 + noise.eta);
        let pull = -(-h_eta).exp_m1();
        x = x * (1.0 - pull) + denoised.clone() * pull;
        let phi_2 = 1.0 - pull / h_eta;
        if let Some((h_1, guess_1)) = &last {
            let r0 = h_1 / h;
            let d1_0 = (denoised.clone() - guess_1.clone()) * (1.0 / r0);
            if let Some((h_2, guess_2)) = &before {
                let r1 = h_2 / h;
                let d1_1 = (guess_1.clone() - guess_2.clone()) * (1.0 / r1);
                let bend = (d1_0.clone() - d1_1) * (1.0 / (r0 + r1));
                let phi_3 = phi_2 / h_eta - 0.5;
                x = x + (d1_0 + bend.clone() * r0) * phi_2 - bend * phi_3;
            } else {
                x = x + d1_0 * phi_2;
            }
        }
        x = noise.add(x, sigma, next);
        before = last.replace((h, denoised));
    }
    Ok(x)
}

/// A past step's length in `t`, and its guess.
type Past = (f64, Tensor<4>);

/// The noise that the exact solution of the SDE has gained over a step.
struct SdeNoise {
    brownian: crate::noise::BrownianNoise,
    eta: f64,
    s_noise: f64,
}

impl SdeNoise {
    fn new(run: &Run<'_>, x: &Tensor<4>, sigmas: &[f64]) -> Self {
        let brownian = run.brownian(x, sigmas);
        Self { brownian, eta: run.eta(1.0), s_noise: run.options.s_noise }
    }

    fn add(&self, x: Tensor<4>, sigma: f64, next: f64) -> Tensor<4> {
        if self.eta == 0.0 {
            return x;
        }
        let h = (sigma / next).ln();
        let deviation = next * (-(-2.0 * self.eta * h).exp_m1()).max(0.0).sqrt();
        let noise = self.brownian.between(sigma, next, &x);
        x + noise * (deviation * self.s_noise)
    }
}
