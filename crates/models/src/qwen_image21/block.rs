//! A block for all tokens, without a modulation of its own.

use distorch_runtime::kernels::{
    Projected, Rotation, add_gated, gated_silu, join_rotated_heads, modulated_norm,
};
use distorch_runtime::{DType, Scope, Tensor};

use super::sequence::{Run, Sequence};
use crate::ModelError;
use crate::attention::{Mask, attention};
use crate::layers::{Linear, RmsNorm};

/// Of every norm.
pub(super) const EPSILON: f64 = 1e-6;

/// How one branch of all blocks is modulated, `[batch, width]` each.
pub(super) struct Step {
    scale: Tensor<2>,
    gate: Tensor<2>,
}

/// The modulation of all blocks: of the tokens that have no noise, and of those that have.
pub(super) struct Modulation {
    /// Tokens without noise, which come first.
    prefix: usize,
    /// Of the attention and of the feed-forward layer.
    still: [Step; 2],
    noisy: [Step; 2],
}

impl Modulation {
    /// From what the shared layer makes of the times of so many pictures and, in the last row, of no noise:
    /// `[batch + 1, 4 × width]`.
    pub fn new(all: &Tensor<2>, batch: usize, prefix: usize) -> Self {
        let width = all.dims()[1] / 4;
        let steps = |rows: Tensor<2>| {
            let part = |at: usize| rows.clone().narrow(1, at * width, width);
            [0, 2].map(|at| Step { scale: part(at), gate: part(at + 1).tanh() })
        };
        let still = all.clone().narrow(0, batch, 1).repeat_dim(0, batch);
        let noisy = all.clone().narrow(0, 0, batch);
        Self { prefix, still: steps(still), noisy: steps(noisy) }
    }

    /// The normalised tokens, scaled.
    fn enter(&self, branch: usize, x: &Tensor<3>) -> Tensor<3> {
        self.each(branch, x.dims()[1], |step, start, count| {
            scaled_norm(x.clone().narrow(1, start, count), step.scale.clone())
        })
    }

    /// The tokens with what a branch made of them.
    fn leave(&self, branch: usize, x: Tensor<3>, made: Tensor<3>) -> Tensor<3> {
        let tokens = x.dims()[1];
        self.each(branch, tokens, |step, start, count| {
            let part = |all: &Tensor<3>| all.clone().narrow(1, start, count);
            finite(add_gated(part(&x), part(&made), step.gate.clone()))
        })
    }

    fn each(
        &self,
        branch: usize,
        tokens: usize,
        of: impl Fn(&Step, usize, usize) -> Tensor<3>,
    ) -> Tensor<3> {
        let ([still, noisy], prefix) = ([&self.still, &self.noisy], self.prefix.min(tokens));
        let step = |steps: &[Step; 2], start: usize, count: usize| {
            let [attention, feed_forward] = steps;
            of(if branch == 0 { attention } else { feed_forward }, start, count)
        };
        let runs = [(still, 0, prefix), (noisy, prefix, tokens - prefix)];
        let runs = runs.into_iter().filter(|(_, _, count)| *count > 0);
        Tensor::cat(runs.map(|(steps, start, count)| step(steps, start, count)).collect(), 1)
    }
}

/// Layer normalisation, scaled by one more than this.
pub(super) fn scaled_norm(x: Tensor<3>, scale: Tensor<2>) -> Tensor<3> {
    modulated_norm(x, scale.zeros_like(), scale, EPSILON)
}

/// Hidden states may grow beyond f16 in a few features.
fn finite(x: Tensor<3>) -> Tensor<3> {
    if x.dtype() == DType::F16 { x.clamp(-65504.0, 65504.0) } else { x }
}

/// Attention and a feed-forward layer, around a residual each.
pub(super) struct Block {
    attention: Attention,
    feed_forward: FeedForward,
}

