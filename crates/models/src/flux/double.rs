//! A block with weights for the picture's tokens and for the text's, which attend to each other.

use distorch_runtime::kernels::{Activation, Projected, Rotation, join_rotated_heads};
use distorch_runtime::{LayerHandle, Scope, Tensor};

use super::modulation::{Modulation, Step, expect_features};
use crate::ModelError;
use crate::attention::{Mask, attention};
use crate::layers::Linear;

/// What the norms of queries and keys add to the mean of squares.
pub(crate) const EPSILON: f64 = 1e-6;

/// Both streams of a block.
pub(crate) struct DoubleBlock {
    picture: Stream,
    text: Stream,
}

/// A block with layers that modulate it.
pub(super) struct ModulatedDoubleBlock {
    picture: Modulation<2>,
    text: Modulation<2>,
    block: DoubleBlock,
}

impl ModulatedDoubleBlock {
    pub(super) fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self {
            picture: Modulation::load(scope, "img_mod.lin")?,
            text: Modulation::load(scope, "txt_mod.lin")?,
            block: DoubleBlock::load(scope)?,
        })
    }

    /// `vector` comes activated; as [`DoubleBlock::forward`].
    pub(super) fn forward(
        &self,
        x: Streams,
        vector: &Tensor<2>,
        rotation: &Rotation,
        heads: usize,
    ) -> Result<Streams, ModelError> {
        let steps = [self.picture.steps(vector)?, self.text.steps(vector)?];
        self.block.forward(x, &steps, rotation, heads)
    }
}

/// Picture and text between blocks, `[batch, tokens, width]` each.
pub(crate) struct Streams {
    pub(crate) picture: Tensor<3>,
    pub(crate) text: Tensor<3>,
}

impl DoubleBlock {
    pub(crate) fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self { picture: Stream::load(scope, "img")?, text: Stream::load(scope, "txt")? })
    }

    /// `steps` modulate the picture's attention and feed-forward layer, then the text's; `rotation` is that of the text's
    /// tokens and the picture's behind them.
    pub(crate) fn forward(
        &self,
        x: Streams,
        steps: &[[Step; 2]; 2],
        rotation: &Rotation,
        heads: usize,
    ) -> Result<Streams, ModelError> {
        let [[attend, think], [attend_text, think_text]] = steps;
        let Streams { picture, text } = x;
        let from_picture = self.picture.project(attend.enter(picture.clone()))?;
        let from_text = self.text.project(attend_text.enter(text.clone()))?;
        let both = vec![from_text, from_picture];
        let [query, key, value] = join_rotated_heads(both, heads, EPSILON, rotation);
        let precision = self.picture.proj.precision();
        let seen = attention(query, key, value, heads, Mask::None, precision);
        let (words, patches) = (text.dims()[1], picture.dims()[1]);

        let of_picture = self.picture.proj.tokens(seen.clone().narrow(1, words, patches))?;
        let picture = attend.leave(picture, of_picture);
        let step = self.picture.feed_forward(think.enter(picture.clone()))?;
        let picture = think.leave(picture, step);

        let of_text = self.text.proj.tokens(seen.narrow(1, 0, words))?;
        let text = attend_text.leave(text, of_text);
        let step = self.text.feed_forward(think_text.enter(text.clone()))?;
        let text = think_text.leave(text, step);
        Ok(Streams { picture, text })
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
        let qkv = self.qkv.tokens(x)?;
        expect_features(qkv.dims()[2], 3 * width)?;
        Ok(Projected { qkv, norms: Some(self.norms.fetch()?) })
    }

    fn feed_forward(&self, x: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        self.second.tokens(self.first.tokens_activated(x, Activation::GeluTanh)?)
    }
}

/// The scales of the RMS norms of queries and keys.
pub(super) struct HeadNorms {
    query: LayerHandle,
    key: LayerHandle,
}

impl HeadNorms {
    pub(super) fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self { query: scope.layer("query_norm")?, key: scope.layer("key_norm")? })
    }

    /// `[features of a head]` each.
    pub(super) fn fetch(&self) -> Result<[Tensor<1>; 2], ModelError> {
        Ok([self.query.fetch()?.get("scale")?, self.key.fetch()?.get("scale")?])
    }
}
