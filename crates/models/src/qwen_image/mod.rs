//! Qwen-Image (<https://arxiv.org/abs/2508.02324>): a transformer whose blocks have weights for the picture's tokens and for
//! the text's, with Qwen2.5-VL as text encoder; and its variants that edit pictures.

mod block;
pub(crate) mod inputs;
mod places;
pub mod text;
mod transformer;

pub use transformer::QwenImageTransformer;

/// The network's name in errors.
const MODEL: &str = "Qwen-Image transformer";
