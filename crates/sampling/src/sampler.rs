//! Samplers: from noise to a latent, one step of a sigma schedule after the other.
//!
//! Each is a small function over a [`Run`] and the values of a latent; [`SAMPLERS`] is the table of them. Coefficients are
//! computed in `f64`, tensors keep their dtype. Nothing waits for the device, but for
//! `dpm_adaptive`, which chooses its steps by what came out.

mod adams;
mod ddpm;
mod deis;
mod dpm_2;
mod dpm_solver;
mod dpmpp;
mod dpmpp_cfg_pp;
mod dpmpp_sde;
mod er_sde;
mod euler;
mod euler_cfg_pp;
mod exponential;
mod gradient_estimation;
mod heun;
mod lcm;
mod polynomial;
mod res_multistep;
mod run;
mod sa_solver;
mod seeds;
mod uni_pc;

use distorch_runtime::Tensor;
use thiserror::Error;

use crate::names::UnknownName;
use crate::process::NoiseProcess;

pub use run::{Callback, Options, Run, Step};
use run::{FlatRun, Values};

/// An error of the model, whatever it is.
pub type ModelError = Box<dyn std::error::Error + Send + Sync>;

/// What guesses the clean latent.
///
/// Latents are of rank `D`: pictures have `[batch, channels, height, width]`, videos frames between channels and height.
/// Guesses have the latent's shape.
pub trait Denoiser<const D: usize = 4> {
    /// The clean latent that `x`, noisy up to `sigma`, most likely comes from.
    fn denoise(&mut self, x: Tensor<D>, sigma: f64) -> Result<Tensor<D>, ModelError>;

    /// The same guess, and the one that follows the negative conditioning alone, for the samplers
    /// that step along the latter (`*_cfg_pp`). A model without guidance has one guess.
    fn denoise_both(
        &mut self,
        x: Tensor<D>,
        sigma: f64,
    ) -> Result<(Tensor<D>, Tensor<D>), ModelError> {
        let guess = self.denoise(x, sigma)?;
        Ok((guess.clone(), guess))
    }

    /// What noise does to a latent of this model, for the samplers that put noise in:
    /// [`ModelSampling::process`](crate::model_sampling::ModelSampling::process).
    fn process(&self) -> NoiseProcess {
        NoiseProcess::VarianceExploding
    }
}

impl<const D: usize, F> Denoiser<D> for F
where
    F: FnMut(Tensor<D>, f64) -> Result<Tensor<D>, ModelError>,
{
    fn denoise(&mut self, x: Tensor<D>, sigma: f64) -> Result<Tensor<D>, ModelError> {
        self(x, sigma)
    }
}

/// Why a run came to no end.
#[derive(Debug, Error)]
pub enum SampleError {
    /// The callback asked to stop.
    #[error("stopped at step {}{}", .step + 1, .total.map(|total| format!(" of {total}")).unwrap_or_default())]
    Stopped {
        /// The step, counted from 0, whose callback stopped the run.
        step: usize,
        /// The steps of the run, where they are known.
        total: Option<usize>,
    },
    /// The model failed.
    #[error("the model failed at sigma {sigma}")]
    Model {
        /// The noise level it was asked for.
        sigma: f64,
        /// What it said.
        #[source]
        source: ModelError,
    },
    /// A sigma that no sampler can step from.
    #[error(
        "sigma {value} at place {place} of the schedule: sigmas must be finite and above 0, the last may be 0"
    )]
    Sigma {
        /// The place in the schedule, from 0.
        place: usize,
        /// The value there.
        value: f64,
    },
    /// `dpm_adaptive` found no step small enough.
    #[error(
        "dpm_adaptive found no step to take from sigma {sigma} (error estimate {error}): the model's output is not finite or too rough; try another sampler"
    )]
    Diverged {
        /// Where it stood.
        sigma: f64,
        /// The last estimate, in tolerances.
        error: f64,
    },
    /// The sampler knows no noise for rectified flows.
    #[error(
        "{sampler} with eta {eta} puts in noise in a way that rectified flow models have no form of; set eta to 0 or take another sampler"
    )]
    NoFlowForm {
        /// The sampler.
        sampler: &'static str,
        /// Its `eta`.
        eta: f64,
    },
    /// A value could not be read from the device.
    #[error("cannot read an error estimate back from the device: {0}")]
    Read(String),
}

