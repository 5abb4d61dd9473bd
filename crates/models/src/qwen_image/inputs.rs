//! What the transformers of Qwen-Image and Qwen-Image 2.1 ask of their configuration and inputs.

use crate::ModelError;
use crate::flux::blocks::Axes;
use crate::network::NetworkInput;

/// Sizes that the configurations of both have.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub model: &'static str,
    pub in_channels: usize,
    pub out_channels: usize,
    pub width: usize,
    pub heads: usize,
    pub context_dim: usize,
}

impl Sizes {
    /// The features of a head that the index or frame, the row and the column turn.
    ///
    /// # Errors
    /// When the sizes contradict each other.
    pub fn axes(&self) -> Result<[usize; 3], ModelError> {
        let Self { model, in_channels, out_channels, width, heads, .. } = *self;
        let head = width.checked_div(heads).unwrap_or(0);
        let reason = if head == 0 || head * heads != width {
            format!("a width of {width} does not divide into {heads} heads")
        } else if !head.is_multiple_of(2) {
            format!("heads of {head} features cannot turn in pairs")
        } else if in_channels == 0 || out_channels == 0 {
            format!("{in_channels} channels in, {out_channels} out")
        } else {
            return Ok(Axes::of(head)?.features());
        };
        Err(ModelError::Config { model, reason })
    }

    /// Checks the shapes of what is computed with; references may be of one picture for all of a batch.
    ///
    /// # Errors
    /// When one of them is not as it has to be.
    pub fn check(&self, input: &NetworkInput) -> Result<(), ModelError> {
        let Self { model, in_channels, context_dim, .. } = *self;
        input.expect_latents(model, in_channels)?;
        input.expect_timesteps(model)?;
        input.expect_context(model, context_dim)
    }
}
