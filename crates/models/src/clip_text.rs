//! Prompts for CLIP text encoders, and [`ClipText`]: those of SD 1.x, SD 2.x and SDXL.
//!
//! Families differ in their text encoders, the layer that is read, and the padding: [`EncoderUse`].

use distorch_checkpoint::config::{ClipConfig, TextEncoderConfig};
use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::{Scope, Tensor};

use crate::ModelError;
use crate::clip::{ClipRequest, ClipTextEncoder, Pooling};
use crate::conditioning::ConditioningError;
use crate::prompt::embedding::{EmbeddingProblem, Embeddings};
use crate::prompt::token::{Token, WeightedToken};
use crate::prompt::tokenizer::END;
use crate::prompt::{self, PromptTokens, TokenLayout, chunk};
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions, TextStates};
use crate::weighted;

/// Texts that are encoded at once.
const BATCH: usize = 16;

/// How a family uses one of its text encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderUse {
    /// The text encoder.
    pub name: &'static str,
    /// The layer that is read where nobody asks for another, counted from the last.
    pub layer_from_end: usize,
    /// Whether the final layer norm is applied to it.
    pub final_layer_norm: bool,
    /// The pooled output that the family reads of it.
    pub pooled: Option<Pooling>,
    /// The id that fills chunks up.
    pub pad: u32,
}

impl EncoderUse {
    /// CLIP-L's last layer and its pooled output.
    pub const L: Self = Self {
        name: "clip_l",
        layer_from_end: 1,
        final_layer_norm: true,
        pooled: Some(Pooling::Projected),
        pad: END,
    };
    /// CLIP-L's layer before the last, as it is.
    pub const L_PENULTIMATE: Self =
        Self { layer_from_end: 2, final_layer_norm: false, pooled: None, ..Self::L };
    /// CLIP-H's layer before the last, with the final layer norm.
    pub const H: Self = Self { name: "clip_h", layer_from_end: 2, pad: 0, ..Self::L };
    /// CLIP-G's layer before the last, as it is, and its pooled output.
    pub const G: Self = Self { name: "clip_g", final_layer_norm: false, ..Self::H };
}

/// A CLIP text encoder as a family uses it.
pub(crate) struct ClipPart {
    usage: EncoderUse,
    encoder: ClipTextEncoder,
}

impl ClipPart {
    /// The encoder whose layers are below `scope` (`text_model.…`).
    fn load(
        usage: EncoderUse,
        config: &ClipConfig,
        scope: &Scope,
    ) -> Result<Self, ConditioningError> {
        Ok(Self { usage, encoder: ClipTextEncoder::load(config, scope)? })
    }

    /// The encoder of that name among text encoders that each have a scope, where it is there.
    pub fn find(
        usage: EncoderUse,
        encoders: &[(&TextEncoder, Scope)],
    ) -> Result<Option<Self>, ConditioningError> {
        let found = encoders.iter().find_map(|(encoder, scope)| {
            let named = (encoder.name == usage.name).then_some(*encoder);
            named.and_then(clip_config).map(|config| Self::load(usage, config, scope))
        });
        found.transpose()
    }

    /// The encoder's name.
    pub fn name(&self) -> &'static str {
        self.usage.name
    }

    /// Width of the pooled output.
    pub fn pooled_width(&self) -> usize {
        let config = self.encoder.config();
        let projection =
            config.projection.filter(|_| self.usage.pooled == Some(Pooling::Projected));
        projection.unwrap_or(config.width)
    }

    /// What the layout of prompts depends on.
    pub fn layout(&self) -> TokenLayout<'static> {
        let ClipConfig { width, max_positions, .. } = *self.encoder.config();
        TokenLayout { encoder: self.usage.name, width, length: max_positions, pad: self.usage.pad }
    }

    /// Encodes chunks, of which there is at least one: hidden states `[1, all tokens, width]` and the first
    /// chunk's pooled output.
    ///
    /// `clip_skip` is the layer to read, counted from the last, which is 1; `None` is the family's own. More than
    /// the encoder has is its last one with the final layer norm.
    pub fn encode(
        &self,
        chunks: &[Vec<WeightedToken>],
        clip_skip: Option<usize>,
    ) -> Result<(Tensor<3>, Option<Tensor<2>>), ModelError> {
        let request = self.request(clip_skip);
        let mut pooled = None;
        let empty = |_| chunk::empty(self.encoder.config().max_positions, self.usage.pad);
        let hidden = weighted::encode(chunks, empty, |texts| {
            let mut hidden = Vec::new();
            for (batch, texts) in texts.chunks(BATCH).enumerate() {
                // Only the first chunk's pooled output is read.
                let wanted = request.pooled.filter(|_| batch == 0);
                let output =
                    self.encoder.forward(texts, ClipRequest { pooled: wanted, ..request })?;
                hidden.push(output.hidden);
                if let Some(all) = output.pooled {
                    let [_, width] = all.dims();
                    pooled = Some(all.slice([0..1, 0..width]));
                }
            }
            Ok(Tensor::cat(hidden, 0))
        })?;
        Ok((hidden, pooled))
    }

    fn request(&self, clip_skip: Option<usize>) -> ClipRequest {
        let EncoderUse { layer_from_end, final_layer_norm, pooled, .. } = self.usage;
        let layer_from_end = clip_skip.unwrap_or(layer_from_end);
        if layer_from_end > self.encoder.config().layers {
            return ClipRequest { layer_from_end: 1, final_layer_norm: true, pooled };
        }
        ClipRequest { layer_from_end, final_layer_norm, pooled }
    }
}

