//! Blocks with a stream each for picture and text, and blocks with one for both.

use distorch_runtime::kernels::{
    Projected, Rotation, add_gated, gated_silu, join_rotated_heads, modulated_norm,
};
use distorch_runtime::{DType, LayerHandle, Scope, Tensor};

use crate::ModelError;
use crate::attention::{Mask, attention};
use crate::layers::Linear;

/// Of every norm.
pub(super) const EPSILON: f64 = 1e-6;

/// How one step of all blocks of a kind is modulated, `[batch, width]` each.
pub(super) struct Step {
    shift: Tensor<2>,
    scale: Tensor<2>,
    gate: Tensor<2>,
}

impl Step {
    /// `N` steps of a linear layer from the activated `vector` `[batch, width]`.
    pub(super) fn all<const N: usize>(
        linear: &Linear,
        vector: &Tensor<2>,
    ) -> Result<[Self; N], ModelError> {
        let width = vector.dims()[1];
        let all = linear.forward_to(vector.clone(), 3 * N * width)?;
        let part = |at: usize| all.clone().narrow(1, at * width, width);
        Ok(std::array::from_fn(|step| Self {
            shift: part(3 * step),
            scale: part(3 * step + 1),
            gate: part(3 * step + 2),
        }))
    }

    /// The normalised tokens, scaled and shifted.
    fn enter(&self, x: Tensor<3>) -> Tensor<3> {
        modulated_norm(x, self.shift.clone(), self.scale.clone(), EPSILON)
    }

    /// The tokens with what a step made of them.
    fn leave(&self, x: Tensor<3>, step: Tensor<3>) -> Tensor<3> {
        let x = add_gated(x, step, self.gate.clone());
        // Hidden states grow beyond f16 in a few features.
        if x.dtype() == DType::F16 { x.clamp(-65504.0, 65504.0) } else { x }
    }
}

/// Both streams of a block.
pub(super) struct DoubleBlock {
    picture: Stream,
    text: Stream,
    heads: usize,
}

impl DoubleBlock {
    pub(super) fn load(scope: &Scope, heads: usize) -> Result<Self, ModelError> {
        let (picture, text) = (Stream::load(scope, "img")?, Stream::load(scope, "txt")?);
        Ok(Self { picture, text, heads })
    }

    /// `text` and `picture` `[batch, tokens, width]` to the same; `rotation` is that of the text's tokens and the picture's
    /// behind them.
    pub(super) fn forward(
        &self,
        [text, picture]: [Tensor<3>; 2],
        [of_text, of_picture]: [&[Step; 2]; 2],
        rotation: &Rotation,
    ) -> Result<[Tensor<3>; 2], ModelError> {
        let (words, patches) = (text.dims()[1], picture.dims()[1]);
        let from_picture = self.picture.project(of_picture[0].enter(picture.clone()))?;
        let from_text = self.text.project(of_text[0].enter(text.clone()))?;
        let both = vec![from_text, from_picture];
        let [query, key, value] = join_rotated_heads(both, self.heads, EPSILON, rotation);
        let precision = self.picture.proj.precision();
        let seen = attention(query, key, value, self.heads, Mask::None, precision);
        let by_picture = seen.clone().narrow(1, words, patches);
        let picture = self.picture.finish(picture, by_picture, of_picture)?;
        let text = self.text.finish(text, seen.narrow(1, 0, words), of_text)?;
        Ok([text, picture])
    }
}

/// The weights of one stream.
struct Stream {
    qkv: Linear,
    norms: HeadNorms,
    proj: Linear,
    first: Linear,
    second: Linear,
}

impl Stream {
    /// `img` or `txt`.
    fn load(scope: &Scope, name: &str) -> Result<Self, ModelError> {
        let attention = scope.at(format_args!("{name}_attn"));
        let feed_forward = scope.at(format_args!("{name}_mlp"));
        Ok(Self {
            qkv: Linear::load(&attention, "qkv")?,
            norms: HeadNorms::load(&attention.at("norm"))?,
            proj: Linear::load(&attention, "proj")?,
            first: Linear::load(&feed_forward, "0")?,
            second: Linear::load(&feed_forward, "2")?,
        })
    }

    fn project(&self, x: Tensor<3>) -> Result<Projected, ModelError> {
        let width = x.dims()[2];
        let qkv = self.qkv.tokens_to(x, 3 * width)?;
        Ok(Projected { qkv, norms: Some(self.norms.fetch()?) })
    }

    fn finish(
        &self,
        x: Tensor<3>,
        seen: Tensor<3>,
        [attend, think]: &[Step; 2],
    ) -> Result<Tensor<3>, ModelError> {
        let width = x.dims()[2];
        let x = attend.leave(x, self.proj.tokens_to(seen, width)?);
        let both = self.first.tokens(think.enter(x.clone()))?;
        let half = both.dims()[2] / 2;
        let fed = gated(both, 0, half);
        Ok(think.leave(x, self.second.tokens_to(fed, width)?))
    }
}

/// A block for the text's and the picture's tokens together, whose attention and feed-forward layer stand side by side.
pub(super) struct SingleBlock {
    /// Queries, keys, values, and the feed-forward layer's gate and features.
    enter: Linear,
    norms: HeadNorms,
    /// From what was attended to and the gated features.
    leave: Linear,
    heads: usize,
    mlp_width: usize,
}

impl SingleBlock {
    pub(super) fn load(scope: &Scope, heads: usize, mlp_width: usize) -> Result<Self, ModelError> {
        Ok(Self {
            enter: Linear::load(scope, "linear1")?,
            norms: HeadNorms::load(&scope.at("norm"))?,
            leave: Linear::load(scope, "linear2")?,
            heads,
            mlp_width,
        })
    }

    /// `x` `[batch, tokens, width]`, the text's tokens first.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        step: &Step,
        rotation: &Rotation,
    ) -> Result<Tensor<3>, ModelError> {
        let width = x.dims()[2];
        let features = 3 * width + 2 * self.mlp_width;
        let fused = self.enter.tokens_to(step.enter(x.clone()), features)?;
        let norms = Some(self.norms.fetch()?);
        let projected = Projected { qkv: fused.clone().narrow(2, 0, 3 * width), norms };
        let [query, key, value] =
            join_rotated_heads(vec![projected], self.heads, EPSILON, rotation);
        let precision = self.enter.precision();
        let seen = attention(query, key, value, self.heads, Mask::None, precision);
        let fed = gated(fused, 3 * width, self.mlp_width);
        let joined = Tensor::cat(vec![seen, fed], 2);
        Ok(step.leave(x, self.leave.tokens_to(joined, width)?))
    }
}

/// `silu(gate) ⊙ up` of features whose gate begins at `first`, with as many features behind it.
fn gated(x: Tensor<3>, first: usize, width: usize) -> Tensor<3> {
    let gate = x.clone().narrow(2, first, width);
    gated_silu(gate, x.narrow(2, first + width, width))
}

/// The scales of the RMS norms of queries and keys.
struct HeadNorms {
    query: LayerHandle,
    key: LayerHandle,
}

impl HeadNorms {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self { query: scope.layer("query_norm")?, key: scope.layer("key_norm")? })
    }

    /// `[features of a head]` each.
    fn fetch(&self) -> Result<[Tensor<1>; 2], ModelError> {
        Ok([self.query.fetch()?.get("scale")?, self.key.fetch()?.get("scale")?])
    }
}
