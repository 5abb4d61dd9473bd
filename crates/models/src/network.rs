//! The seam of diffusion networks: what every family's network takes and returns.
//!
//! A network predicts what is between a noisy latent and a clean one. How its prediction is to be read
//! ([`NoiseLevels`]) and what its latents look like ([`LatentFormat`](crate::latent_format::LatentFormat)) is
//! said beside it.

use distorch_checkpoint::config::Prediction;
use distorch_runtime::Tensor;

use crate::ModelError;

/// One evaluation of a diffusion network.
#[derive(Clone, Debug)]
pub struct NetworkInput {
    /// The noisy latent as [`NoiseLevels`] scales it, with further channels that the variant takes behind it:
    /// `[batch, in_channels, height, width]`, of any size.
    pub x: Tensor<4>,
    /// `[batch]`: timesteps as the network was trained on them, which need not be whole.
    pub timesteps: Tensor<1>,
    /// The states of the text, `[batch, tokens, width]`.
    pub context: Tensor<3>,
    /// The pooled text, with what else the family puts into its class vector: `[batch, width]`.
    pub vector: Option<Tensor<2>>,
    /// How strong a distilled guidance is, `[batch]` (Flux dev: 3.5).
    pub guidance: Option<Tensor<1>>,
    /// Clean latents of pictures that the network looks at beside the noisy one (Flux Kontext), each
    /// `[batch, channels, height, width]` of any size.
    pub reference_latents: Vec<Tensor<4>>,
    /// Where these are beside the noisy one.
    pub reference_method: ReferenceMethod,
    /// Before which of the context's tokens each of them stands, in order, for networks that read both as one sequence
    /// (Qwen-Image 2.1); those without a number stand behind the text.
    pub reference_slots: Vec<usize>,
    /// Blocks that pass on what they are given.
    pub skip: SkipLayers,
}

impl NetworkInput {
    /// Checks that the noisy latent has these channels, and pixels.
    pub(crate) fn expect_latent(
        &self,
        model: &'static str,
        channels: usize,
    ) -> Result<(), ModelError> {
        let [_, found, height, width] = self.x.dims();
        let pixels = pixels(height, width);
        ModelError::expect(model, "latent", &(channels, "pixels"), &(found, pixels))
    }

    /// Checks that each reference has these channels, pixels, and a batch of one or of the noisy latent.
    pub(crate) fn expect_references(
        &self,
        model: &'static str,
        channels: usize,
    ) -> Result<(), ModelError> {
        let mut references = self.reference_latents.iter();
        references.try_for_each(|x| self.expect_batched(model, "reference latent", x, channels))
    }

    /// Checks the noisy latent and the references, which have as many channels.
    pub(crate) fn expect_latents(
        &self,
        model: &'static str,
        channels: usize,
    ) -> Result<(), ModelError> {
        self.expect_batched(model, "latent", &self.x, channels)?;
        self.expect_references(model, channels)
    }

    fn expect_batched(
        &self,
        model: &'static str,
        name: &'static str,
        latent: &Tensor<4>,
        channels: usize,
    ) -> Result<(), ModelError> {
        let batch = self.x.dims()[0];
        let [rows, found, height, width] = latent.dims();
        let rows = if rows == 1 { batch } else { rows };
        let found = (rows, found, pixels(height, width));
        ModelError::expect(model, name, &(batch, channels, "pixels"), &found)
    }

    /// Checks that there is a timestep for each picture.
    pub(crate) fn expect_timesteps(&self, model: &'static str) -> Result<(), ModelError> {
        let batch = self.x.dims()[0];
        ModelError::expect(model, "timesteps", &[batch], &self.timesteps.dims())
    }

    /// Checks that there are states of this width for each picture.
    pub(crate) fn expect_context(
        &self,
        model: &'static str,
        width: usize,
    ) -> Result<(), ModelError> {
        let batch = self.x.dims()[0];
        let [rows, tokens, found] = self.context.dims();
        let expected = [batch, tokens.max(1), width];
        ModelError::expect(model, "context", &expected, &[rows, tokens, found])
    }
}

fn pixels(height: usize, width: usize) -> &'static str {
    if height * width == 0 { "no pixels" } else { "pixels" }
}

/// Where the patches of reference latents are beside those of the noisy latent, for transformers that know patches by an
/// index, a row and a column. The noisy latent's have index 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReferenceMethod {
    /// As the model was trained: [`Offset`](Self::Offset) for Flux.1, [`Index`](Self::Index) for Flux.2 and Qwen-Image.
    #[default]
    Own,
    /// All have index 1. The first is at row and column 0; each further one is below those before or to their right,
    /// where its far edge is nearer.
    Offset,
    /// Each has an index of its own, from 1 on, and begins at row and column 0.
    Index,
    /// As [`Index`](Self::Index), and they are seen as without noise, whatever that of the noisy latent
    /// (Qwen-Image-Edit 2511).
    IndexAtZero,
    /// All have index 0. The first begins behind the last row and column of the noisy latent, each further one behind
    /// those of the one before (UNO: Wu and others 2025, <https://arxiv.org/abs/2504.02160>).
    Diagonal,
}

impl ReferenceMethod {
    /// For networks all of whose tokens have one time.
    pub(crate) fn check_one_time(self, model: &'static str) -> Result<(), ModelError> {
        match self {
            ReferenceMethod::IndexAtZero => Err(ModelError::Input {
                model,
                input: "reference method",
                expected: "`offset`, `index` or `uxo/uno`".to_owned(),
                found: "`index_timestep_zero`, which Qwen-Image reads here".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// Blocks of a transformer that are left out, by their numbers (skip-layer guidance).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkipLayers {
    /// Of the blocks with a stream each for picture and text: SD3's `joint_blocks`, Flux's `double_blocks`.
    pub double: Vec<usize>,
    /// Of the blocks with one stream: Flux's `single_blocks`.
    pub single: Vec<usize>,
}

/// A diffusion network with its weights.
pub trait Network: Send + Sync {
    /// One evaluation. Returns `[batch, out_channels, height, width]` in the dtype of `x`, with the height and width
    /// of `x`.
    ///
    /// # Errors
    /// When an input has another shape than the network takes, or weights cannot be fetched or do not fit.
    fn forward(&self, input: NetworkInput) -> Result<Tensor<4>, ModelError>;
}

/// How a model was trained to see noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NoiseLevels {
    /// A table of 1000 levels whose `sqrt(beta)` is linear (SD 1.x, SD 2.x, SDXL).
    ScaledLinear {
        /// What the network's output means.
        prediction: Prediction,
        /// Whether the last level is pure noise (Lin et al., <https://arxiv.org/abs/2305.08891>).
        zero_terminal_snr: bool,
    },
    /// Rectified flow with `sigma = shift·t / (1 + (shift - 1)·t)` (SD3).
    Flow {
        /// 3 for SD3.
        shift: f64,
        /// What timesteps are multiplied with: 1000 for SD3.
        multiplier: f64,
    },
    /// Rectified flow with `sigma = e^mu / (e^mu + 1/t - 1)` (Flux).
    ExponentialFlow {
        /// 1.15 for Flux dev.
        mu: f64,
    },
}

impl NoiseLevels {
    /// The timestep of the most noise.
    pub fn last_timestep(&self) -> f64 {
        match self {
            NoiseLevels::ScaledLinear { .. } => 999.0,
            NoiseLevels::Flow { multiplier, .. } => *multiplier,
            NoiseLevels::ExponentialFlow { .. } => 1.0,
        }
    }
}
