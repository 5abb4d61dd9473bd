//! How a network takes in its timestep.

use distorch_runtime::kernels::silu;
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Scope, Tensor};

use crate::ModelError;
use crate::layers::Linear;

/// The longest period of the timestep embedding.
const MAX_PERIOD: f64 = 10_000.0;

/// The sinusoidal embedding of Vaswani et al.: for each timestep `cos(t ω)` of half the width and
/// `sin(t ω)` of the other, with ω from 1 down to nearly 1/10000. `[batch]` to `[batch, width]`, in
/// f32.
pub fn timestep_embedding(timesteps: Tensor<1>, width: usize) -> Tensor<2> {
    let half = width / 2;
    let frequency = |i| (-MAX_PERIOD.ln() * i as f64 / half as f64).exp() as f32;
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let device = timesteps.device();
    let frequencies = TensorData::new(frequencies, [1, half]);
    let frequencies = Tensor::<2>::from_data(frequencies, (&device, DType::F32));
    let batch = timesteps.dims()[0];
    let angles = timesteps.cast(DType::F32).reshape([batch, 1]) * frequencies;
    let mut parts = vec![angles.clone().cos(), angles.sin()];
    if width % 2 == 1 {
        parts.push(Tensor::zeros([batch, 1], (&device, DType::F32)));
    }
    Tensor::cat(parts, 1)
}

/// Two linear layers, `0` and `2`, with SiLU between: what embeds a timestep further, or a vector beside it.
pub(crate) struct Mlp {
    first: Linear,
    second: Linear,
}

impl Mlp {
    pub fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self { first: Linear::load(scope, "0")?, second: Linear::load(scope, "2")? })
    }

    pub fn forward(&self, x: Tensor<2>) -> Result<Tensor<2>, ModelError> {
        self.second.forward(silu(self.first.forward(x)?))
    }
}
