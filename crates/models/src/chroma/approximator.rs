//! What makes the modulations of all blocks at once.

use distorch_runtime::kernels::silu;
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Scope, Tensor};

use crate::ModelError;
use crate::layers::{Linear, RmsNorm};
use crate::timestep::timestep_embedding;

/// Features of the embedding of the time, and of that of a guidance, which is always 0.
const TIME_FEATURES: usize = 16;

/// What the time, from 0 to 1, and the numbers of the modulations are multiplied with before they are embedded.
const FACTOR: f64 = 1000.0;

/// What norms add to the mean of squares.
const EPSILON: f64 = 1e-6;

/// A network of residual layers from time and number to a modulation's shift, scale or gate.
pub(super) struct Approximator {
    in_proj: Linear,
    layers: Vec<Layer>,
    out_proj: Linear,
}

struct Layer {
    norm: RmsNorm,
    in_layer: Linear,
    out_layer: Linear,
}

impl Approximator {
    pub(super) fn load(scope: &Scope, depth: usize) -> Result<Self, ModelError> {
        let (layers, norms) = (scope.at("layers"), scope.at("norms"));
        let layer = |at: usize| {
            let scope = layers.at(at);
            Ok::<_, ModelError>(Layer {
                norm: RmsNorm::load(&norms, &at.to_string(), EPSILON)?,
                in_layer: Linear::load(&scope, "in_layer")?,
                out_layer: Linear::load(&scope, "out_layer")?,
            })
        };
        Ok(Self {
            in_proj: Linear::load(scope, "in_proj")?,
            layers: (0..depth).map(layer).collect::<Result<_, _>>()?,
            out_proj: Linear::load(scope, "out_proj")?,
        })
    }

    /// So many vectors for times `[batch]` from 0 to 1: `[batch, vectors, width]`.
    pub(super) fn forward(
        &self,
        times: &Tensor<1>,
        vectors: usize,
        dtype: DType,
    ) -> Result<Tensor<3>, ModelError> {
        let [batch] = times.dims();
        let device = times.device();
        let time = timestep_embedding(times.clone().cast(DType::F32) * FACTOR, TIME_FEATURES);
        let guidance = Tensor::<1>::zeros([batch], (&device, DType::F32));
        let both = Tensor::cat(vec![time, timestep_embedding(guidance, TIME_FEATURES)], 1);
        let both = both.unsqueeze_dim::<3>(1).expand([batch, vectors, 2 * TIME_FEATURES]);
        let numbers: Vec<f32> = (0..vectors).map(|at| (at as f64 * FACTOR) as f32).collect();
        let numbers = Tensor::from_data(TensorData::new(numbers, [vectors]), (&device, DType::F32));
        let numbers = timestep_embedding(numbers, 2 * TIME_FEATURES).unsqueeze_dim::<3>(0);
        let numbers = numbers.expand([batch, vectors, 2 * TIME_FEATURES]);
        let mut x = self.in_proj.tokens(Tensor::cat(vec![both, numbers], 2).cast(dtype))?;
        for layer in &self.layers {
            let h = layer.in_layer.tokens(layer.norm.forward(x.clone())?)?;
            x = x + layer.out_layer.tokens(silu(h))?;
        }
        self.out_proj.tokens(x)
    }
}
