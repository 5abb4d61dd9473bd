//! What the vector of time, text and guidance does to a block.

use distorch_runtime::kernels::{add_gated, modulated_norm};
use distorch_runtime::{DType, Scope, Tensor};

use crate::ModelError;
use crate::layers::Linear;

/// What layer norms add to the variance.
const EPSILON: f64 = 1e-6;

/// A linear layer from the activated vector to a shift, a scale and a gate for each of `N` steps.
pub(super) struct Modulation<const N: usize> {
    linear: Linear,
}

/// How one step of a block is modulated, `[batch, width]` each.
pub(crate) struct Step {
    shift: Tensor<2>,
    scale: Tensor<2>,
    gate: Tensor<2>,
}

impl<const N: usize> Modulation<N> {
    pub(super) fn load(scope: &Scope, name: &str) -> Result<Self, ModelError> {
        Ok(Self { linear: Linear::load(scope, name)? })
    }

    /// `vector` `[batch, width]` comes activated.
    pub(super) fn steps(&self, vector: &Tensor<2>) -> Result<[Step; N], ModelError> {
        let width = vector.dims()[1];
        let all = self.linear.forward(vector.clone())?;
        expect_features(all.dims()[1], 3 * N * width)?;
        let part = |at: usize| all.clone().narrow(1, at * width, width);
        Ok(std::array::from_fn(|step| Step {
            shift: part(3 * step),
            scale: part(3 * step + 1),
            gate: part(3 * step + 2),
        }))
    }
}

impl Step {
    /// Of these three.
    pub(crate) fn new(shift: Tensor<2>, scale: Tensor<2>, gate: Tensor<2>) -> Self {
        Self { shift, scale, gate }
    }

    /// The normalised tokens, scaled and shifted.
    pub(crate) fn enter(&self, x: Tensor<3>) -> Tensor<3> {
        modulated_norm(x, self.shift.clone(), self.scale.clone(), EPSILON)
    }

    /// The tokens with what a step made of them.
    pub(crate) fn leave(&self, x: Tensor<3>, step: Tensor<3>) -> Tensor<3> {
        let x = add_gated(x, step, self.gate.clone());
        // Flux' hidden states grow beyond f16 in a few features.
        if x.dtype() == DType::F16 { x.clamp(-65504.0, 65504.0) } else { x }
    }
}

/// The last norm's scale and shift, which come as shift and scale: `adaLN_modulation.1`.
pub(super) fn last_norm(
    linear: &Linear,
    x: Tensor<3>,
    vector: &Tensor<2>,
) -> Result<Tensor<3>, ModelError> {
    let width = vector.dims()[1];
    let all = linear.forward(vector.clone())?;
    expect_features(all.dims()[1], 2 * width)?;
    let (shift, scale) = (all.clone().narrow(1, 0, width), all.narrow(1, width, width));
    Ok(modulated_norm(x, shift, scale, EPSILON))
}

/// An error unless a matrix makes so many features.
pub(super) fn expect_features(found: usize, expected: usize) -> Result<(), ModelError> {
    if found == expected {
        return Ok(());
    }
    Err(ModelError::Config {
        model: "Flux transformer",
        reason: format!("a layer makes {found} features where {expected} are needed"),
    })
}
