//! Changes to weights, such as a LoRA's, applied when a layer is read.
//!
//! A source of layers ([`Resident`](crate::Resident), a placed component) takes one [`Patch`] at a
//! time: several LoRAs are one patch that knows their order. When the patch is replaced, the
//! source asks the new one for every layer's key, and reads and patches anew only where the key
//! differs. A layer whose key becomes `None` is read from the file again, so that the base comes
//! back exactly.

use crate::tensor::TensorData;
use crate::weights::WeightError;

/// What is done to the weights of layers between the file and their homes.
pub trait Patch: Send + Sync {
    /// `None` for a layer that is left as it is; else a hash of everything that is applied to it:
    /// contents, order and strengths. Equal keys mean equal results.
    fn key(&self, layer: &str) -> Option<u64>;

    /// Changes the layer's parameters in place. They come in f32, in their canonical shapes, with
    /// the scales of 8-bit weights multiplied in; so must they go.
    ///
    /// # Errors
    /// When the change does not fit the parameters.
    fn apply(&self, layer: &str, params: &mut Vec<(String, TensorData)>)
    -> Result<(), WeightError>;
}
