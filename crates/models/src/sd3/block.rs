//! The joint block: text and picture, each with its own weights, in one attention.

use distorch_checkpoint::config::MmditConfig;
use distorch_runtime::kernels::{self, Activation, Projected};
use distorch_runtime::{Scope, Tensor};

use crate::ModelError;
use crate::attention::{Mask, attention};
use crate::layers::{Linear, RmsNorm};

/// Of every norm.
pub(super) const EPSILON: f64 = 1e-6;

/// Parts of a modulation: shift, scale and gate of the attention, then of the feed-forward layer and of the second
/// attention, where there are these.
const SHIFT: usize = 0;
const SCALE: usize = 1;
const GATE: usize = 2;
const FEED_FORWARD: usize = 3;
const SECOND: usize = 6;

/// Both streams of one depth.
pub(super) struct JointBlock {
    width: usize,
    heads: usize,
    text: Stream,
    picture: Stream,
    /// The picture's attention to itself (SD3.5 medium).
    second: Option<Attention>,
}

impl JointBlock {
    pub fn load(scope: &Scope, config: &MmditConfig, at: usize) -> Result<Self, ModelError> {
        let (text, picture) = (scope.at("context_block"), scope.at("x_block"));
        let last = at + 1 == config.depth;
        let second = match config.dual_attention_layers.contains(&at) {
            true => Some(Attention::load(&picture.at("attn2"), config, true)?),
            false => None,
        };
        Ok(Self {
            width: config.width,
            heads: config.heads,
            text: Stream::load(&text, config, if last { 2 } else { 6 })?,
            picture: Stream::load(&picture, config, if second.is_some() { 9 } else { 6 })?,
            second,
        })
    }

    /// `text` `[batch, tokens, width]` and `picture` `[batch, patches, width]` to the same. `vectors` `[batch, width]`
    /// come activated. The last block returns the text as it came: nothing reads it.
    pub fn forward(
        &self,
        text: Tensor<3>,
        picture: Tensor<3>,
        vectors: &Tensor<2>,
    ) -> Result<(Tensor<3>, Tensor<3>), ModelError> {
        let ([_, tokens, _], [_, patches, _]) = (text.dims(), picture.dims());
        let of_picture = self.picture.modulation(vectors, self.width)?;
        let normal = of_picture.norm(picture.clone(), SHIFT, SCALE);
        // Ahead of the joint attention, so that there are queries, keys and values of only one at a time.
        let picture = match &self.second {
            Some(second) => {
                let normal = of_picture.norm(picture.clone(), SECOND + SHIFT, SECOND + SCALE);
                let streams = vec![second.project(normal, self.width, self.heads)?];
                let seen = second.attend(streams, self.heads);
                let seen = second.out(seen, self.width)?;
                kernels::add_gated(picture, seen, of_picture.part(SECOND + GATE))
            }
            None => picture,
        };
        let from_picture = self.picture.attention.project(normal, self.width, self.heads)?;
        let of_text = self.text.modulation(vectors, self.width)?;
        let normal = of_text.norm(text.clone(), SHIFT, SCALE);
        let from_text = self.text.attention.project(normal, self.width, self.heads)?;
        let seen = self.text.attention.attend(vec![from_text, from_picture], self.heads);
        let by_text = seen.clone().narrow(1, 0, tokens);
        let by_picture = seen.narrow(1, tokens, patches);
        let text = self.text.finish(text, by_text, &of_text)?;
        let picture = self.picture.finish(picture, by_picture, &of_picture)?;
        Ok((text, picture))
    }
}

/// The weights of one modality. Behind the last attention, the text has no further ones.
struct Stream {
    modulation: Linear,
    modulations: usize,
    attention: Attention,
    feed_forward: Option<FeedForward>,
}

impl Stream {
    fn load(scope: &Scope, config: &MmditConfig, modulations: usize) -> Result<Self, ModelError> {
        let goes_on = modulations > FEED_FORWARD;
        Ok(Self {
            modulation: Linear::load(scope, "adaLN_modulation.1")?,
            modulations,
            attention: Attention::load(&scope.at("attn"), config, goes_on)?,
            feed_forward: match goes_on {
                true => Some(FeedForward::load(&scope.at("mlp"))?),
                false => None,
            },
        })
    }

