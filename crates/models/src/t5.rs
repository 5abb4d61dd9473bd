//! T5 v1.1's encoder (Raffel et al., <https://arxiv.org/abs/1910.10683>; Shazeer,
//! <https://arxiv.org/abs/2002.05202>): what SD3 and Flux read long prompts with.
//!
//! A pre-norm transformer without biases and without positions in its input: attention adds to each head's
//! scores a value that depends on how far the key is from the query. Scores are not scaled.

use distorch_checkpoint::config::T5Config;
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Scope, Tensor, kernels};

use crate::ModelError;
use crate::attention::{Mask, attention};
use crate::layers::{Embedding, Linear, RmsNorm};
use crate::prompt::token::Token;
use crate::token_table::TokenTable;

const MODEL: &str = "T5 text encoder";
const EPSILON: f64 = 1e-6;

/// Keys this far from a query, and farther ones, are all the same to it.
const FARTHEST: usize = 128;

/// Tokens of a text at most, since attention's table of positions grows with their square.
const LONGEST: usize = 4096;

/// A T5 encoder.
pub struct T5Encoder {
    config: T5Config,
    dtype: DType,
    tokens: TokenTable,
    blocks: Vec<Block>,
    final_layer_norm: RmsNorm,
}

impl T5Encoder {
    /// The encoder whose layers are below `scope` (`shared`, `encoder.block.0.layer.0.SelfAttention.q`, …).
    ///
    /// # Errors
    /// When a layer is missing, or the configuration has no heads.
    pub fn load(config: &T5Config, scope: &Scope) -> Result<Self, ModelError> {
        if config.heads == 0 || config.head_dim == 0 {
            let reason = format!("{} heads of {} values", config.heads, config.head_dim);
            return Err(ModelError::Config { model: MODEL, reason });
        }
        let rows = [config.vocab_size, config.width];
        let encoder = scope.at("encoder");
        let blocks = encoder.at("block");
        let blocks = (0..config.layers).map(|index| Block::load(config, &blocks.at(index), index));
        Ok(Self {
            config: config.clone(),
            dtype: scope.activation_dtype(),
            tokens: TokenTable::load(scope, "shared", MODEL, rows, LONGEST)?,
            blocks: blocks.collect::<Result<_, _>>()?,
            final_layer_norm: RmsNorm::load(&encoder, "final_layer_norm", EPSILON)?,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Encodes texts of equally many tokens, end and padding included: the hidden states of the layer
    /// `layer_from_end`, counted from the last, which is 1, behind the final norm, `[texts, tokens, width]` in f32.
    ///
    /// Every token sees every other, padding too. The residual stream is f32 whatever the compute dtype.
    ///
    /// # Errors
    /// When the texts do not fit the model, there is no such layer, or weights cannot be fetched.
    pub fn forward(
        &self,
        texts: &[Vec<Token>],
        layer_from_end: usize,
    ) -> Result<Tensor<3>, ModelError> {
        let run = (self.blocks.len() + 1).checked_sub(layer_from_end);
        let run = run.filter(|_| layer_from_end > 0).ok_or_else(|| ModelError::Input {
            model: MODEL,
            input: "layer from the end",
            expected: format!("1 to {}", self.blocks.len() + 1),
            found: layer_from_end.to_string(),
        })?;
        let mut x = self.tokens.forward(texts)?;
        let mut bias = None;
        for block in self.blocks.iter().take(run) {
            x = block.forward(x, &mut bias, self.dtype)?;
        }
        self.final_layer_norm.forward(x)
    }
}

/// Self-attention and a feed-forward network, each behind a norm and around a residual.
struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl Block {
    fn load(config: &T5Config, scope: &Scope, index: usize) -> Result<Self, ModelError> {
        let (attention, feed_forward) = (scope.at("layer.0"), scope.at("layer.1"));
        Ok(Self {
            attention_norm: RmsNorm::load(&attention, "layer_norm", EPSILON)?,
            attention: Attention::load(config, &attention.at("SelfAttention"), index)?,
            feed_forward_norm: RmsNorm::load(&feed_forward, "layer_norm", EPSILON)?,
            feed_forward: FeedForward::load(&feed_forward.at("DenseReluDense"))?,
        })
    }

    /// `x` in f32; matrix products in `dtype`. The first block makes the bias that all blocks add to their scores.
    fn forward(
        &self,
        x: Tensor<3>,
        bias: &mut Option<Tensor<4>>,
        dtype: DType,
    ) -> Result<Tensor<3>, ModelError> {
        let h = self.attention_norm.forward(x.clone())?.cast(dtype);
        let x = x + self.attention.forward(h, bias)?.cast(DType::F32);
        let h = self.feed_forward_norm.forward(x.clone())?.cast(dtype);
        Ok(x + self.feed_forward.forward(h)?)
    }
}

struct Attention {
    heads: usize,
    head_dim: usize,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// Of the first block: what is added to scores, `[buckets, heads]`.
    relative_attention_bias: Option<Embedding>,
}

impl Attention {
    fn load(config: &T5Config, scope: &Scope, index: usize) -> Result<Self, ModelError> {
        let bias = (index == 0).then(|| Embedding::load(scope, "relative_attention_bias"));
        Ok(Self {
            heads: config.heads,
            head_dim: config.head_dim,
            q: Linear::load(scope, "q")?,
            k: Linear::load(scope, "k")?,
            v: Linear::load(scope, "v")?,
            o: Linear::load(scope, "o")?,
            relative_attention_bias: bias.transpose()?,
        })
    }

    fn forward(&self, x: Tensor<3>, bias: &mut Option<Tensor<4>>) -> Result<Tensor<3>, ModelError> {
        let tokens = x.dims()[1];
        // Attention divides by this.
        let q = self.q.forward(x.clone())? * (self.head_dim as f64).sqrt();
        let k = self.k.forward(x.clone())?;
        let v = self.v.forward(x)?;
        if let Some(table) = &self.relative_attention_bias {
            *bias = Some(position_bias(table.table()?, self.heads, tokens)?);
        }
        let mask = bias.clone().map_or(Mask::None, Mask::Bias);
        self.o.forward(attention(q, k, v, self.heads, mask, self.q.precision()))
    }
}

/// `wo · (gelu(wi_0 · x) ⊙ wi_1 · x)`, with the GELU that is approximated by a hyperbolic tangent.
struct FeedForward {
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
}

/// In f16, what the last product of a feed-forward network multiplies is divided by this and its result is
/// multiplied with it: T5-XXL's states there are beyond what f16 holds. Both are exact.
const F16_SCALE: f32 = 64.0;

impl FeedForward {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self {
            wi_0: Linear::load(scope, "wi_0")?,
            wi_1: Linear::load(scope, "wi_1")?,
            wo: Linear::load(scope, "wo")?,
        })
    }

    /// In f32.
    fn forward(&self, x: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        let gate = kernels::gelu_tanh(self.wi_0.forward(x.clone())?);
        let value = self.wi_1.forward(x)?;
        if value.dtype() != DType::F16 {
            return Ok(self.wo.forward(gate * value)?.cast(DType::F32));
        }
        let product = gate.cast(DType::F32) * value.cast(DType::F32) / F16_SCALE;
        Ok(self.wo.forward(product.cast(DType::F16))?.cast(DType::F32) * F16_SCALE)
    }
}

/// What each head adds to the score of each query and key, `[1, heads, queries, keys]` in f32.
fn position_bias(table: Tensor<2>, heads: usize, tokens: usize) -> Result<Tensor<4>, ModelError> {
    let [buckets, found] = table.dims();
    if found != heads || buckets == 0 {
        return Err(ModelError::Input {
            model: MODEL,
            input: "table of relative positions",
            expected: format!("{heads} values in each row"),
            found: format!("{buckets} rows of {found}"),
        });
    }
    let device = table.device();
    let table = table.cast(DType::F32).into_data().convert::<f32>();
    let table = table.as_slice::<f32>().unwrap_or_default();
    // Keys before the query, at it and behind.
    let distances = 1 - tokens as i64..tokens as i64;
    let rows: Vec<usize> = distances.map(|distance| bucket(distance, buckets)).collect();
    let mut bias: Vec<f32> = Vec::with_capacity(heads * tokens * tokens);
    for head in 0..heads {
        let value = |row: &usize| table.get(row * heads + head).copied().unwrap_or_default();
        let by_distance: Vec<f32> = rows.iter().map(value).collect();
        for query in 0..tokens {
            bias.extend(by_distance.iter().skip(tokens - 1 - query).take(tokens));
        }
    }
    let bias = TensorData::new(bias, [1, heads, tokens, tokens]);
    Ok(Tensor::from_data(bias, (&device, DType::F32)))
}

/// The row of the table of `buckets` rows for keys `distance` behind the query: half of the rows are for keys
/// behind it, of each half one half for single distances, the other for ranges that grow to [`FARTHEST`]
/// logarithmically (Raffel et al., section 2.1, and its published code).
fn bucket(distance: i64, buckets: usize) -> usize {
    let half = buckets / 2;
    let side = if distance > 0 { half } else { 0 };
    let distance = distance.unsigned_abs() as usize;
    let exact = (half / 2).max(1);
    if distance < exact {
        return side + distance.min(half.saturating_sub(1));
    }
    // In f32, as it was trained.
    let ratio =
        (distance as f32 / exact as f32).ln() / (FARTHEST as f64 / exact as f64).ln() as f32;
    let range = exact + (ratio * half.saturating_sub(exact) as f32) as usize;
    side + range.min(half.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For 32 rows: 8 single distances, then from 8, 12, 16, 23, 32, 46, 64 and 91 on: 8·16^(n/8), rounded up.
    #[test]
    fn buckets_grow_with_the_distance() {
        let starts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        for distance in 0..5000_i64 {
            let row = starts.iter().filter(|&&start| start <= distance).count() - 1;
            assert_eq!(bucket(-distance, 32), row, "-{distance}");
            let behind = if distance > 0 { 16 } else { 0 };
            assert_eq!(bucket(distance, 32), row + behind, "{distance}");
        }
    }

    /// From -600 to 600; `tools/reference/make_text.py` asked transformers.
    #[test]
    fn buckets_are_transformers() {
        let fixture = include_bytes!("../tests/fixtures/text.safetensors");
        let (_, header) = safetensors::SafeTensors::read_metadata(fixture).unwrap();
        let rows = &header.metadata().as_ref().unwrap()["buckets"];
        let rows: Vec<usize> = serde_json::from_str(rows).unwrap();
        let own: Vec<_> = (-600..=600).map(|distance| bucket(distance, 32)).collect();
        assert_eq!(own, rows);
    }

    #[test]
    fn every_table_has_the_row() {
        for buckets in 1..70 {
            for distance in (-600..600).chain([i64::MIN, i64::MAX]) {
                assert!(bucket(distance, buckets) < buckets, "{distance} in {buckets}");
            }
        }
    }
}
