//! Encoders of pictures beside language models: from a picture to states that stand among those of a text's tokens.

mod attention;
mod patches;
mod qwen25;
mod qwen3;

use distorch_checkpoint::config::{VisionConfig, VisionKind};
use distorch_runtime::{Device, Scope, Tensor};

use crate::ModelError;
use crate::decoder::rotation::HalfRotation;
use crate::text::PromptPicture;

/// Patches along a side that are one token of the language model.
const MERGED: usize = 2;

/// A picture as a language model reads it.
#[derive(Clone, Debug)]
pub struct EncodedPicture {
    /// Rows and columns of tokens.
    pub grid: [usize; 2],
    /// The tokens in place of words, `[1, rows × columns, width]` in f32, row by row.
    pub states: Tensor<3>,
    /// What is added to the tokens' hidden states behind the first, second, … layer of the language model, each as
    /// `states`.
    pub added: Vec<Tensor<3>>,
}

/// An encoder of pictures with its weights.
pub trait VisionTower: Send + Sync {
    /// Encodes a picture of any size.
    ///
    /// # Errors
    /// When the picture cannot be brought to a size that the encoder reads, or weights cannot be fetched or do not fit.
    fn encode(&self, picture: &PromptPicture) -> Result<EncodedPicture, ModelError>;
}

/// The encoder whose layers are below `scope` (`patch_embed.proj`, `blocks.0.attn.qkv`, …), for a language model of this
/// width.
///
/// # Errors
/// When a layer is missing, or the configuration contradicts itself.
pub fn load(
    config: &VisionConfig,
    width: usize,
    scope: &Scope,
) -> Result<Box<dyn VisionTower>, ModelError> {
    match config.kind {
        VisionKind::Qwen25Vl => Ok(Box::new(qwen25::Tower::load(config, width, scope)?)),
        VisionKind::Qwen3Vl => Ok(Box::new(qwen3::Tower::load(config, width, scope)?)),
    }
}

/// The longest period of the rotation.
const THETA: f64 = 10_000.0;

/// The angles of patches in this order in heads of this width: half of the features turn by the row, half by the column.
fn rotation(
    places: impl Iterator<Item = [usize; 2]>,
    head: usize,
    device: &Device,
) -> HalfRotation {
    let half = head / 2;
    let frequency = |at: usize| THETA.powf(-((2 * at) as f64) / half as f64);
    let frequencies: Vec<f64> = (0..half / 2).map(frequency).collect();
    let angles = places.flat_map(|place| {
        place.into_iter().flat_map(|at| frequencies.iter().map(move |f| at as f64 * f))
    });
    HalfRotation::of_angles(&angles.collect::<Vec<_>>(), half, device)
}
