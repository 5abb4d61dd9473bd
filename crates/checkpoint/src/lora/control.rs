//! Black Forest Labs' control LoRAs for Flux (Canny, Depth), which ComfyUI tells by two of their keys.
//!
//! Their names are the original code's without a prefix. They widen `img_in`, so that the transformer takes the latent of a
//! control picture beside the noisy one, and hold the scales of norms that take the place of the transformer's.

use super::key::Role;
use crate::file::Checkpoint;

/// The layer that they widen.
const INPUT: &str = "img_in";

/// Whether a file is one of them.
pub(super) fn is_one(file: &Checkpoint) -> bool {
    let keys = ["img_in.lora_A.weight", "single_blocks.0.norm.key_norm.scale"];
    keys.iter().all(|key| file.get(key).is_some())
}

/// The norm's name and the tensor's role, where a key of such a file is a norm's scale.
pub(super) fn split(key: &str) -> Option<(&str, Role)> {
    let module = key.strip_suffix(".scale")?;
    module.ends_with("_norm").then_some((module, Role::Set))
}

/// The shape that a module's weight is widened to, in such a file.
pub(super) fn shape(file: &Checkpoint, module: &str) -> Option<[usize; 2]> {
    if module != INPUT || !is_one(file) {
        return None;
    }
    let side = |part: &str, at: usize| {
        file.get(&format!("{module}.{part}.weight"))?.shape.get(at).copied()
    };
    Some([side("lora_B", 0)?, side("lora_A", 1)?])
}
