//! Decoder-only language models, whose hidden states diffusion models read: Qwen3 (Yang et al.,
//! <https://arxiv.org/abs/2505.09388>), the language model of Qwen3-VL, Mistral Small 3 and Gemma 2
//! (<https://arxiv.org/abs/2408.00118>).
//!
//! A pre-norm transformer, without biases but in Qwen2.5-VL's queries, keys and values (<https://arxiv.org/abs/2502.13923>). A token sees those before it. Queries and keys are rotated by the token's place;
//! Qwen's are normalised by the root mean square of each head before. Several heads of queries share one of keys and values
//! (Ainslie et al., <https://arxiv.org/abs/2305.13245>). Gemma's tokens are scaled, and its branches have a norm behind
//! them, too.
//!
//! Pictures may stand among a text's tokens as [`Piece`]s.

pub(crate) mod pieces;
pub(crate) mod rotation;

use distorch_checkpoint::config::{DecoderConfig, DecoderKind};
use distorch_runtime::kernels::{gated_silu, gelu_tanh};
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Scope, Tensor};

use pieces::Embedded;
pub use pieces::Piece;
use rotation::{Axis, HalfRotation};

use crate::ModelError;
use crate::attention::{Mask, attention, repeat_heads};
use crate::layers::{Linear, RmsNorm};
use crate::prompt::token::Token;
use crate::token_table::TokenTable;

/// Tokens of a text at most: what Qwen3 was trained on without an extension of its positions.
const LONGEST: usize = 32_768;

/// What a model does that its sizes do not say, as its published configuration has it.
#[derive(Clone, Copy)]
struct Rules {
    /// Its name in errors.
    model: &'static str,
    /// Of every norm.
    epsilon: f64,
    /// The longest period of the rotation.
    theta: f64,
    /// Whether queries and keys are normalised head by head.
    head_norms: bool,
    /// By which number of its place a token's features turn.
    axis: Axis,
    /// Whether it is built as Gemma is: scaled tokens, norms around 1 before and behind branches, GELU for SiLU.
    ///
    /// Gemma 2 bounds attention's scores by a tanh of 50 and lets every other layer see 4096 tokens; the first is left
    /// out here as in ComfyUI and in PyTorch's own attention.
    gemma: bool,
}

const fn rules(kind: DecoderKind) -> Rules {
    let qwen3 = Rules {
        model: "Qwen3 text encoder",
        epsilon: 1e-6,
        theta: 1_000_000.0,
        head_norms: true,
        axis: rotation::first,
        gemma: false,
    };
    match kind {
        DecoderKind::Qwen3 => qwen3,
        DecoderKind::Qwen3Vl => {
            let model = "Qwen3-VL text encoder";
            Rules { model, theta: 5_000_000.0, axis: rotation::interleaved, ..qwen3 }
        }
        DecoderKind::Qwen25Vl => {
            let model = "Qwen2.5-VL text encoder";
            Rules { model, head_norms: false, axis: rotation::sections, ..qwen3 }
        }
        DecoderKind::Mistral3 => Rules {
            model: "Mistral text encoder",
            epsilon: 1e-5,
            theta: 1_000_000_000.0,
            head_norms: false,
            ..qwen3
        },
        DecoderKind::Gemma2 => Rules {
            model: "Gemma text encoder",
            epsilon: 1e-6,
            theta: 10_000.0,
            head_norms: false,
            gemma: true,
            ..qwen3
        },
    }
}

impl Rules {
    fn norm(self, scope: &Scope, name: &str) -> Result<RmsNorm, ModelError> {
        match self.gemma {
            true => RmsNorm::load_around_one(scope, name, self.epsilon),
            false => RmsNorm::load(scope, name, self.epsilon),
        }
    }
}

/// A language model without its output layer.
pub struct Decoder {
    config: DecoderConfig,
    rules: Rules,
    dtype: DType,
    tokens: TokenTable,
    blocks: Vec<Block>,
    /// The final norm, of models whose last states are read.
    norm: Option<RmsNorm>,
}

impl Decoder {
    /// The model whose layers are below `scope` (`model.embed_tokens`, `model.layers.0.self_attn.q_proj`, …).
    ///
    /// # Errors
    /// When a layer is missing, or the configuration has heads that cannot be.
    pub fn load(config: &DecoderConfig, scope: &Scope) -> Result<Self, ModelError> {
        let DecoderConfig { kind, vocab_size, width, heads, kv_heads, head_dim, .. } = *config;
        let rules = rules(kind);
        let model = rules.model;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || heads == 0 {
            let reason = format!("{heads} heads of queries do not share {kv_heads} of keys");
            return Err(ModelError::Config { model, reason });
        }
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            let reason = format!("heads of {head_dim} features cannot turn in pairs");
            return Err(ModelError::Config { model, reason });
        }
        let inside = scope.at("model");
        let layers = inside.at("layers");
        let blocks = (0..config.layers).map(|at| Block::load(config, rules, &layers.at(at)));
        let rows = [vocab_size, width];
        Ok(Self {
            config: config.clone(),
            rules,
            dtype: scope.activation_dtype(),
            tokens: TokenTable::load(&inside, "embed_tokens", model, rows, LONGEST)?,
            blocks: blocks.collect::<Result<_, _>>()?,
            norm: match kind {
                DecoderKind::Qwen25Vl => Some(rules.norm(&inside, "norm")?),
                _ => None,
            },
        })
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Reads texts of equally many tokens: the hidden states behind each of these numbers of layers, which grow, each
    /// `[texts, tokens, width]` in f32; behind 0 layers these are the tokens' vectors. Later layers are not computed, and
    /// the final norm is not applied.
    ///
    /// The residual stream is f32 whatever the compute dtype.
    ///
    /// # Errors
    /// When the texts do not fit the model, there are not so many layers, or weights cannot be fetched.
    pub fn states(
        &self,
        texts: &[Vec<Token>],
        layers: &[usize],
    ) -> Result<Vec<Tensor<3>>, ModelError> {
        self.run(Embedded::of_texts(&self.tokens, texts)?, layers, &Mask::Causal)
    }

