//! Layers: what a component of a checkpoint is made of.
//!
//! A layer is one leaf module (Linear, Conv, Norm, Embedding) with its own tensors, or the
//! parameters that a parent module owns itself. It is what the planner places and the runtime
//! streams. Every tensor that a component uses is in exactly one layer.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;

/// What kind of leaf module a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// A matrix and, mostly, a bias.
    Linear,
    /// A two-dimensional convolution.
    Conv,
    /// Group, layer or RMS normalisation.
    Norm,
    /// A table of rows that are looked up.
    Embedding,
    /// Parameters that a parent module owns itself.
    Param,
}

impl LayerKind {
    /// The lower-case name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            LayerKind::Linear => "linear",
            LayerKind::Conv => "conv",
            LayerKind::Norm => "norm",
            LayerKind::Embedding => "embedding",
            LayerKind::Param => "param",
        }
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One parameter of a layer and where its elements are in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Param {
    /// The parameter's role in its layer: `weight`, `bias`, `scale_weight`, … For a
    /// [`LayerKind::Param`] layer, the parameter's own name.
    pub name: String,
    /// The full key of the tensor in the file.
    pub key: String,
    /// The stored dtype.
    pub dtype: Dtype,
    /// The canonical shape, after `rows` and `transposed` are applied.
    pub shape: Vec<usize>,
    /// The rows (first dimension of the stored tensor) that belong to this parameter, where the
    /// file fuses several layers into one tensor, as OpenCLIP's `in_proj_weight` does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<(usize, usize)>,
    /// Whether the stored matrix is the transpose of the canonical one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub transposed: bool,
}

impl Param {
    /// Bytes in the stored dtype.
    pub fn bytes(&self) -> u64 {
        self.dtype.encoding().bytes(&self.shape).unwrap_or(u64::MAX)
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product: u64, &n| product.saturating_mul(n as u64))
    }
}

/// One leaf layer with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// The canonical name, such as `input_blocks.1.1.transformer_blocks.0.attn1.to_q`; layers of
    /// a text encoder start with the encoder's name (`clip_l.…`, `t5xxl.…`).
    pub name: String,
    /// What kind of layer it is.
    pub kind: LayerKind,
    /// Position in the order in which a forward pass uses the layers of its component, from 0.
    pub use_index: usize,
    /// Whether it is a token or position embedding of a text encoder, which stays on the
    /// compute device.
    pub head: bool,
    /// The layer's own parameters, weight first.
    pub params: Vec<Param>,
}

impl Layer {
    /// Bytes of all parameters in their stored dtypes.
    pub fn bytes(&self) -> u64 {
        self.params.iter().map(Param::bytes).fold(0, u64::saturating_add)
    }

    /// The parameter with this name in the layer.
    pub fn param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|param| param.name == name)
    }
}

/// The parts of model files that are placed on their own: three of a checkpoint, and an upscaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentKind {
    /// The diffusion model: a UNet, MMDiT or Flux transformer.
    DiffusionModel,
    /// All text encoders together.
    TextEncoders,
    /// The autoencoder.
    Vae,
    /// A model that enlarges pictures, in a file of its own.
    Upscaler,
}

impl ComponentKind {
    /// Those of a checkpoint, in the order in which its components are listed.
    pub const ALL: [Self; 3] = [Self::DiffusionModel, Self::TextEncoders, Self::Vae];

    /// The name for people, of one: "text encoder" for all text encoders together.
    pub const fn label(self) -> &'static str {
        match self {
            ComponentKind::DiffusionModel => "diffusion model",
            ComponentKind::TextEncoders => "text encoder",
            ComponentKind::Vae => "VAE",
            ComponentKind::Upscaler => "upscale model",
        }
    }

    /// The name for people, of all that a file holds of the kind: "text encoders".
    pub const fn title(self) -> &'static str {
        match self {
            ComponentKind::DiffusionModel => "diffusion model",
            ComponentKind::TextEncoders => "text encoders",
            ComponentKind::Vae => "VAE",
            ComponentKind::Upscaler => "upscale model",
        }
    }

    /// The short name that the node's inputs use: `unet`, `clip` or `vae`; `upscaler` has none.
    pub const fn short_name(self) -> &'static str {
        match self {
            ComponentKind::DiffusionModel => "unet",
            ComponentKind::TextEncoders => "clip",
            ComponentKind::Vae => "vae",
            ComponentKind::Upscaler => "upscaler",
        }
    }
}

/// One component of a checkpoint: its layers in definition order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Component {
    /// Which of them.
    pub kind: ComponentKind,
    /// Leaf layers in definition order.
    pub layers: Vec<Layer>,
}

impl Component {
    /// Bytes of all layers in their stored dtypes.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(Layer::bytes).fold(0, u64::saturating_add)
    }

    /// Number of parameters (elements).
    pub fn parameters(&self) -> u64 {
        self.layers.iter().flat_map(|layer| &layer.params).map(Param::elements).sum()
    }
}
