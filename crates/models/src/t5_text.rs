//! Prompts for T5.

use std::sync::Arc;

use distorch_checkpoint::config::{T5Config, TextEncoderConfig};
use distorch_checkpoint::family::TextEncoder;
use distorch_runtime::{Scope, Tensor};

use crate::ModelError;
use crate::conditioning::ConditioningError;
use crate::prompt::embedding::Embeddings;
use crate::prompt::t5_tokenizer::T5Tokenizer;
use crate::prompt::token::{Token, WeightedToken};
use crate::prompt::{self, PromptError, PromptTokens, T5_PAD, T5Layout};
use crate::t5::T5Encoder;
use crate::text::T5Padding;
use crate::weighted;

/// The tensor of its vocabulary.
const SPIECE: &str = "spiece_model";

/// The name of T5 among text encoders.
pub(crate) const NAME: &str = "t5xxl";

/// A T5 encoder with its tokenizer.
pub(crate) struct T5Part {
    encoder: T5Encoder,
    tokenizer: Arc<T5Tokenizer>,
    /// Tokens that prompts are filled up to.
    min_length: usize,
    /// Whether the empty text, which weights move states away from, has an end token.
    empty_ends: bool,
}

impl T5Part {
    /// T5 among text encoders that each have a scope, where it is there.
    pub fn find(
        encoders: &[(&TextEncoder, Scope)],
        min_length: usize,
    ) -> Result<Option<Self>, ConditioningError> {
        let found = encoders.iter().find_map(|(encoder, scope)| match &encoder.config {
            TextEncoderConfig::T5(config) if encoder.name == NAME => {
                Some(Self::load(config, encoder.vocabulary.as_deref(), scope, min_length))
            }
            _ => None,
        });
        found.transpose()
    }

    /// The encoder whose layers are below `scope` (`shared`, `encoder.…`), with the vocabulary that its file
    /// holds, or else T5's own.
    fn load(
        config: &T5Config,
        vocabulary: Option<&[u8]>,
        scope: &Scope,
        min_length: usize,
    ) -> Result<Self, ConditioningError> {
        let tokenizer = match vocabulary {
            Some(bytes) => T5Tokenizer::from_spiece(bytes, config.vocab_size).map(Arc::new),
            None => T5Tokenizer::standard(),
        };
        let tokenizer = tokenizer.map_err(|problem| ConditioningError::Vocabulary {
            encoder: NAME,
            tensor: SPIECE,
            problem,
        })?;
        let (ids, rows) = (tokenizer.ids(), config.vocab_size);
        if ids > rows {
            return Err(ConditioningError::Tokens { encoder: NAME, rows, ids });
        }
        Ok(Self {
            encoder: T5Encoder::load(config, scope)?,
            tokenizer,
            min_length,
            empty_ends: true,
        })
    }

    /// The same with an empty text of nothing but padding.
    #[must_use]
    pub fn with_blank_empty(self) -> Self {
        Self { empty_ends: false, ..self }
    }

    /// Width of the hidden states.
    pub fn width(&self) -> usize {
        self.encoder.config().width
    }

    /// Reads a prompt.
    pub fn read(
        &self,
        prompt: &str,
        embeddings: &Embeddings,
        padding: Option<T5Padding>,
    ) -> Result<PromptTokens, PromptError> {
        let T5Padding { padding: min_padding, length: min_length } =
            padding.unwrap_or(T5Padding { padding: 0, length: self.min_length });
        let layout = T5Layout { encoder: NAME, width: self.width(), min_padding, min_length };
        prompt::read_t5(prompt, &self.tokenizer, layout, embeddings)
    }

    /// Encodes what was read: hidden states `[1, tokens, width]` behind the final norm. Without chunks it is the
    /// end token alone that is encoded.
    ///
    /// `clip_skip` is the layer to read, counted from the last, which is 1 and the one that is read for `None` and
    /// where there are not so many.
    pub fn encode(
        &self,
        chunks: &[Vec<WeightedToken>],
        clip_skip: Option<usize>,
    ) -> Result<Tensor<3>, ModelError> {
        let layer = clip_skip.filter(|&layer| layer <= self.encoder.config().layers).unwrap_or(1);
        let empty = |length: usize| {
            let first = if self.empty_ends { self.tokenizer.end() } else { T5_PAD };
            let mut tokens = vec![Token::Id(first)];
            tokens.resize(length.max(1), Token::Id(T5_PAD));
            tokens
        };
        weighted::encode(chunks, empty, |texts| self.encoder.forward(texts, layer))
    }
}
