//! CLIP's text encoder (Radford et al., <https://arxiv.org/abs/2103.00020>): CLIP-L and OpenCLIP's
//! H and G, which differ in size and activation only.
//!
//! A causal pre-norm transformer over at most 77 tokens. Diffusion models read the hidden states of
//! its last or an earlier layer, and the state at the end token as a summary of the text
//! ("pooled").

use distorch_checkpoint::config::{ClipActivation, ClipConfig};
use distorch_runtime::kernels::Activation;
use distorch_runtime::{DType, Scope, Tensor};

use crate::ModelError;
use crate::attention::{Mask, attention};
use crate::layers::{Embedding, LayerNorm, Linear};
use crate::prompt::token::Token;
use crate::token_table::TokenTable;

const MODEL: &str = "CLIP text encoder";
const EPSILON: f64 = 1e-5;

/// What is read of a text as a whole: the last layer's state at its first end token, behind the final layer norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The state itself.
    State,
    /// The state behind the text projection, where the encoder has one.
    Projected,
}

/// Which outputs [`ClipTextEncoder::forward`] is to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipRequest {
    /// The layer whose output is read, counted from the last, which is 1 (clip skip).
    pub layer_from_end: usize,
    /// Whether the final layer norm is applied to it.
    pub final_layer_norm: bool,
    /// Which pooled output is wanted, if one is, which takes all layers.
    pub pooled: Option<Pooling>,
}

/// What [`ClipTextEncoder::forward`] gives, in f32.
#[derive(Clone, Debug)]
pub struct ClipOutput {
    /// Hidden states, `[texts, tokens, width]`.
    pub hidden: Tensor<3>,
    /// The pooled output that was asked for, `[texts, width or projection]`.
    pub pooled: Option<Tensor<2>>,
}

/// A CLIP text encoder.
pub struct ClipTextEncoder {
    config: ClipConfig,
    dtype: DType,
    tokens: TokenTable,
    positions: Embedding,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    projection: Option<Linear>,
}