    fn modulation(&self, vectors: &Tensor<2>, width: usize) -> Result<Modulation, ModelError> {
        Modulation::new(&self.modulation, vectors.clone(), width, self.modulations)
    }

    /// Adds what attention saw, and what the feed-forward layer makes of it.
    fn finish(
        &self,
        x: Tensor<3>,
        seen: Tensor<3>,
        modulation: &Modulation,
    ) -> Result<Tensor<3>, ModelError> {
        let Some(feed_forward) = &self.feed_forward else { return Ok(x) };
        let seen = self.attention.out(seen, modulation.width)?;
        let x = kernels::add_gated(x, seen, modulation.part(GATE));
        let normal = modulation.norm(x.clone(), FEED_FORWARD + SHIFT, FEED_FORWARD + SCALE);
        let fed = feed_forward.forward(normal, modulation.width)?;
        Ok(kernels::add_gated(x, fed, modulation.part(FEED_FORWARD + GATE)))
    }
}

/// What a stream's tokens are scaled, shifted and gated by.
pub(super) struct Modulation {
    /// `[batch, parts × width]`.
    parts: Tensor<2>,
    width: usize,
}

impl Modulation {
    /// Of `vectors` `[batch, width]`, which come activated.
    pub fn new(
        linear: &Linear,
        vectors: Tensor<2>,
        width: usize,
        parts: usize,
    ) -> Result<Self, ModelError> {
        Ok(Self { parts: linear.forward_to(vectors, parts * width)?, width })
    }

    /// `[batch, width]`.
    pub fn part(&self, at: usize) -> Tensor<2> {
        self.parts.clone().narrow(1, at * self.width, self.width)
    }

    fn norm(&self, x: Tensor<3>, shift: usize, scale: usize) -> Tensor<3> {
        kernels::modulated_norm(x, self.part(shift), self.part(scale), EPSILON)
    }
}

/// What one stream has for an attention.
struct Attention {
    qkv: Linear,
    /// Of queries and keys (SD3.5).
    norms: Option<[RmsNorm; 2]>,
    /// Absent where nothing is made of what the stream sees.
    proj: Option<Linear>,
}

impl Attention {
    fn load(scope: &Scope, config: &MmditConfig, projects: bool) -> Result<Self, ModelError> {
        let norm = |name| RmsNorm::load(scope, name, EPSILON);
        Ok(Self {
            qkv: Linear::load(scope, "qkv")?,
            norms: if config.qk_norm { Some([norm("ln_q")?, norm("ln_k")?]) } else { None },
            proj: if projects { Some(Linear::load(scope, "proj")?) } else { None },
        })
    }

    fn project(&self, x: Tensor<3>, width: usize, heads: usize) -> Result<Projected, ModelError> {
        let qkv = self.qkv.tokens_to(x, 3 * width)?;
        let norms = match &self.norms {
            Some([query, key]) => Some([query.weight(width / heads)?, key.weight(width / heads)?]),
            None => None,
        };
        Ok(Projected { qkv, norms })
    }

    /// All streams' tokens to all of them.
    fn attend(&self, streams: Vec<Projected>, heads: usize) -> Tensor<3> {
        let [query, key, value] = kernels::join_heads(streams, heads, EPSILON);
        attention(query, key, value, heads, Mask::None, self.qkv.precision())
    }

    fn out(&self, seen: Tensor<3>, width: usize) -> Result<Tensor<3>, ModelError> {
        match &self.proj {
            Some(proj) => proj.tokens_to(seen, width),
            None => Ok(seen),
        }
    }
}

/// Two layers with GELU between, four times as wide inside.
struct FeedForward {
    fc1: Linear,
    fc2: Linear,
}

impl FeedForward {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self { fc1: Linear::load(scope, "fc1")?, fc2: Linear::load(scope, "fc2")? })
    }

    fn forward(&self, x: Tensor<3>, width: usize) -> Result<Tensor<3>, ModelError> {
        self.fc2.tokens_to(self.fc1.tokens_activated(x, Activation::GeluTanh)?, width)
    }
}