    /// As [`states`](Self::states), of one text with pictures among its words.
    ///
    /// # Errors
    /// As [`states`](Self::states); when a picture's states are not of the model's width.
    pub fn states_with_pictures(
        &self,
        pieces: Vec<Piece>,
        layers: &[usize],
    ) -> Result<Vec<Tensor<3>>, ModelError> {
        self.run(Embedded::of_pieces(&self.tokens, pieces)?, layers, &Mask::Causal)
    }

    /// As [`states`](Self::states), of one text whose tokens behind the first `words` are padding: nothing sees them.
    ///
    /// # Errors
    /// As [`states`](Self::states).
    pub fn states_padded(
        &self,
        text: Vec<Token>,
        words: usize,
        layers: &[usize],
    ) -> Result<Vec<Tensor<3>>, ModelError> {
        let tokens = text.len();
        if words >= tokens || tokens > LONGEST {
            return self.states(&[text], layers);
        }
        let device = self.tokens.device();
        let sees = |query: usize, key: usize| key <= query && key < words.max(1);
        let bias = |sees| if sees { 0.0 } else { f32::NEG_INFINITY };
        let bias: Vec<f32> = (0..tokens)
            .flat_map(|query| (0..tokens).map(move |key| bias(sees(query, key))))
            .collect();
        let bias = TensorData::new(bias, [1, 1, tokens, tokens]);
        let mask = Mask::Bias(Tensor::from_data(bias, (device, DType::F32)));
        self.run(Embedded::of_texts(&self.tokens, &[text])?, layers, &mask)
    }

    /// The states of texts of equally many tokens behind all layers and the final norm, `[texts, tokens, width]` in f32.
    ///
    /// # Errors
    /// As [`states`](Self::states); when the model's last states are not read.
    pub fn last_states(&self, texts: &[Vec<Token>]) -> Result<Tensor<3>, ModelError> {
        self.last(self.states(texts, &[self.blocks.len()])?)
    }

    /// As [`last_states`](Self::last_states), of one text with pictures among its words.
    ///
    /// # Errors
    /// As [`states_with_pictures`](Self::states_with_pictures); when the model's last states are not read.
    pub fn last_states_with_pictures(&self, pieces: Vec<Piece>) -> Result<Tensor<3>, ModelError> {
        self.last(self.states_with_pictures(pieces, &[self.blocks.len()])?)
    }

    /// Behind the final norm.
    fn last(&self, states: Vec<Tensor<3>>) -> Result<Tensor<3>, ModelError> {
        match (states.into_iter().next(), &self.norm) {
            (Some(states), Some(norm)) => norm.forward(states),
            _ => Err(ModelError::Config {
                model: self.rules.model,
                reason: "its last states are not read".to_owned(),
            }),
        }
    }

    fn run(
        &self,
        text: Embedded,
        layers: &[usize],
        mask: &Mask,
    ) -> Result<Vec<Tensor<3>>, ModelError> {
        let last = layers.last().copied().unwrap_or(0);
        if !layers.is_sorted() || last > self.blocks.len() {
            return Err(ModelError::Input {
                model: self.rules.model,
                input: "list of layers",
                expected: format!("0 to {} in order", self.blocks.len()),
                found: format!("{layers:?}"),
            });
        }
        let Embedded { vectors: mut x, places, added } = text;
        if self.rules.gemma {
            x = x * (self.config.width as f64).sqrt();
        }
        let device = x.device();
        let Rules { theta, axis, .. } = self.rules;
        let rotation = HalfRotation::of_places(&places, self.config.head_dim, theta, axis, &device);
        let mut states = Vec::with_capacity(layers.len());
        let mut keep = |at: usize, x: &Tensor<3>| {
            states.extend(layers.iter().filter(|layer| **layer == at).map(|_| x.clone()));
        };
        keep(0, &x);
        for (at, block) in self.blocks.iter().enumerate().take(last) {
            x = block.forward(x, &rotation, mask, self.dtype)?;
            for (start, states) in &added {
                if let Some(states) = states.get(at) {
                    let [texts, count, width] = states.dims();
                    let tokens = x.clone().narrow(1, *start, count) + states.clone();
                    x = x.slice_assign([0..texts, *start..start + count, 0..width], tokens);
                }
            }
            keep(at + 1, &x);
        }
        Ok(states)
    }
}

