//! Weights that all live on the compute device.

use std::collections::HashMap;
use std::sync::Arc;

use distorch_checkpoint::{Checkpoint, Component, Layer};

use crate::kernels::Precision;
use crate::patch::Patch;
use crate::placement::host_dtype;
use crate::read;
use crate::stored::StoredLayer;
use crate::tensor::device::Releases;
use crate::tensor::{self, AnyTensor, DType, Device, TensorData};
use crate::weights::{LayerParams, LayerSource, WeightError};

/// All layers of a component on one device, in one dtype.
pub struct Resident {
    device: Device,
    dtype: DType,
    layers: Vec<LayerParams>,
    index: HashMap<Arc<str>, usize>,
    /// The keys of the patches that are applied, by layer.
    patched: HashMap<String, u64>,
    releases: Releases,
}

impl Resident {
    /// An empty set of layers for this device and compute dtype.
    pub fn new(device: Device, dtype: DType) -> Self {
        Self {
            device,
            dtype,
            layers: Vec::new(),
            index: HashMap::new(),
            patched: HashMap::new(),
            releases: Releases::default(),
        }
    }

    /// All layers of a checkpoint's component. `loaded` hears of every layer, with its stored bytes.
    ///
    /// The peak of memory is the component in the compute dtype and one layer as stored: the file
    /// is read, and none of its pages stay in this process's memory.
    ///
    /// # Errors
    /// When a tensor cannot be read from the file.
    pub fn load(
        checkpoint: &Checkpoint,
        component: &Component,
        device: Device,
        dtype: DType,
        mut loaded: impl FnMut(&Layer),
    ) -> Result<Self, WeightError> {
        let mut resident = Self::new(device, dtype);
        for layer in &component.layers {
            let stored = StoredLayer::read(checkpoint, layer)?;
            resident.keep(&layer.name, stored.decode(&resident.device, dtype));
            loaded(layer);
        }
        Ok(resident)
    }

    /// Applies another patch, or none, to the component that was loaded: reads the layers anew whose key
    /// changes, and gives their number. They are kept in the compute dtype.
    ///
    /// # Errors
    /// When a layer cannot be read or patched. The layers before it have changed then.
    pub fn set_patch(
        &mut self,
        checkpoint: &Checkpoint,
        component: &Component,
        patch: Option<&dyn Patch>,
    ) -> Result<usize, WeightError> {
        let mut changed = 0;
        for layer in &component.layers {
            let key = patch.and_then(|patch| patch.key(&layer.name));
            if self.patched.get(&layer.name) == key.as_ref() {
                continue;
            }
            let mut params = read::layer(checkpoint, layer)?;
            if let (Some(patch), Some(_)) = (patch, key) {
                patch.apply(&layer.name, &mut params)?;
            }
            self.insert(&layer.name, params);
            match key {
                Some(key) => self.patched.insert(layer.name.clone(), key),
                None => self.patched.remove(&layer.name),
            };
            changed += 1;
        }
        Ok(changed)
    }

    /// Adds a layer with its parameters, converted to the compute dtype. A layer of the same name is
    /// replaced.
    pub fn insert(&mut self, name: &str, params: Vec<(String, TensorData)>) {
        let name: Arc<str> = name.into();
        let params = params
            .into_iter()
            .map(|(param, data)| {
                let dtype = match tensor::is_host(&self.device) {
                    true => host_dtype(&param, data.shape.len(), None, self.dtype),
                    false => self.dtype,
                };
                (Arc::from(param), AnyTensor::from_data(data, &self.device, dtype))
            })
            .collect();
        let params =
            LayerParams::new(Arc::clone(&name), params).with_precision(Precision::of(self.dtype));
        self.keep(&name, params);
    }

    fn keep(&mut self, name: &str, params: LayerParams) {
        // What was copied to the device from is held no longer than the copy takes.
        tensor::let_go(&self.device);
        let name: Arc<str> = name.into();
        let params = params.arranged();
        match self.index.get(&name) {
            Some(&index) => self.layers[index] = params,
            None => {
                self.index.insert(name, self.layers.len());
                self.layers.push(params);
            }
        }
    }
}

impl LayerSource for Resident {
    fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        self.index
            .keys()
            .any(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')))
    }

    fn fetch(&self, index: usize) -> Result<LayerParams, WeightError> {
        self.releases.asked(&self.device, self.layers.len());
        self.layers
            .get(index)
            .cloned()
            .ok_or_else(|| WeightError::NoLayer { name: format!("#{index}") })
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }
}
