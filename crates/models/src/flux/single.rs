//! A block for the text's and the picture's tokens together, whose attention and feed-forward layer stand side by side
//! (Dehghani et al., <https://arxiv.org/abs/2302.05442>).

use distorch_runtime::kernels::{Projected, Rotation, join_activated, join_rotated_heads};
use distorch_runtime::{Scope, Tensor};

use super::double::{EPSILON, HeadNorms};
use super::modulation::{Modulation, Step, expect_features};
use crate::ModelError;
use crate::attention::{Mask, attention};
use crate::layers::Linear;

/// A single-stream block.
pub(crate) struct SingleBlock {
    /// Queries, keys, values and the feed-forward layer's features.
    enter: Linear,
    norms: HeadNorms,
    /// From what was attended to and those features, activated.
    leave: Linear,
    mlp_width: usize,
}

impl SingleBlock {
    pub(crate) fn load(scope: &Scope, mlp_width: usize) -> Result<Self, ModelError> {
        Ok(Self {
            enter: Linear::load(scope, "linear1")?,
            norms: HeadNorms::load(&scope.at("norm"))?,
            leave: Linear::load(scope, "linear2")?,
            mlp_width,
        })
    }

    /// `x` `[batch, tokens, width]`, the text's tokens first.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        step: &Step,
        rotation: &Rotation,
        heads: usize,
    ) -> Result<Tensor<3>, ModelError> {
        let width = x.dims()[2];
        let fused = self.enter.tokens(step.enter(x.clone()))?;
        expect_features(fused.dims()[2], 3 * width + self.mlp_width)?;
        let norms = Some(self.norms.fetch()?);
        let projected = Projected { qkv: fused.clone().narrow(2, 0, 3 * width), norms };
        let [query, key, value] = join_rotated_heads(vec![projected], heads, EPSILON, rotation);
        let precision = self.enter.precision();
        let seen = attention(query, key, value, heads, Mask::None, precision);
        let joined = join_activated(seen, fused, 3 * width);
        Ok(step.leave(x, self.leave.tokens(joined)?))
    }
}

/// A block with a layer that modulates it.
pub(super) struct ModulatedSingleBlock {
    modulation: Modulation<1>,
    block: SingleBlock,
}

impl ModulatedSingleBlock {
    pub(super) fn load(scope: &Scope, mlp_width: usize) -> Result<Self, ModelError> {
        let modulation = Modulation::load(scope, "modulation.lin")?;
        Ok(Self { modulation, block: SingleBlock::load(scope, mlp_width)? })
    }

    /// `vector` comes activated; as [`SingleBlock::forward`].
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        vector: &Tensor<2>,
        rotation: &Rotation,
        heads: usize,
    ) -> Result<Tensor<3>, ModelError> {
        let [step] = self.modulation.steps(vector)?;
        self.block.forward(x, &step, rotation, heads)
    }
}
