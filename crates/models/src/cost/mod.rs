//! What computing with each layer costs, before anything is loaded: one file for each kind of network.
//!
//! The planner asks for this to see how long a step would wait for weights that live elsewhere. Only how the
//! layers compare matters, so the estimate is coarse: multiplications and, where a layer meets few pixels,
//! the reading of its weights. [`layer_costs`](crate::family::layer_costs) asks for a model's.

pub(crate) mod flux;
pub(crate) mod krea2;
pub(crate) mod mmdit;
pub(crate) mod next_dit;
pub(crate) mod qwen_image;
pub(crate) mod qwen_image21;
mod transformer;
pub(crate) mod unet;

use distorch_checkpoint::{Layer, Param};

/// Multiplications that take as long as reading a value from memory, and converting it. Processors and
/// accelerators alike compute about a hundred times as many as they read.
const READING: u64 = 96;

/// Elements of a layer's weight.
fn weight(layer: &Layer) -> u64 {
    layer.param("weight").map_or(0, Param::elements)
}
