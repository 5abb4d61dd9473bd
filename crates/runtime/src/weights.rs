//! How a model asks for a layer's weights.
//!
//! A model is built once from a [`Scope`], which finds its layers by name and gives a
//! [`LayerHandle`] for each. In its forward pass, a layer calls [`LayerHandle::fetch`] and gets its
//! parameters as tensors on the compute device, in the compute dtype. Where they were before
//! that is the business of the [`LayerSource`].

use std::fmt;
use std::sync::Arc;

use crate::kernels::{self, Precision};
use crate::machine::Shortage;
use crate::tensor::{AnyTensor, DType, Device, Tensor};

/// Why a layer's weights could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The checkpoint has no such layer.
    #[error("the model needs the layer `{name}`, which the checkpoint does not have")]
    NoLayer {
        /// The layer's canonical name.
        name: String,
    },
    /// The layer has no such parameter.
    #[error("the layer `{layer}` has no `{param}`; it has {present}")]
    NoParam {
        /// The layer's canonical name.
        layer: String,
        /// The parameter that was asked for.
        param: String,
        /// The parameters that are there.
        present: String,
    },
    /// The parameter has another number of dimensions.
    #[error("`{layer}.{param}` has the shape {shape:?}, but {expected} dimensions are needed")]
    Rank {
        /// The layer's canonical name.
        layer: String,
        /// The parameter.
        param: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The rank that was asked for.
        expected: usize,
    },
    /// A device has no room for the layer.
    #[error("`{layer}` has no place: {shortage}")]
    Memory {
        /// The layer's canonical name.
        layer: String,
        /// Which device, and what would fit.
        shortage: Box<Shortage>,
    },
    /// The run was interrupted while the layer was on its way.
    #[error("interrupted while waiting for `{layer}`")]
    Interrupted {
        /// The layer's canonical name.
        layer: String,
    },
    /// The parameter could not be read or moved.
    #[error("`{layer}` could not be loaded: {reason}")]
    Load {
        /// The layer's canonical name.
        layer: String,
        /// What went wrong, in words.
        reason: String,
    },
}

/// Hands out the parameters of one component's layers, wherever they live.
pub trait LayerSource: Send + Sync {
    /// The position of the layer with this canonical name, if there is one.
    fn find(&self, name: &str) -> Option<usize>;

    /// Whether any layer's name starts with `prefix` followed by a dot.
    fn has_prefix(&self, prefix: &str) -> bool;

    /// The layer's parameters on the compute device. They are in the compute dtype; on a device of the
    /// host's memory, matrices may be in 16 bits and all else in f32.
    ///
    /// # Errors
    /// When the weights cannot be read or moved.
    fn fetch(&self, index: usize) -> Result<LayerParams, WeightError>;

    /// The device that computes.
    fn device(&self) -> &Device;

    /// The compute dtype.
    fn dtype(&self) -> DType;
}

/// A place in the tree of layer names, from which a model takes its layers.
#[derive(Clone)]
pub struct Scope {
    source: Arc<dyn LayerSource>,
    path: String,
}

impl Scope {
    /// The root of the names of `source`.
    pub fn new(source: Arc<dyn LayerSource>) -> Self {
        Self { source, path: String::new() }
    }

    /// Where the layers come from.
    pub fn source(&self) -> &Arc<dyn LayerSource> {
        &self.source
    }

    /// The scope one or more segments down: `scope.at("attn1")`, `scope.at(0)`.
    pub fn at(&self, segment: impl fmt::Display) -> Self {
        Self { source: Arc::clone(&self.source), path: self.name(segment) }
    }

    /// The layer with this name below the scope.
    ///
    /// # Errors
    /// [`WeightError::NoLayer`] when there is none.
    pub fn layer(&self, segment: impl fmt::Display) -> Result<LayerHandle, WeightError> {
        let name = self.name(segment);
        match self.source.find(&name) {
            Some(index) => Ok(LayerHandle { source: Arc::clone(&self.source), index }),
            None => Err(WeightError::NoLayer { name }),
        }
    }

    /// Whether there is a layer with this name, or one below it.
    pub fn has(&self, segment: impl fmt::Display) -> bool {
        let name = self.name(segment);
        self.source.find(&name).is_some() || self.source.has_prefix(&name)
    }

    /// The device that computes.
    pub fn device(&self) -> &Device {
        self.source.device()
    }