/// Self-attention and a feed-forward network, each behind a norm and around a residual.
struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    attended_norm: Option<RmsNorm>,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
    fed_norm: Option<RmsNorm>,
}

impl Block {
    fn load(config: &DecoderConfig, rules: Rules, scope: &Scope) -> Result<Self, ModelError> {
        let norm = |name: &str| rules.norm(scope, name);
        // What is behind the attention is before the feed-forward network where a branch has one norm.
        let (attended, before_feed_forward, fed) = match rules.gemma {
            false => (None, "post_attention_layernorm", None),
            true => (
                Some("post_attention_layernorm"),
                "pre_feedforward_layernorm",
                Some("post_feedforward_layernorm"),
            ),
        };
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            attention: Attention::load(config, rules, &scope.at("self_attn"))?,
            attended_norm: attended.map(norm).transpose()?,
            feed_forward_norm: norm(before_feed_forward)?,
            feed_forward: FeedForward::load(&scope.at("mlp"), rules)?,
            fed_norm: fed.map(norm).transpose()?,
        })
    }

    /// `x` in f32; matrix products in `dtype`.
    fn forward(
        &self,
        x: Tensor<3>,
        rotation: &HalfRotation,
        mask: &Mask,
        dtype: DType,
    ) -> Result<Tensor<3>, ModelError> {
        let h = self.attention_norm.forward(x.clone())?.cast(dtype);
        let seen = self.attention.forward(h, rotation, mask.clone())?.cast(DType::F32);
        let x = x + behind(self.attended_norm.as_ref(), seen)?;
        let h = self.feed_forward_norm.forward(x.clone())?.cast(dtype);
        let fed = self.feed_forward.forward(h)?.cast(DType::F32);
        Ok(x + behind(self.fed_norm.as_ref(), fed)?)
    }
}

/// What comes out of a branch, normalised where there is a norm.
fn behind(norm: Option<&RmsNorm>, x: Tensor<3>) -> Result<Tensor<3>, ModelError> {
    match norm {
        Some(norm) => norm.forward(x),
        None => Ok(x),
    }
}

struct Attention {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    head_norms: Option<[RmsNorm; 2]>,
    o_proj: Linear,
}

impl Attention {
    fn load(config: &DecoderConfig, rules: Rules, scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            q_proj: Linear::load(scope, "q_proj")?,
            k_proj: Linear::load(scope, "k_proj")?,
            v_proj: Linear::load(scope, "v_proj")?,
            head_norms: match rules.head_norms {
                true => Some([rules.norm(scope, "q_norm")?, rules.norm(scope, "k_norm")?]),
                false => None,
            },
            o_proj: Linear::load(scope, "o_proj")?,
        })
    }

    fn forward(
        &self,
        x: Tensor<3>,
        rotation: &HalfRotation,
        mask: Mask,
    ) -> Result<Tensor<3>, ModelError> {
        let (inner, shared) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut q = self.split(self.q_proj.tokens_to(x.clone(), inner)?);
        let mut k = self.split(self.k_proj.tokens_to(x.clone(), shared)?);
        let v = self.v_proj.tokens_to(x, shared)?;
        if let Some([of_query, of_key]) = &self.head_norms {
            (q, k) = (of_query.forward(q)?, of_key.forward(k)?);
        }
        let q = join(rotation.turn(q));
        let k = repeat_heads(join(rotation.turn(k)), self.heads, self.kv_heads);
        let v = repeat_heads(v, self.heads, self.kv_heads);
        self.o_proj.tokens(attention(q, k, v, self.heads, mask, self.q_proj.precision()))
    }

    /// `[batch, tokens, heads × d]` to `[batch, tokens, heads, d]`.
    fn split(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, tokens, width] = x.dims();
        x.reshape([batch, tokens, width / self.head_dim, self.head_dim])
    }
}

fn join(x: Tensor<4>) -> Tensor<3> {
    let [batch, tokens, heads, dim] = x.dims();
    x.reshape([batch, tokens, heads * dim])
}

/// `down · (silu(gate · x) ⊙ up · x)` (Shazeer, <https://arxiv.org/abs/2002.05202>), or with GELU.
struct FeedForward {
    gelu: bool,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl FeedForward {
    fn load(scope: &Scope, rules: Rules) -> Result<Self, ModelError> {
        Ok(Self {
            gelu: rules.gemma,
            gate_proj: Linear::load(scope, "gate_proj")?,
            up_proj: Linear::load(scope, "up_proj")?,
            down_proj: Linear::load(scope, "down_proj")?,
        })
    }

    fn forward(&self, x: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        let gate = self.gate_proj.tokens(x.clone())?;
        let up = self.up_proj.tokens(x)?;
        self.down_proj.tokens(match self.gelu {
            true => gelu_tanh(gate) * up,
            false => gated_silu(gate, up),
        })
    }
}