/// Makes prompts of several encoders equally long: where one has fewer chunks, empty ones follow.
pub(crate) fn equalise(prompts: &mut [(TokenLayout<'_>, &mut PromptTokens)]) {
    let most = prompts.iter().map(|(_, tokens)| tokens.chunks.len()).max().unwrap_or(0);
    for (layout, tokens) in prompts {
        let empty: Vec<Token> = chunk::empty(layout.length, layout.pad);
        let empty = empty.into_iter().map(|token| WeightedToken { token, weight: 1.0 }).collect();
        tokens.chunks.resize(most, empty);
    }
}

/// Adds warnings of textual inversions to others, each once.
pub(crate) fn add_warnings(all: &mut Vec<EmbeddingProblem>, more: Vec<EmbeddingProblem>) {
    for warning in more {
        if all.iter().all(|known| known.to_string() != warning.to_string()) {
            all.push(warning);
        }
    }
}

/// An error for a clip skip that no layer has.
pub(crate) fn check_clip_skip(options: &TextOptions) -> Result<(), ConditioningError> {
    if options.clip_skip == Some(0) { Err(ConditioningError::ClipSkip) } else { Ok(()) }
}

/// The configuration of a CLIP encoder.
fn clip_config(encoder: &TextEncoder) -> Option<&ClipConfig> {
    match &encoder.config {
        TextEncoderConfig::Clip(config) => Some(config),
        _ => None,
    }
}

/// The names of text encoders, for errors.
pub(crate) fn names<'a>(encoders: impl IntoIterator<Item = &'a TextEncoder>) -> String {
    let names: Vec<_> = encoders.into_iter().map(|encoder| encoder.name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The text encoders of SD 1.x, SD 2.x and SDXL.
///
/// A prompt is laid out in chunks of 77 tokens. The encoders' hidden states are joined along the width, cut to the
/// fewest tokens, and the first encoder with a pooled output gives it. For [`Prompt::Each`], empty chunks
/// follow where one has fewer.
pub struct ClipText {
    encoders: Vec<ClipPart>,
}

impl ClipText {
    /// Takes a family's text encoders, in the order in which their hidden states are joined, from a scope whose layers'
    /// names start with the encoders' (`clip_l.text_model.…`).
    ///
    /// # Errors
    /// When a text encoder or a layer of it is missing.
    pub fn load(
        family: Family,
        uses: &[EncoderUse],
        text_encoders: &[TextEncoder],
        scope: &Scope,
    ) -> Result<Self, ConditioningError> {
        let each: Vec<_> =
            text_encoders.iter().map(|encoder| (encoder, scope.at(encoder.name))).collect();
        let encoders = uses.iter().map(|usage| {
            ClipPart::find(*usage, &each)?.ok_or_else(|| ConditioningError::NoEncoder {
                family,
                encoder: usage.name,
                present: names(text_encoders),
            })
        });
        Ok(Self { encoders: encoders.collect::<Result<_, ConditioningError>>()? })
    }
}

impl TextConditioner for ClipText {
    fn encode(
        &self,
        prompt: &Prompt,
        embeddings: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        let read =
            |part: &ClipPart| prompt::read(prompt.of(part.name()), part.layout(), embeddings);
        let mut tokens = self.encoders.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        check_clip_skip(options)?;
        if let Prompt::Each(_) = prompt {
            let parts = self.encoders.iter().map(ClipPart::layout);
            equalise(&mut parts.zip(&mut tokens).collect::<Vec<_>>());
        }
        let mut contexts = Vec::new();
        let mut pooled = None;
        let mut warnings = Vec::new();
        for (part, tokens) in self.encoders.iter().zip(tokens) {
            let (context, summary) = part.encode(&tokens.chunks, options.clip_skip)?;
            contexts.push(context);
            pooled = pooled.or(summary);
            add_warnings(&mut warnings, tokens.warnings);
        }
        Ok(EncodedText {
            states: TextStates { context: join(contexts)?, pooled, picture_slots: Vec::new() },
            warnings,
        })
    }
}

/// Joins the hidden states of several encoders along the width, cut to the fewest tokens.
pub(crate) fn join(contexts: Vec<Tensor<3>>) -> Result<Tensor<3>, ModelError> {
    let tokens = contexts.iter().map(|context| context.dims()[1]).min();
    let tokens = tokens.ok_or_else(|| ModelError::Config {
        model: "prompt encoder",
        reason: "no encoder gives hidden states".to_owned(),
    })?;
    let cut = |context: Tensor<3>| {
        let [_, _, width] = context.dims();
        context.slice([0..1, 0..tokens, 0..width])
    };
    Ok(Tensor::cat(contexts.into_iter().map(cut).collect(), 2))
}