impl ClipTextEncoder {
    /// The encoder whose layers are below `scope` (`text_model.embeddings.token_embedding`, …).
    ///
    /// # Errors
    /// When a layer is missing, or the heads do not divide the width.
    pub fn load(config: &ClipConfig, scope: &Scope) -> Result<Self, ModelError> {
        if config.heads == 0 || !config.width.is_multiple_of(config.heads) {
            let reason =
                format!("{} heads do not divide a width of {}", config.heads, config.width);
            return Err(ModelError::Config { model: MODEL, reason });
        }
        let text = scope.at("text_model");
        let layers = text.at("encoder.layers");
        let layers = (0..config.layers).map(|index| EncoderLayer::load(config, &layers.at(index)));
        let projection = config.projection.map(|_| Linear::load(scope, "text_projection"));
        Ok(Self {
            config: config.clone(),
            dtype: scope.activation_dtype(),
            tokens: TokenTable::load(
                &text,
                "embeddings.token_embedding",
                MODEL,
                [config.vocab_size, config.width],
                config.max_positions,
            )?,
            positions: Embedding::load(&text, "embeddings.position_embedding")?,
            layers: layers.collect::<Result<_, _>>()?,
            final_layer_norm: LayerNorm::load(&text, "final_layer_norm", EPSILON)?,
            projection: projection.transpose()?,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Encodes texts of equally many tokens, start, end and padding included.
    ///
    /// The residual stream is f32 whatever the compute dtype, as are norms and softmax.
    ///
    /// # Errors
    /// When the texts do not fit the model, there is no such layer, or weights cannot be fetched.
    pub fn forward(
        &self,
        texts: &[Vec<Token>],
        request: ClipRequest,
    ) -> Result<ClipOutput, ModelError> {
        let read = self.layer_index(request.layer_from_end)?;
        let run = if request.pooled.is_some() { self.layers.len() } else { read };
        let mut x = self.embed(texts)?;
        // For a `read` of 0, the embeddings themselves.
        let mut hidden = x.clone();
        for (index, layer) in self.layers.iter().take(run).enumerate() {
            x = layer.forward(x, self.dtype)?;
            if index + 1 == read {
                hidden = x.clone();
            }
        }
        if request.final_layer_norm {
            hidden = self.final_layer_norm.forward(hidden)?;
        }
        let pooled = request.pooled.map(|pooling| self.pool(x, texts, pooling)).transpose()?;
        Ok(ClipOutput { hidden, pooled })
    }

    /// How many layers run before the hidden states are read.
    fn layer_index(&self, from_end: usize) -> Result<usize, ModelError> {
        let index = (self.layers.len() + 1).checked_sub(from_end).filter(|_| from_end > 0);
        index.ok_or_else(|| ModelError::Input {
            model: MODEL,
            input: "layer from the end",
            expected: format!("1 to {}", self.layers.len() + 1),
            found: from_end.to_string(),
        })
    }

    /// Token and position embeddings, `[texts, tokens, width]` in f32.
    fn embed(&self, texts: &[Vec<Token>]) -> Result<Tensor<3>, ModelError> {
        let x = self.tokens.forward(texts)?;
        let positions = self.positions.table()?.cast(DType::F32);
        let ([rows, width], length) = (positions.dims(), x.dims()[1]);
        if rows < length {
            return Err(ModelError::Input {
                model: MODEL,
                input: "text",
                expected: format!("at most {rows} tokens"),
                found: length.to_string(),
            });
        }
        Ok(x + positions.slice([0..length, 0..width]).unsqueeze())
    }

    /// The pooled output from the last layer's states.
    fn pool(
        &self,
        x: Tensor<3>,
        texts: &[Vec<Token>],
        pooling: Pooling,
    ) -> Result<Tensor<2>, ModelError> {
        let [_, _, width] = x.dims();
        let rows = texts.iter().enumerate().map(|(text, tokens)| {
            let at = end_position(tokens);
            x.clone().slice([text..text + 1, at..at + 1, 0..width]).reshape([1, width])
        });
        let pooled = Tensor::cat(rows.collect(), 0);
        let pooled = self.final_layer_norm.forward(pooled)?;
        match &self.projection {
            Some(projection) if pooling == Pooling::Projected => {
                Ok(projection.forward(pooled.cast(self.dtype))?.cast(DType::F32))
            }
            _ => Ok(pooled),
        }
    }
}

/// Where the text ends: at the first of its highest id, which the end token has.
fn end_position(tokens: &[Token]) -> usize {
    let mut end = (0, None);
    for (at, token) in tokens.iter().enumerate() {
        if let Token::Id(id) = token
            && end.1.is_none_or(|highest| *id > highest)
        {
            end = (at, Some(*id));
        }
    }
    end.0
}

/// Self-attention and a feed-forward network, each behind a norm and around a residual.
struct EncoderLayer {
    heads: usize,
    activation: Activation,
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl EncoderLayer {
    fn load(config: &ClipConfig, scope: &Scope) -> Result<Self, ModelError> {
        let (attn, mlp) = (scope.at("self_attn"), scope.at("mlp"));
        Ok(Self {
            heads: config.heads,
            activation: match config.activation {
                ClipActivation::QuickGelu => Activation::QuickGelu,
                ClipActivation::Gelu => Activation::Gelu,
            },
            layer_norm1: LayerNorm::load(scope, "layer_norm1", EPSILON)?,
            q_proj: Linear::load(&attn, "q_proj")?,
            k_proj: Linear::load(&attn, "k_proj")?,
            v_proj: Linear::load(&attn, "v_proj")?,
            out_proj: Linear::load(&attn, "out_proj")?,
            layer_norm2: LayerNorm::load(scope, "layer_norm2", EPSILON)?,
            fc1: Linear::load(&mlp, "fc1")?,
            fc2: Linear::load(&mlp, "fc2")?,
        })
    }

    /// `x` in f32; matrix products in `dtype`.
    fn forward(&self, x: Tensor<3>, dtype: DType) -> Result<Tensor<3>, ModelError> {
        let h = self.layer_norm1.forward(x.clone())?.cast(dtype);
        let q = self.q_proj.forward(h.clone())?;
        let k = self.k_proj.forward(h.clone())?;
        let v = self.v_proj.forward(h)?;
        let h = self.out_proj.forward(attention(
            q,
            k,
            v,
            self.heads,
            Mask::Causal,
            self.q_proj.precision(),
        ))?;
        let x = x + h.cast(DType::F32);

        let h = self.layer_norm2.forward(x.clone())?.cast(dtype);
        let h = self.fc1.tokens_activated(h, self.activation)?;
        let h = self.fc2.forward(h)?;
        Ok(x + h.cast(DType::F32))
    }
}
