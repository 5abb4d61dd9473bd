//! Components of seeded weights.

use std::sync::Arc;

use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, Device, Resident, Scope};
pub use distorch_test_support::seeded::{uniform, weight};

/// A component with these parameters (`layer.param` and shape), seeded, in f32 on the CPU.
pub fn component<'a>(params: impl IntoIterator<Item = (&'a str, &'a [usize])>, seed: u64) -> Scope {
    component_as(params, seed, DType::F32)
}

/// As [`component`], in another compute dtype.
pub fn component_as<'a>(
    params: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    seed: u64,
    dtype: DType,
) -> Scope {
    component_on(params, seed, &cpu(), dtype)
}

/// As [`component_as`], on a device.
pub fn component_on<'a>(
    params: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    seed: u64,
    device: &Device,
    dtype: DType,
) -> Scope {
    let mut layers: Vec<(&str, Vec<(String, TensorData)>)> = Vec::new();
    for (name, shape) in params {
        let (layer, param) = name.rsplit_once('.').unwrap();
        let data = TensorData::new(weight(name, shape, seed), shape.to_vec());
        match layers.iter_mut().find(|(name, _)| *name == layer) {
            Some((_, params)) => params.push((param.to_owned(), data)),
            None => layers.push((layer, vec![(param.to_owned(), data)])),
        }
    }
    let mut resident = Resident::new(device.clone(), dtype);
    for (layer, params) in layers {
        resident.insert(layer, params);
    }
    Scope::new(Arc::new(resident))
}