type SampleFn = fn(&mut FlatRun<'_>, Values, &[f64]) -> Result<Values, SampleError>;

/// A way from noise to a latent.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    name: &'static str,
    sample: SampleFn,
}

/// Every sampler, in the order of ComfyUI's menu.
pub const SAMPLERS: &[Sampler] = &[
    Sampler { name: "euler", sample: euler::euler },
    Sampler { name: "euler_cfg_pp", sample: euler_cfg_pp::euler_cfg_pp },
    Sampler { name: "euler_ancestral", sample: euler::euler_ancestral },
    Sampler { name: "euler_ancestral_cfg_pp", sample: euler_cfg_pp::euler_ancestral_cfg_pp },
    Sampler { name: "heun", sample: heun::heun },
    Sampler { name: "heunpp2", sample: heun::heunpp2 },
    Sampler { name: "exp_heun_2_x0", sample: seeds::exp_heun_2_x0 },
    Sampler { name: "exp_heun_2_x0_sde", sample: seeds::exp_heun_2_x0_sde },
    Sampler { name: "dpm_2", sample: dpm_2::dpm_2 },
    Sampler { name: "dpm_2_ancestral", sample: dpm_2::dpm_2_ancestral },
    Sampler { name: "lms", sample: adams::lms },
    Sampler { name: "dpm_fast", sample: dpm_solver::dpm_fast },
    Sampler { name: "dpm_adaptive", sample: dpm_solver::dpm_adaptive },
    Sampler { name: "dpmpp_2s_ancestral", sample: dpmpp::dpmpp_2s_ancestral },
    Sampler { name: "dpmpp_2s_ancestral_cfg_pp", sample: dpmpp_cfg_pp::dpmpp_2s_ancestral_cfg_pp },
    Sampler { name: "dpmpp_sde", sample: dpmpp_sde::dpmpp_sde },
    Sampler { name: "dpmpp_sde_gpu", sample: dpmpp_sde::dpmpp_sde_gpu },
    Sampler { name: "dpmpp_2m", sample: dpmpp::dpmpp_2m },
    Sampler { name: "dpmpp_2m_cfg_pp", sample: dpmpp_cfg_pp::dpmpp_2m_cfg_pp },
    Sampler { name: "dpmpp_2m_sde", sample: dpmpp_sde::dpmpp_2m_sde },
    Sampler { name: "dpmpp_2m_sde_gpu", sample: dpmpp_sde::dpmpp_2m_sde_gpu },
    Sampler { name: "dpmpp_2m_sde_heun", sample: dpmpp_sde::dpmpp_2m_sde_heun },
    Sampler { name: "dpmpp_2m_sde_heun_gpu", sample: dpmpp_sde::dpmpp_2m_sde_heun_gpu },
    Sampler { name: "dpmpp_3m_sde", sample: dpmpp_sde::dpmpp_3m_sde },
    Sampler { name: "dpmpp_3m_sde_gpu", sample: dpmpp_sde::dpmpp_3m_sde_gpu },
    Sampler { name: "ddpm", sample: ddpm::ddpm },
    Sampler { name: "lcm", sample: lcm::lcm },
    Sampler { name: "ipndm", sample: adams::ipndm },
    Sampler { name: "ipndm_v", sample: adams::ipndm_v },
    Sampler { name: "deis", sample: deis::deis },
    Sampler { name: "res_multistep", sample: res_multistep::res_multistep },
    Sampler { name: "res_multistep_cfg_pp", sample: res_multistep::res_multistep_cfg_pp },
    Sampler { name: "res_multistep_ancestral", sample: res_multistep::res_multistep_ancestral },
    Sampler {
        name: "res_multistep_ancestral_cfg_pp",
        sample: res_multistep::res_multistep_ancestral_cfg_pp,
    },
    Sampler { name: "gradient_estimation", sample: gradient_estimation::gradient_estimation },
    Sampler {
        name: "gradient_estimation_cfg_pp",
        sample: gradient_estimation::gradient_estimation_cfg_pp,
    },
    Sampler { name: "er_sde", sample: er_sde::er_sde },
    Sampler { name: "seeds_2", sample: seeds::seeds_2 },
    Sampler { name: "seeds_3", sample: seeds::seeds_3 },
    Sampler { name: "sa_solver", sample: sa_solver::sa_solver },
    Sampler { name: "sa_solver_pece", sample: sa_solver::sa_solver_pece },
    // As in ComfyUI: Euler in sigma is DDIM at eta 0; only inpainting differs.
    Sampler { name: "ddim", sample: euler::euler },
    Sampler { name: "uni_pc", sample: uni_pc::uni_pc },
    Sampler { name: "uni_pc_bh2", sample: uni_pc::uni_pc_bh2 },
];

