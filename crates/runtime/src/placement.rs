//! From the layers of a checkpoint to the blocks that the planner places.

use distorch_allocation::{Block, BlockError, ComponentBlocks};
use distorch_checkpoint::{Companion, Component, Dtype, Layer, Param};

use crate::kernels;
use crate::tensor::DType;

/// The component's layers as blocks, with the bytes that its forward pass needs besides weights.
/// `host_dtype` is the dtype that the host computes in where it is the host that computes: it keeps
/// what is at home there as its kernels take it (see [`host_bytes`]).
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
            .map(|dtype| host_bytes(layer, dtype))
            .filter(|bytes| *bytes != layer.bytes()),
        head: layer.head,
        use_index: Some(layer.use_index as u64),
        cost: None,
    }
}

fn is_companion(param: &Param) -> bool {
    Companion::of_param(&param.name).is_some()
}

/// Bytes of the layer in the compute dtype, scales multiplied in.
pub(crate) fn converted_bytes(layer: &Layer, dtype: DType) -> u64 {
    let params = layer.params.iter().filter(|param| !is_companion(param));
    params.map(|param| param.elements().saturating_mul(dtype.size() as u64)).sum()
}

/// Bytes of the layer as a device of the host's memory computes with it in this dtype.
pub fn host_bytes(layer: &Layer, dtype: DType) -> u64 {
    let scaled = layer.params.iter().any(is_companion);
    let params = layer.params.iter().filter(|param| !is_companion(param));
    let bytes = |param: &Param| {
        let stored = (!scaled).then_some(param.dtype);
        let kept = host_dtype(&param.name, param.shape.len(), stored, dtype);
        param.elements().saturating_mul(kept.size() as u64)
    };
    params.map(bytes).sum()
}

/// The dtype of tensors that have a file's values as they are stored.
pub(crate) fn tensor_dtype(stored: Dtype) -> Option<DType> {
    match stored {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// What the host's kernels take a parameter in where `dtype` is computed in: matrices in 16 bits, as
/// they are stored or in a compute dtype of 16 bits, all else in f32. `stored` is the stored dtype
/// where these are the parameter's values as they are, without scales.
pub(crate) fn host_dtype(name: &str, rank: usize, stored: Option<Dtype>, dtype: DType) -> DType {
    let half = stored.and_then(tensor_dtype).filter(|dtype| *dtype != DType::F32);
    let narrow = matches!(dtype, DType::F16 | DType::BF16);
    match (name == "weight" && rank >= 2, half) {
        (false, _) => DType::F32,
        (true, Some(half)) if narrow || kernels::takes_16_bits() => half,
        (true, _) if narrow => dtype,
        (true, _) => DType::F32,
    }
}
