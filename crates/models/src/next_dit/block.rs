//! A block: attention, in which several heads of queries may share one of keys and values, and a gated feed-forward layer,
//! with a norm before and behind each of them.

use distorch_checkpoint::config::NextDitConfig;
use distorch_runtime::kernels::{Projected, Rotation, add_gated, gated_silu, join_rotated_heads};
use distorch_runtime::{DType, Scope, Tensor};

use super::rules::rules;
use crate::ModelError;
use crate::attention::{Mask, attention, repeat_heads};
use crate::layers::{Linear, RmsNorm};

/// Of every norm in a block.
pub(super) const EPSILON: f64 = 1e-5;

/// One block.
pub(super) struct Block {
    width: usize,
    heads: usize,
    kv_heads: usize,
    /// From the time to scales and gates; absent where the prompt alone is read.
    modulation: Option<Linear>,
    attention_norm: RmsNorm,
    qkv: Linear,
    head_norms: [RmsNorm; 2],
    out: Linear,
    attended_norm: RmsNorm,
    feed_forward_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    fed_norm: RmsNorm,
}

/// What the time does to a block, `[batch, width]` each.
struct Modulation {
    attention: Step,
    feed_forward: Step,
}

struct Step {
    /// 1 more than the layer makes.
    scale: Tensor<2>,
    /// Between -1 and 1.
    gate: Tensor<2>,
}

impl Block {
    pub(super) fn load(
        scope: &Scope,
        config: &NextDitConfig,
        is_modulated: bool,
    ) -> Result<Self, ModelError> {
        let (attention, feed_forward) = (scope.at("attention"), scope.at("feed_forward"));
        let norm = |scope: &Scope, name: &str| RmsNorm::load(scope, name, EPSILON);
        Ok(Self {
            width: config.width,
            heads: config.heads,
            kv_heads: config.kv_heads,
            modulation: match is_modulated {
                true => Some(Linear::load(scope, rules(config.kind).modulation)?),
                false => None,
            },
            attention_norm: norm(scope, "attention_norm1")?,
            qkv: Linear::load(&attention, "qkv")?,
            head_norms: [norm(&attention, "q_norm")?, norm(&attention, "k_norm")?],
            out: Linear::load(&attention, "out")?,
            attended_norm: norm(scope, "attention_norm2")?,
            feed_forward_norm: norm(scope, "ffn_norm1")?,
            gate: Linear::load(&feed_forward, "w1")?,
            up: Linear::load(&feed_forward, "w3")?,
            down: Linear::load(&feed_forward, "w2")?,
            fed_norm: norm(scope, "ffn_norm2")?,
        })
    }

    /// `x` `[batch, tokens, width]`; `time` is what modulates, `[batch, width of the modulation]`.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        time: &Tensor<2>,
        rotation: &Rotation,
    ) -> Result<Tensor<3>, ModelError> {
        let modulation = match &self.modulation {
            Some(linear) => Some(self.modulate(linear, time)?),
            None => None,
        };
        let (attention, feed_forward) =
            modulation.map(|modulation| (modulation.attention, modulation.feed_forward)).unzip();
        let h = scaled(self.attention_norm.forward(x.clone())?, attention.as_ref());
        let seen = self.attend(h, rotation)?;
        let x = added(x, self.attended_norm.forward(finite(seen))?, attention);
        let h = scaled(self.feed_forward_norm.forward(x.clone())?, feed_forward.as_ref());
        let gate = self.gate.tokens(h.clone())?;
        let fed = self.down.tokens_to(gated_silu(gate, self.up.tokens(h)?), self.width)?;
        Ok(added(x, self.fed_norm.forward(finite(fed))?, feed_forward))
    }

    fn modulate(&self, linear: &Linear, time: &Tensor<2>) -> Result<Modulation, ModelError> {
        let all = linear.forward_to(time.clone(), 4 * self.width)?;
        let part = |at: usize| all.clone().narrow(1, at * self.width, self.width);
        let step = |at: usize| Step { scale: part(at) + 1.0, gate: part(at + 1).tanh() };
        Ok(Modulation { attention: step(0), feed_forward: step(2) })
    }

    fn attend(&self, x: Tensor<3>, rotation: &Rotation) -> Result<Tensor<3>, ModelError> {
        let Self { width, heads, kv_heads, .. } = *self;
        let head = width / heads;
        let shared = kv_heads * head;
        let mut qkv = self.qkv.tokens_to(x, width + 2 * shared)?;
        if heads != kv_heads {
            let part = |first, count| qkv.clone().narrow(2, first, count);
            let [key, value] = [width, width + shared]
                .map(|first| repeat_heads(part(first, shared), heads, kv_heads));
            qkv = Tensor::cat(vec![part(0, width), key, value], 2);
        }
        let [query, key] = &self.head_norms;
        let norms = Some([query.weight(head)?, key.weight(head)?]);
        let projected = vec![Projected { qkv, norms }];
        let [query, key, value] = join_rotated_heads(projected, self.heads, EPSILON, rotation);
        let seen = attention(query, key, value, self.heads, Mask::None, self.qkv.precision());
        self.out.tokens_to(seen, self.width)
    }
}

fn scaled(x: Tensor<3>, step: Option<&Step>) -> Tensor<3> {
    match step {
        Some(step) => x * step.scale.clone().unsqueeze_dim::<3>(1),
        None => x,
    }
}

fn added(x: Tensor<3>, branch: Tensor<3>, step: Option<Step>) -> Tensor<3> {
    match step {
        Some(step) => add_gated(x, branch, step.gate),
        None => x + branch,
    }
}

/// What comes out of a branch grows beyond f16 in a few features, which the norm behind brings back.
fn finite(x: Tensor<3>) -> Tensor<3> {
    if x.dtype() == DType::F16 { x.clamp(-65504.0, 65504.0) } else { x }
}
