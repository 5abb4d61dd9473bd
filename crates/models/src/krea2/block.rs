//! Blocks: gated attention whose heads of queries share heads of keys and values, and a gated feed-forward layer.

use distorch_runtime::kernels::{
    Projected, Rotation, add_gated, gated_silu, join_heads, join_rotated_heads,
};
use distorch_runtime::tensor::ops::activation::sigmoid;
use distorch_runtime::{DType, LayerHandle, Scope, Tensor};

use crate::ModelError;
use crate::attention::{Mask, attention, repeat_heads};
use crate::layers::{Linear, RmsNorm};

/// Of every norm.
pub(super) const EPSILON: f64 = 1e-5;

/// The sizes of a block's attention.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
}

/// A block that reads the text alone.
pub(super) struct TextBlock(Inside);

impl TextBlock {
    pub(super) fn load(scope: &Scope, sizes: Sizes) -> Result<Self, ModelError> {
        Ok(Self(Inside::load(scope, sizes)?))
    }

    /// `x` `[batch, tokens, width]`.
    pub(super) fn forward(&self, x: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        let Self(inside) = self;
        let h = inside.attention_norm.forward(x.clone())?;
        let x = finite(x + inside.attention.forward(h, None)?);
        let h = inside.feed_forward_norm.forward(x.clone())?;
        Ok(finite(x + inside.feed_forward.forward(h)?))
    }
}

/// A block for text and picture, which the time modulates.
pub(super) struct Block {
    /// What is added to the modulation that all blocks share.
    modulation: LayerHandle,
    inside: Inside,
}

impl Block {
    pub(super) fn load(scope: &Scope, sizes: Sizes) -> Result<Self, ModelError> {
        let modulation = scope.layer("mod.lin")?;
        Ok(Self { modulation, inside: Inside::load(scope, sizes)? })
    }

    /// `x` `[batch, tokens, width]`; `shared` are the modulations of all blocks for runs of tokens, `[batch, 6 × width]` each.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        shared: &[(usize, Tensor<2>)],
        rotation: &Rotation,
    ) -> Result<Tensor<3>, ModelError> {
        let width = x.dims()[2];
        let params = self.modulation.fetch()?;
        let own: Tensor<1> = params.get("lin")?;
        if own.dims() != [6 * width] {
            return Err(ModelError::Layer {
                layer: params.layer().to_owned(),
                expected: format!("{} values", 6 * width),
                found: format!("{:?}", own.dims()),
            });
        }
        let own: Tensor<2> = own.cast(x.dtype()).unsqueeze();
        let runs = shared.iter().map(|(count, all)| (*count, all.clone() + own.clone()));
        let runs = Runs { width, runs: runs.collect() };
        let Inside { attention_norm, attention, feed_forward_norm, feed_forward } = &self.inside;
        let h = runs.modulated(attention_norm.forward(x.clone())?, [0, 1]);
        let x = finite(runs.add_gated(x, attention.forward(h, Some(rotation))?, 2));
        let h = runs.modulated(feed_forward_norm.forward(x.clone())?, [3, 4]);
        Ok(finite(runs.add_gated(x, feed_forward.forward(h)?, 5)))
    }
}

/// The modulations of runs of tokens in a block, one after the other.
struct Runs {
    width: usize,
    /// Tokens, and six parts side by side.
    runs: Vec<(usize, Tensor<2>)>,
}

impl Runs {
    /// With the parts for scale and shift.
    fn modulated(&self, x: Tensor<3>, [scale, shift]: [usize; 2]) -> Tensor<3> {
        self.each(|start, count, all| {
            modulated(
                x.clone().narrow(1, start, count),
                self.part(all, scale),
                self.part(all, shift),
            )
        })
    }

    /// `x + gate · made`.
    fn add_gated(&self, x: Tensor<3>, made: Tensor<3>, gate: usize) -> Tensor<3> {
        self.each(|start, count, all| {
            let (x, made) = (x.clone(), made.clone());
            add_gated(x.narrow(1, start, count), made.narrow(1, start, count), self.part(all, gate))
        })
    }

    fn part(&self, all: &Tensor<2>, at: usize) -> Tensor<2> {
        all.clone().narrow(1, at * self.width, self.width)
    }

