//! What one call of a diffusion network of any family takes, with random values where nothing better is known.

use distorch_checkpoint::family::DiffusionModel;
use distorch_models::conditioning::PictureSize;
use distorch_models::estimate::Workload;
use distorch_models::family::{self, VectorInputs};
use distorch_models::network::{NetworkInput, ReferenceMethod, SkipLayers};
use distorch_models::text::TextStates;
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Device, Tensor};

use crate::random;

/// The timestep of every timed call, in parts of the largest.
const TIMESTEP: f32 = 0.5;

/// The input of a call that makes such pictures. A prompt's states are used where they fit the model.
pub fn input(
    model: &DiffusionModel,
    workload: Workload,
    states: Option<&TextStates>,
    device: &Device,
    dtype: DType,
) -> NetworkInput {
    let family = family::of(model.family);
    let (reads, format) = (family.reads(model), family.latent_format(model));
    let rows = workload.rows() as usize;
    let side = |pixels: u32| pixels as usize / format.downscale;
    let channels = format.channels + reads.extra.channels(&format);
    let shape = [rows, channels, side(workload.height), side(workload.width)];
    let fits = states.filter(|states| states.context.dims()[2] == reads.context_width);
    let context = match fits {
        Some(states) => Tensor::cat(vec![states.context.clone(); rows], 0),
        None => uniform([rows, reads.tokens, reads.context_width], device, dtype),
    };
    let pooled = reads.pooled_width.map(|width| {
        let own = states.and_then(|states| states.pooled.clone());
        let own = own.filter(|pooled| pooled.dims()[1] == width);
        own.unwrap_or_else(|| uniform([1, width], device, DType::F32))
    });
    let vector = family.vector(VectorInputs {
        pooled,
        size: PictureSize::new(workload.width as usize, workload.height as usize),
        aesthetic_score: None,
        is_negative: false,
    });
    let last = family.noise_levels(model).last_timestep();
    let constant = |value: f32| Tensor::full([rows], value, (device, DType::F32));
    NetworkInput {
        x: uniform(shape, device, dtype),
        timesteps: constant(TIMESTEP * last as f32),
        context: context.cast(dtype),
        // A family that reads a pooled text was given one.
        vector: vector.ok().flatten().map(|vector| vector.repeat_dim(0, rows)),
        guidance: reads.guidance.map(|guidance| constant(guidance as f32)),
        reference_latents: Vec::new(),
        reference_method: ReferenceMethod::default(),
        reference_slots: Vec::new(),
        skip: SkipLayers::default(),
    }
}

fn uniform<const D: usize>(shape: [usize; D], device: &Device, dtype: DType) -> Tensor<D> {
    let data = TensorData::new(random::uniform(1, shape.iter().product()), shape);
    Tensor::from_data(data.convert_dtype(dtype), (device, dtype))
}
