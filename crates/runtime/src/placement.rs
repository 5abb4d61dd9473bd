//! From the layers of a checkpoint to the blocks that the planner places.

use distorch_allocation::{Block, BlockError, ComponentBlocks};
use distorch_checkpoint::{Component, Layer};

use crate::tensor::DType;

/// The component's layers as blocks, with the bytes that its forward pass needs besides weights.
/// `host_dtype` is the dtype that the host computes in where it is the host that computes: it keeps
/// what is at home there in that dtype.
///
/// # Errors
/// When two layers have the same name, which recognition rules out.
pub fn blocks(
    component: &Component,
    activation_bytes: u64,
    host_dtype: Option<DType>,
) -> Result<ComponentBlocks, BlockError> {
    let blocks = component.layers.iter().map(|layer| block(layer, host_dtype)).collect();
    ComponentBlocks::new(component.kind.short_name(), blocks, activation_bytes)
}

fn block(layer: &Layer, host_dtype: Option<DType>) -> Block {
    Block {
        name: layer.name.clone(),
        kind: layer.kind.name().to_owned(),
        bytes: layer.bytes(),
        resident_bytes: host_dtype
            .map(|dtype| converted_bytes(layer, dtype))
            .filter(|bytes| *bytes != layer.bytes()),
        head: layer.head,
        use_index: Some(layer.use_index as u64),
    }
}

/// Bytes of the layer in the compute dtype, scales multiplied in.
pub(crate) fn converted_bytes(layer: &Layer, dtype: DType) -> u64 {
    let scales = ["scale_weight", "weight_scale", "scale_input", "input_scale"];
    let params = layer.params.iter().filter(|param| !scales.contains(&param.name.as_str()));
    params.map(|param| param.elements().saturating_mul(dtype.size() as u64)).sum()
}
