//! What goes from node to node.

use std::fmt;
use std::sync::Arc;

use distorch_pipeline::Latent;
use distorch_pipeline::diffusion::conditioning::Conditioning;
use distorch_pipeline::diffusion::guider::Guider;
use distorch_pipeline::diffusion::noise::NoiseSource;
use distorch_pipeline::diffusion::sampler::SamplerChoice;
use distorch_pipeline::image::{Mask, Pictures};
use distorch_pipeline::models::{Clip, Model, Part, Upscaler, Vae};
use serde_json::Value as Json;

/// The type of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // ComfyUI's names
pub enum Type {
    Int,
    Float,
    String,
    Boolean,
    /// One of a list.
    Combo,
    Model,
    Clip,
    Vae,
    UpscaleModel,
    Conditioning,
    Latent,
    Image,
    Mask,
    Sampler,
    Sigmas,
    Noise,
    Guider,
    /// The name of a device.
    Device,
    /// Whatever it is.
    Any,
    /// A number or a switch.
    Number,
    /// Pictures or masks.
    ImageOrMask,
    /// A list of records, as JSON: the elements of a layout.
    Array,
    /// Rectangles in pixels with what they hold, as JSON.
    BoundingBox,
    /// The same as a client edits them.
    BoundingBoxes,
    /// Rectangles in any of the forms that they have.
    AnyBoxes,
    /// Where a camera stands, as JSON.
    Camera,
}

impl Type {
    /// ComfyUI's name.
    pub const fn name(self) -> &'static str {
        match self {
            Type::Int => "INT",
            Type::Float => "FLOAT",
            Type::String => "STRING",
            Type::Boolean => "BOOLEAN",
            Type::Combo => "COMBO",
            Type::Model => "MODEL",
            Type::Clip => "CLIP",
            Type::Vae => "VAE",
            Type::UpscaleModel => "UPSCALE_MODEL",
            Type::Conditioning => "CONDITIONING",
            Type::Latent => "LATENT",
            Type::Image => "IMAGE",
            Type::Mask => "MASK",
            Type::Sampler => "SAMPLER",
            Type::Sigmas => "SIGMAS",
            Type::Noise => "NOISE",
            Type::Guider => "GUIDER",
            Type::Device => "MULTIGPUDEVICE",
            Type::Any => "*",
            Type::Number => "FLOAT,INT,BOOLEAN",
            Type::ImageOrMask => "IMAGE,MASK",
            Type::Array => "ARRAY",
            Type::BoundingBox => "BOUNDING_BOX",
            Type::BoundingBoxes => "BOUNDING_BOXES",
            Type::AnyBoxes => "BOUNDING_BOX,ARRAY,STRING",
            Type::Camera => "LOAD3D_CAMERA",
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A value. Cloning one copies no data.
#[derive(Clone)]
#[allow(missing_docs)] // one for each type
pub enum Value {
    /// A whole number: of 128 bits, since seeds have 64 without a sign.
    Int(i128),
    Float(f64),
    String(Arc<str>),
    Boolean(bool),
    Model(Model),
    Clip(Clip),
    Vae(Vae),
    UpscaleModel(Upscaler),
    Conditioning(Conditioning),
    Latent(Latent),
    Image(Pictures),
    Mask(Mask),
    Sampler(SamplerChoice),
    /// Falling noise levels.
    Sigmas(Arc<[f64]>),
    Noise(NoiseSource),
    Guider(Guider),
    /// Records of one of the types that are JSON.
    Data(Type, Arc<Json>),
    /// What a loader did not find in its file, and why: an error only for whoever uses it.
    Absent(Arc<str>),
    /// Values of one type, for each of which the nodes that take them run once.
    List(Arc<[Value]>),
}

impl Value {
    /// The type, but of what is absent; that of a list's values. A choice is a string.
    pub fn value_type(&self) -> Option<Type> {
        Some(match self {
            Value::Int(_) => Type::Int,
            Value::Float(_) => Type::Float,
            Value::String(_) => Type::String,
            Value::Boolean(_) => Type::Boolean,
            Value::Model(_) => Type::Model,
            Value::Clip(_) => Type::Clip,
            Value::Vae(_) => Type::Vae,
            Value::UpscaleModel(_) => Type::UpscaleModel,
            Value::Conditioning(_) => Type::Conditioning,
            Value::Latent(_) => Type::Latent,
            Value::Image(_) => Type::Image,
            Value::Mask(_) => Type::Mask,
            Value::Sampler(_) => Type::Sampler,
            Value::Sigmas(_) => Type::Sigmas,
            Value::Noise(_) => Type::Noise,
            Value::Guider(_) => Type::Guider,
            Value::Data(kind, _) => *kind,
            Value::Absent(_) => return None,
            Value::List(values) => return values.first()?.value_type(),
        })
    }

    /// The values of a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(values) => Some(values),
            _ => None,
        }
    }

    /// The weights that the value stands for.
    pub fn parts(&self) -> Vec<&Arc<Part>> {
        match self {
            Value::Model(model) => vec![model.part()],
            Value::Guider(guider) => vec![guider.model.part()],
            Value::Clip(clip) => vec![clip.part()],
            Value::Vae(vae) => vae.parts(),
            Value::UpscaleModel(upscaler) => vec![upscaler.part()],
            Value::List(values) => values.iter().flat_map(Value::parts).collect(),
            _ => Vec::new(),
        }
    }

    /// Bytes that the value keeps in memory. Models are accounted for where they are loaded.
    pub fn bytes(&self) -> u64 {
        let count = match self {
            Value::Latent(latent) => latent.samples.shape().num_elements(),
            Value::Image(pictures) => pictures.values().len(),
            Value::Mask(mask) => mask.values().len(),
            Value::Conditioning(conditioning) => conditioning.elements(),
            Value::String(text) => text.len() / 4,
            Value::Data(_, json) => nodes_of(json).saturating_mul(8),
            Value::List(values) => return values.iter().map(Value::bytes).sum(),
            _ => 16,
        };
        4 * count as u64
    }
}

/// Numbers, texts, lists and records in JSON, those in each other too.
fn nodes_of(json: &Json) -> usize {
    match json {
        Json::Array(values) => 1 + values.iter().map(nodes_of).sum::<usize>(),
        Json::Object(values) => 1 + values.values().map(nodes_of).sum::<usize>(),
        _ => 1,
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.value_type().map_or("nothing", Type::name))
    }
}
