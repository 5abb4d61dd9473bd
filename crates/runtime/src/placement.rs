//! From the layers of a checkpoint to the blocks that the planner places.

use distorch_allocation::{Block, BlockError, ComponentBlocks};
use distorch_checkpoint::{Component, Layer};

/// The component's layers as blocks, with the bytes that its forward pass needs besides weights.
///
/// # Errors
/// When two layers have the same name, which recognition rules out.
pub fn blocks(component: &Component, activation_bytes: u64) -> Result<ComponentBlocks, BlockError> {
    let blocks = component.layers.iter().map(block).collect();
    ComponentBlocks::new(component.kind.short_name(), blocks, activation_bytes)
}

fn block(layer: &Layer) -> Block {
    Block {
        name: layer.name.clone(),
        kind: layer.kind.name().to_owned(),
        bytes: layer.bytes(),
        head: layer.head,
        use_index: Some(layer.use_index as u64),
    }
}
