//! A block for the text's and the picture's tokens together, whose attention and feed-forward layer stand side by side
//! (Dehghani et al., <https://arxiv.org/abs/2302.05442>).

use distorch_runtime::kernels::{Projection, Rotation, join_activated, split_heads};
use distorch_runtime::{Scope, Tensor};

use super::double::{EPSILON, HeadNorms};
use super::modulation::Modulation;
use crate::ModelError;
use crate::attention::{Mask, attention};
use crate::layers::Linear;

/// A single-stream block.
pub(super) struct SingleBlock {
    modulation: Modulation<1>,
    /// Queries, keys, values and the feed-forward layer's features.
    enter: Linear,
    norms: HeadNorms,
    /// From what was attended to and those features, activated.
    leave: Linear,
}

impl SingleBlock {
    pub(super) fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self {
            modulation: Modulation::load(scope, "modulation.lin")?,
            enter: Linear::load(scope, "linear1")?,
            norms: HeadNorms::load(&scope.at("norm"))?,
            leave: Linear::load(scope, "linear2")?,
        })
    }

    /// `x` `[batch, tokens, width]`, the text's tokens first; `vector` comes activated.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        vector: &Tensor<2>,
        rotation: &Rotation,
        heads: usize,
    ) -> Result<Tensor<3>, ModelError> {
        let width = vector.dims()[1];
        let [step] = self.modulation.steps(vector)?;
        let fused = self.enter.tokens(step.enter(x.clone()))?;
        let norms = Some(self.norms.fetch()?);
        let projection = Projection { fused: fused.clone(), norms };
        let [query, key, value] =
            split_heads(vec![projection], heads, width, Some(rotation), EPSILON);
        let precision = self.enter.precision();
        let seen = attention(query, key, value, heads, Mask::None, precision);
        let joined = join_activated(seen, fused, 3 * width);
        Ok(step.leave(x, self.leave.tokens(joined)?))
    }
}
