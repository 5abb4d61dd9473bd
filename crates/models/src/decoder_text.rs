//! Prompts for decoder-only language models.

use std::sync::Arc;

use distorch_checkpoint::config::TextEncoderConfig;
use distorch_checkpoint::family::TextEncoder;
use distorch_runtime::{Scope, Tensor};

use crate::ModelError;
use crate::conditioning::ConditioningError;
use crate::decoder::Decoder;
use crate::prompt::qwen_tokenizer::QwenTokenizer;
use crate::prompt::token::Token;

/// The name of Qwen3 among text encoders.
pub(crate) const NAME: &str = "qwen3";

/// What stands before and behind a prompt: one turn of a chat, and the beginning of the answer.
const BEFORE: &str = "<|im_start|>user\n";
const BEHIND: &str = "<|im_end|>\n<|im_start|>assistant\n";

/// An answer that was not thought about.
const WITHOUT_THOUGHT: &str = "<think>\n\n</think>\n\n";

/// What fills texts up.
const PAD: u32 = 151_643;

/// How the answer to a prompt begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// With nothing yet.
    Open,
    /// Behind a thought of nothing.
    WithoutThought,
}

/// A language model with its tokenizer.
pub(crate) struct DecoderPart {
    decoder: Decoder,
    tokenizer: Arc<QwenTokenizer>,
}

impl DecoderPart {
    /// Qwen3 among text encoders that each have a scope, where it is there.
    pub fn find(encoders: &[(&TextEncoder, Scope)]) -> Result<Option<Self>, ConditioningError> {
        let found = encoders.iter().find_map(|(encoder, scope)| match &encoder.config {
            TextEncoderConfig::Decoder(config) if encoder.name == NAME => Some((config, scope)),
            _ => None,
        });
        let Some((config, scope)) = found else { return Ok(None) };
        let tokenizer = QwenTokenizer::standard()
            .map_err(|problem| ConditioningError::Vocabulary { encoder: NAME, problem })?;
        let (ids, rows) = (tokenizer.ids(), config.vocab_size);
        if ids > rows {
            return Err(ConditioningError::Tokens { encoder: NAME, rows, ids });
        }
        Ok(Some(Self { decoder: Decoder::load(config, scope)?, tokenizer }))
    }

    /// Layers of the model.
    pub fn layers(&self) -> usize {
        self.decoder.config().layers
    }

    /// The hidden states of a prompt in a chat behind each of these numbers of layers, `[1, tokens, width]` in f32, with
    /// padding up to so many tokens, which no other token sees. No token is dropped, and a prompt's weights are read as
    /// text, as in ComfyUI.
    pub fn chat(
        &self,
        prompt: &str,
        answer: Answer,
        layers: &[usize],
        min_length: usize,
    ) -> Result<Vec<Tensor<3>>, ModelError> {
        let answer = match answer {
            Answer::Open => "",
            Answer::WithoutThought => WITHOUT_THOUGHT,
        };
        let mut ids = self.tokenizer.tokenize(&format!("{BEFORE}{prompt}{BEHIND}{answer}"));
        let words = ids.len();
        ids.resize(words.max(min_length), PAD);
        let text = ids.into_iter().map(Token::Id).collect();
        self.decoder.states_padded(text, words, layers)
    }
}

/// The states of several layers side by side, `[1, tokens, layers × width]`.
pub(crate) fn stacked(states: Vec<Tensor<3>>) -> Result<Tensor<3>, ModelError> {
    match states.len() {
        0 => Err(ModelError::Config {
            model: "prompt encoder",
            reason: "no layer's states are read".to_owned(),
        }),
        _ => Ok(Tensor::cat(states, 2)),
    }
}