    fn each(&self, of: impl Fn(usize, usize, &Tensor<2>) -> Tensor<3>) -> Tensor<3> {
        let mut start = 0;
        let mut parts = Vec::with_capacity(self.runs.len());
        for (count, all) in &self.runs {
            parts.push(of(start, *count, all));
            start += count;
        }
        if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 1) }
    }
}

/// `(1 + scale) · x + shift`: `x` `[batch, tokens, width]`, the others `[batch, width]`.
pub(super) fn modulated(x: Tensor<3>, scale: Tensor<2>, shift: Tensor<2>) -> Tensor<3> {
    x * (scale + 1.0).unsqueeze_dim::<3>(1) + shift.unsqueeze_dim::<3>(1)
}

/// Hidden states may grow beyond f16 in a few features.
fn finite(x: Tensor<3>) -> Tensor<3> {
    if x.dtype() == DType::F16 { x.clamp(-65504.0, 65504.0) } else { x }
}

/// What both kinds of blocks have.
struct Inside {
    attention_norm: RmsNorm,
    attention: Attention,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl Inside {
    fn load(scope: &Scope, sizes: Sizes) -> Result<Self, ModelError> {
        Ok(Self {
            attention_norm: RmsNorm::load_around_one(scope, "prenorm", EPSILON)?,
            attention: Attention::load(&scope.at("attn"), sizes)?,
            feed_forward_norm: RmsNorm::load_around_one(scope, "postnorm", EPSILON)?,
            feed_forward: FeedForward::load(&scope.at("mlp"))?,
        })
    }
}

struct Attention {
    sizes: Sizes,
    query: Linear,
    key: Linear,
    value: Linear,
    head_norms: [RmsNorm; 2],
    gate: Linear,
    out: Linear,
}

impl Attention {
    fn load(scope: &Scope, sizes: Sizes) -> Result<Self, ModelError> {
        let norms = scope.at("qknorm");
        let norm = |name: &str| RmsNorm::load_around_one(&norms, name, EPSILON);
        Ok(Self {
            sizes,
            query: Linear::load(scope, "wq")?,
            key: Linear::load(scope, "wk")?,
            value: Linear::load(scope, "wv")?,
            head_norms: [norm("qnorm")?, norm("knorm")?],
            gate: Linear::load(scope, "gate")?,
            out: Linear::load(scope, "wo")?,
        })
    }

    fn forward(&self, x: Tensor<3>, rotation: Option<&Rotation>) -> Result<Tensor<3>, ModelError> {
        let Sizes { width, heads, kv_heads } = self.sizes;
        let (head, precision) = (width / heads, self.query.precision());
        let shared = kv_heads * head;
        let query = self.query.tokens_to(x.clone(), width)?;
        let key = repeat_heads(self.key.tokens_to(x.clone(), shared)?, heads, kv_heads);
        let value = repeat_heads(self.value.tokens_to(x.clone(), shared)?, heads, kv_heads);
        let qkv = Tensor::cat(vec![query, key, value], 2);
        let [of_query, of_key] = &self.head_norms;
        let norms = Some([of_query.weight(head)?, of_key.weight(head)?]);
        let projected = vec![Projected { qkv, norms }];
        let [query, key, value] = match rotation {
            Some(rotation) => join_rotated_heads(projected, heads, EPSILON, rotation),
            None => join_heads(projected, heads, EPSILON),
        };
        let seen = attention(query, key, value, heads, Mask::None, precision);
        let gate = sigmoid(self.gate.tokens_to(x, width)?);
        self.out.tokens_to(seen * gate, width)
    }
}

/// `down · (silu(gate · x) ⊙ up · x)` (Shazeer, <https://arxiv.org/abs/2002.05202>).
struct FeedForward {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl FeedForward {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        let layer = |name: &str| Linear::load(scope, name);
        Ok(Self { gate: layer("gate")?, up: layer("up")?, down: layer("down")? })
    }

    fn forward(&self, x: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        let width = x.dims()[2];
        let gate = self.gate.tokens(x.clone())?;
        self.down.tokens_to(gated_silu(gate, self.up.tokens(x)?), width)
    }
}
