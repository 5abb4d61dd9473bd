//! Layers that remember in which order they were fetched.

use std::sync::{Arc, Mutex};

use distorch_runtime::{DType, Device, LayerParams, LayerSource, WeightError};

pub struct Recording {
    inner: Arc<dyn LayerSource>,
    fetched: Mutex<Vec<String>>,
}

impl Recording {
    pub fn new(inner: Arc<dyn LayerSource>) -> Self {
        Self { inner, fetched: Mutex::default() }
    }

    pub fn fetched(&self) -> Vec<String> {
        self.fetched.lock().unwrap().clone()
    }
}

impl LayerSource for Recording {
    fn find(&self, name: &str) -> Option<usize> {
        self.inner.find(name)
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        self.inner.has_prefix(prefix)
    }

    fn fetch(&self, index: usize) -> Result<LayerParams, WeightError> {
        let params = self.inner.fetch(index)?;
        self.fetched.lock().unwrap().push(params.layer().to_owned());
        Ok(params)
    }

    fn device(&self) -> &Device {
        self.inner.device()
    }

    fn dtype(&self) -> DType {
        self.inner.dtype()
    }
}
