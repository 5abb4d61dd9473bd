//! Reading `tests/fixtures/*.safetensors`: outputs as tensors, everything else as metadata.

use std::collections::HashMap;
use std::path::Path;

use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, Device, Scope, Tensor};
use safetensors::SafeTensors;
use serde_json::Value;

use super::seeded;

pub struct Fixture {
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl Fixture {
    pub fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        Self::from_bytes(std::fs::read(path).unwrap())
    }

    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        Self { bytes, metadata }
    }

    /// The metadata entry `key`, which holds JSON.
    pub fn json(&self, key: &str) -> Value {
        serde_json::from_str(&self.metadata[key]).unwrap()
    }

    pub fn seed(&self) -> u64 {
        self.json("seed").as_u64().unwrap()
    }

    /// The names of the tensors that start with `prefix`.
    pub fn names(&self, prefix: &str) -> impl Iterator<Item = String> {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).unwrap();
        let names: Vec<String> = header.tensors().into_keys().collect();
        names.into_iter().filter(move |name| name.starts_with(prefix))
    }

    /// The tensor `name`: shape and values.
    pub fn tensor(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = tensors.tensor(name).unwrap();
        assert_eq!(view.dtype(), safetensors::Dtype::F32);
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        (view.shape().to_vec(), values.collect())
    }

    /// The component whose parameters the fixture names, with its seeded weights.
    pub fn component(&self, dtype: DType) -> Scope {
        self.component_on(&cpu(), dtype)
    }

    /// As [`Self::component`], on a device.
    pub fn component_on(&self, device: &Device, dtype: DType) -> Scope {
        let params = self.json("params");
        let shapes: Vec<(&String, Vec<usize>)> =
            params.as_object().unwrap().iter().map(|(name, shape)| (name, dims(shape))).collect();
        let params = shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        seeded::component_on(params, self.seed(), device, dtype)
    }

    /// The seeded input `name`, in f32 on the CPU.
    pub fn input<const D: usize>(&self, name: &str, shape: &Value) -> Tensor<D> {
        let shape = dims(shape);
        let values = seeded::uniform(name, shape.iter().product(), self.seed());
        tensor(values, shape)
    }
}

/// A shape written as JSON.
pub fn dims(shape: &Value) -> Vec<usize> {
    shape.as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap() as usize).collect()
}

/// An f32 tensor on the CPU.
pub fn tensor<const D: usize>(values: Vec<f32>, shape: Vec<usize>) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (&cpu(), DType::F32))
}