impl Block {
    pub fn load(scope: &Scope, heads: usize) -> Result<Self, ModelError> {
        Ok(Self {
            attention: Attention::load(&scope.at("attn"), heads)?,
            feed_forward: FeedForward::load(&scope.at("img_mlp"))?,
        })
    }

    /// `x` `[batch, tokens, width]`.
    pub fn forward(
        &self,
        x: Tensor<3>,
        modulation: &Modulation,
        rotation: &Rotation,
        sequence: &Sequence,
    ) -> Result<Tensor<3>, ModelError> {
        let made = self.attention.forward(modulation.enter(0, &x), rotation, sequence)?;
        let x = modulation.leave(0, x, made);
        let made = self.feed_forward.forward(modulation.enter(1, &x))?;
        Ok(modulation.leave(1, x, made))
    }
}

struct Attention {
    heads: usize,
    qkv: [Linear; 3],
    norms: [RmsNorm; 2],
    out: Linear,
}

impl Attention {
    fn load(scope: &Scope, heads: usize) -> Result<Self, ModelError> {
        let linear = |name: &str| Linear::load(scope, name);
        let norm = |name: &str| RmsNorm::load(scope, name, EPSILON);
        Ok(Self {
            heads,
            qkv: [linear("to_q")?, linear("to_k")?, linear("to_v")?],
            norms: [norm("norm_q")?, norm("norm_k")?],
            out: linear("to_out.0")?,
        })
    }

    fn forward(
        &self,
        x: Tensor<3>,
        rotation: &Rotation,
        sequence: &Sequence,
    ) -> Result<Tensor<3>, ModelError> {
        let width = x.dims()[2];
        let [query, key, value] = &self.qkv;
        let qkv = vec![
            query.tokens_to(x.clone(), width)?,
            key.tokens_to(x.clone(), width)?,
            value.tokens_to(x, width)?,
        ];
        let head = width / self.heads.max(1);
        let [of_query, of_key] = &self.norms;
        let norms = Some([of_query.weight(head)?, of_key.weight(head)?]);
        let all = vec![Projected { qkv: Tensor::cat(qkv, 2), norms }];
        let [query, key, value] = join_rotated_heads(all, self.heads, EPSILON, rotation);
        let precision = self.out.precision();
        let mut start = 0;
        let mut seen = Vec::with_capacity(sequence.runs.len());
        for (run, tokens) in &sequence.runs {
            let end = start + tokens;
            let mask = match run {
                Run::Text(..) => Mask::Causal,
                Run::Picture(_) => Mask::None,
            };
            let query = query.clone().narrow(1, start, *tokens);
            let [key, value] = [&key, &value].map(|all| all.clone().narrow(1, 0, end));
            seen.push(attention(query, key, value, self.heads, mask, precision));
            start = end;
        }
        self.out.tokens_to(Tensor::cat(seen, 1), width)
    }
}

/// `out · (silu(gate · x) ⊙ up · x)` (Shazeer, <https://arxiv.org/abs/2002.05202>).
struct FeedForward {
    gate: Gate,
    out: Linear,
}

/// The gate and what it gates.
enum Gate {
    /// In one matrix, one behind the other.
    Fused(Linear),
    Apart([Linear; 2]),
}

impl FeedForward {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        let linear = |name: &str| Linear::load(scope, name);
        let gate = match scope.has("gate_up") {
            true => Gate::Fused(linear("gate_up")?),
            false => Gate::Apart([linear("gate_layer")?, linear("proj")?]),
        };
        Ok(Self { gate, out: linear("out")? })
    }

    fn forward(&self, x: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        let width = x.dims()[2];
        let (gate, up) = match &self.gate {
            Gate::Fused(linear) => {
                let both = linear.tokens(x)?;
                let half = both.dims()[2] / 2;
                (both.clone().narrow(2, 0, half), both.narrow(2, half, half))
            }
            Gate::Apart([gate, up]) => (gate.tokens(x.clone())?, up.tokens(x)?),
        };
        self.out.tokens_to(gated_silu(gate, up), width)
    }
}