    /// The dtype of activations.
    pub fn activation_dtype(&self) -> DType {
        kernels::activation_dtype(self.source.device(), self.source.dtype())
    }

    fn name(&self, segment: impl fmt::Display) -> String {
        if self.path.is_empty() { segment.to_string() } else { format!("{}.{segment}", self.path) }
    }
}

/// One layer of a model: knows which weights it needs, not where they are.
#[derive(Clone)]
pub struct LayerHandle {
    source: Arc<dyn LayerSource>,
    index: usize,
}

impl LayerHandle {
    /// The layer's parameters on the compute device, in the compute dtype.
    ///
    /// # Errors
    /// When the weights cannot be read or moved.
    pub fn fetch(&self) -> Result<LayerParams, WeightError> {
        self.source.fetch(self.index)
    }

    /// The device that computes.
    pub fn device(&self) -> &Device {
        self.source.device()
    }

    /// The dtype of activations.
    pub fn activation_dtype(&self) -> DType {
        kernels::activation_dtype(self.source.device(), self.source.dtype())
    }

    /// What products multiply there.
    pub fn precision(&self) -> Precision {
        Precision::of(self.source.dtype())
    }
}

/// The parameters of one layer.
#[derive(Clone, Debug)]
pub struct LayerParams {
    layer: Arc<str>,
    params: Vec<(Arc<str>, AnyTensor)>,
    precision: Precision,
    lease: Option<Arc<dyn Lease>>,
}

/// What is held as long as parameters are in use, such as their place in a window of memory.
pub trait Lease: std::fmt::Debug + Send + Sync {}

impl LayerParams {
    /// Parameters by name.
    pub fn new(layer: impl Into<Arc<str>>, params: Vec<(Arc<str>, AnyTensor)>) -> Self {
        Self { layer: layer.into(), params, precision: Precision::F32, lease: None }
    }

    /// The same, to be multiplied in this precision.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The same, as the kernels of their device read them: for those that stay, so that it is done once.
    #[must_use]
    pub(crate) fn arranged(mut self) -> Self {
        for (_, tensor) in &mut self.params {
            *tensor = tensor.clone().arranged();
        }
        self
    }

    /// What products with them multiply.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The same, which holds `lease` until the last copy is dropped.
    #[must_use]
    pub fn holding(mut self, lease: Arc<dyn Lease>) -> Self {
        self.lease = Some(lease);
        self
    }

    /// The layer's canonical name.
    pub fn layer(&self) -> &str {
        &self.layer
    }

    /// Bytes of all parameters.
    pub fn bytes(&self) -> u64 {
        let bytes = |tensor: &AnyTensor| {
            tensor.shape().iter().product::<usize>() as u64 * tensor.dtype().size() as u64
        };
        self.params.iter().map(|(_, tensor)| bytes(tensor)).sum()
    }

    /// The parameter `name`.
    ///
    /// # Errors
    /// When the layer has none of that name, or it has another rank.
    pub fn get<const D: usize>(&self, name: &str) -> Result<Tensor<D>, WeightError> {
        self.get_optional(name)?.ok_or_else(|| WeightError::NoParam {
            layer: self.layer.to_string(),
            param: name.to_owned(),
            present: self.params.iter().map(|(name, _)| &**name).collect::<Vec<_>>().join(", "),
        })
    }

    /// The parameter `name`, or `None` where the layer has none of that name.
    ///
    /// # Errors
    /// When it has another rank.
    pub fn get_optional<const D: usize>(
        &self,
        name: &str,
    ) -> Result<Option<Tensor<D>>, WeightError> {
        let Some((_, tensor)) = self.params.iter().find(|(param, _)| &**param == name) else {
            return Ok(None);
        };
        tensor.rank::<D>().map(Some).ok_or_else(|| WeightError::Rank {
            layer: self.layer.to_string(),
            param: name.to_owned(),
            shape: tensor.shape().to_vec(),
            expected: D,
        })
    }

    /// The parameter `weight`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn weight<const D: usize>(&self) -> Result<Tensor<D>, WeightError> {
        self.get("weight")
    }

    /// The parameter `bias`, where there is one.
    ///
    /// # Errors
    /// As [`get_optional`](Self::get_optional).
    pub fn bias(&self) -> Result<Option<Tensor<1>>, WeightError> {
        self.get_optional("bias")
    }
}