impl Sampler {
    /// The sampler of a name. A `*_gpu` one is the other with the noise of the run's device
    /// ([`NoiseDevice`](crate::noise::NoiseDevice)) instead of the CPU's.
    pub fn by_name(name: &str) -> Result<Self, UnknownName> {
        SAMPLERS
            .iter()
            .find(|sampler| sampler.name == name)
            .copied()
            .ok_or_else(|| UnknownName::new("sampler", name, SAMPLERS.iter().map(|s| s.name)))
    }

    /// The name, as ComfyUI has it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the last sigma before 0 is left out of the schedule for this sampler:
    /// [`Span::sigmas`](crate::schedule::Span::sigmas).
    pub fn discards_penultimate(&self) -> bool {
        matches!(self.name, "dpm_2" | "dpm_2_ancestral" | "uni_pc" | "uni_pc_bh2")
    }

    /// Whether inpainting noises the kept part with noise of its own, not that of the run.
    pub fn random_inpaint_noise(&self) -> bool {
        self.name == "ddim"
    }

    /// Goes through the sigmas, from `x`, which is noisy up to the first. One sigma or none is no
    /// step: `x` is the result.
    pub fn sample<const D: usize>(
        &self,
        run: Run<'_, D>,
        x: Tensor<D>,
        sigmas: &[f64],
    ) -> Result<Tensor<D>, SampleError> {
        let last = sigmas.len().saturating_sub(1);
        for (place, &value) in sigmas.iter().enumerate() {
            let usable = value.is_finite() && (value > 0.0 || (value == 0.0 && place == last));
            if !usable {
                return Err(SampleError::Sigma { place, value });
            }
        }
        if last == 0 {
            return Ok(x);
        }
        run.sample(x, sigmas, self.sample)
    }
}

/// The steps of a schedule: index, sigma and next sigma.
fn steps(sigmas: &[f64]) -> impl Iterator<Item = (usize, f64, f64)> + '_ {
    sigmas.iter().zip(sigmas.iter().skip(1)).enumerate().map(|(i, (from, to))| (i, *from, *to))
}

/// The slope `dx/dsigma` of the probability flow: the noise in `x`, as a unit.
fn slope(x: &Values, denoised: &Values, sigma: f64) -> Values {
    (x.clone() - denoised.clone()) * (1.0 / sigma)
}

/// A first-order step of the exponential integrator from a sigma to the next, towards `denoised`.
fn exponential_step(x: Values, denoised: Values, sigma: f64, next: f64) -> Values {
    x * (next / sigma) + denoised * (1.0 - next / sigma)
}
