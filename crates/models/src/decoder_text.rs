//! Prompts for decoder-only language models.

use std::sync::Arc;

use distorch_checkpoint::config::{DecoderKind, TextEncoderConfig};
use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::{Scope, Tensor};

use crate::ModelError;
use crate::clip_text;
use crate::conditioning::ConditioningError;
use crate::decoder::{Decoder, Piece};
use crate::prompt::embedding::{EmbeddingProblem, Embeddings};
use crate::prompt::gemma_tokenizer::GemmaTokenizer;
use crate::prompt::qwen_tokenizer::QwenTokenizer;
use crate::prompt::tekken::TekkenTokenizer;
use crate::prompt::token::Token;
use crate::prompt::{self, PromptTokens};
use crate::text::{PromptPicture, TextOptions};
use crate::vision::{self, VisionTower};
use crate::weighted;

/// The name of Qwen3 among text encoders.
pub(crate) const QWEN3: &str = "qwen3";

/// That of Qwen3-VL's language model.
pub(crate) const QWEN3VL: &str = "qwen3vl";

/// That of Qwen2.5-VL.
pub(crate) const QWEN25_VL: &str = "qwen25vl";

/// That of Mistral Small 3.
pub(crate) const MISTRAL3: &str = "mistral3";

/// That of Gemma 2.
pub(crate) const GEMMA2: &str = "gemma2";

/// The name of its vectors in a textual inversion for several encoders.
const EMBEDDING: &str = "gemma2_2b";

/// What stands before and behind a prompt for Qwen: one turn of a chat, and the beginning of the answer.
const BEFORE: &str = "<|im_start|>user\n";
const BEHIND: &str = "<|im_end|>\n<|im_start|>assistant\n";

/// An answer that was not thought about.
const WITHOUT_THOUGHT: &str = "<think>\n\n</think>\n\n";

/// What fills Qwen's texts up.
const PAD: u32 = 151_643;

/// The token that stands for a picture in Qwen's texts.
const PICTURE: u32 = 151_655;

/// The tensor of Mistral's vocabulary.
const TEKKEN: &str = "tekken_model";

/// That of Gemma's.
const SPIECE: &str = "spiece_model";

/// How the answer to a prompt begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// With nothing yet.
    Open,
    /// Behind a thought of nothing.
    WithoutThought,
}

/// A language model with its tokenizer, and its encoder of pictures where the file holds one.
pub(crate) struct DecoderPart {
    family: Family,
    decoder: Decoder,
    vision: Option<Box<dyn VisionTower>>,
    tokenizer: Tokenizer,
}

enum Tokenizer {
    Qwen(Arc<QwenTokenizer>),
    Tekken(TekkenTokenizer),
    Gemma(GemmaTokenizer),
}

impl DecoderPart {
    /// The language model of this name below a scope whose layers' names start with their encoder's.
    ///
    /// # Errors
    /// When it is not there, or of no use.
    pub fn load(
        scope: &Scope,
        encoders: &[TextEncoder],
        name: &'static str,
        family: Family,
    ) -> Result<Self, ConditioningError> {
        let found = encoders.iter().find_map(|encoder| match &encoder.config {
            TextEncoderConfig::Decoder(config) if encoder.name == name => Some((config, encoder)),
            _ => None,
        });
        let (config, encoder) = found.ok_or_else(|| ConditioningError::NoEncoder {
            family,
            encoder: name,
            present: clip_text::names(encoders),
        })?;
        let vocabulary = |tensor| {
            let missing = ConditioningError::NoVocabulary { encoder: name, tensor };
            encoder.vocabulary.as_deref().ok_or(missing)
        };
        let broken = |tensor| {
            move |problem| ConditioningError::Vocabulary { encoder: name, tensor, problem }
        };
        let tokenizer = match config.kind {
            DecoderKind::Qwen3 | DecoderKind::Qwen3Vl | DecoderKind::Qwen25Vl => {
                QwenTokenizer::standard()
                    .map(Tokenizer::Qwen)
                    .map_err(|problem| ConditioningError::Tokenizer { encoder: name, problem })?
            }
            DecoderKind::Mistral3 => {
                let tokenizer = TekkenTokenizer::parse(vocabulary(TEKKEN)?);
                Tokenizer::Tekken(tokenizer.map_err(broken(TEKKEN))?)
            }
            DecoderKind::Gemma2 => {
                let tokenizer = GemmaTokenizer::from_spiece(vocabulary(SPIECE)?);
                Tokenizer::Gemma(tokenizer.map_err(broken(SPIECE))?)
            }
        };
        let ids = match &tokenizer {
            Tokenizer::Qwen(tokenizer) => tokenizer.ids(),
            Tokenizer::Tekken(tokenizer) => tokenizer.ids(),
            Tokenizer::Gemma(tokenizer) => tokenizer.ids(),
        };
        let rows = config.vocab_size;
        if ids > rows {
            return Err(ConditioningError::Tokens { encoder: name, rows, ids });
        }
        let scope = scope.at(name);
        let vision = config.vision.as_ref();
        let vision = vision
            .map(|vision| vision::load(vision, config.width, &scope.at("visual")))
            .transpose()?;
        Ok(Self { family, decoder: Decoder::load(config, &scope)?, vision, tokenizer })
    }

    /// Whether it sees pictures.
    pub fn sees_pictures(&self) -> bool {
        self.vision.is_some()
    }

    /// A text of Qwen's tokens with pictures, one after the other, in the places that it has for them.
    ///
    /// # Errors
    /// When there are pictures and nothing that sees them, or one cannot be encoded.
    pub fn pieces(
        &self,
        ids: &[u32],
        pictures: &[PromptPicture],
    ) -> Result<Vec<Piece>, ConditioningError> {
        let mut pieces = Vec::with_capacity(2 * pictures.len() + 1);
        let mut pictures = pictures.iter();
        let mut words = Vec::new();
        for &id in ids {
            match pictures.as_slice().first().filter(|_| id == PICTURE) {
                Some(picture) => {
                    let family = self.family;
                    let missing = ConditioningError::NoPictures { family };
                    let picture = self.vision.as_ref().ok_or(missing)?.encode(picture)?;
                    pieces.push(Piece::Words(std::mem::take(&mut words)));
                    pieces.push(Piece::Picture(picture));
                    pictures.next();
                }
                None => words.push(Token::Id(id)),
            }
        }
        pieces.push(Piece::Words(words));
        Ok(pieces)
    }

    /// Layers of the model.
    pub fn layers(&self) -> usize {
        self.decoder.config().layers
    }

    /// Behind how many layers states are read by families that read them before the last one. `clip_skip` counts layers from
    /// the last, which is 1; more than there are is the families' own, 2.
    ///
    /// # Errors
    /// When `clip_skip` is 0.
    pub fn last_but_one(&self, options: &TextOptions) -> Result<usize, ConditioningError> {
        clip_text::check_clip_skip(options)?;
        let layers = self.layers();
        let skip = options.clip_skip.filter(|&skip| skip <= layers).unwrap_or(2);
        Ok((layers + 1).saturating_sub(skip))
    }

    /// The token ids of a text, special tokens by their names.
    pub fn tokenize(&self, text: &str) -> Vec<u32> {
        match &self.tokenizer {
            Tokenizer::Qwen(tokenizer) => tokenizer.tokenize(text),
            Tokenizer::Tekken(tokenizer) => tokenizer.tokenize(text),
            Tokenizer::Gemma(tokenizer) => tokenizer.tokenize(text),
        }
    }

    /// The hidden states of a prompt in a chat with Qwen3 behind each of these numbers of layers, `[1, tokens, width]` in
    /// f32, with padding up to so many tokens, which no other token sees. No token is dropped, and a prompt's weights are
    /// read as text, as in ComfyUI.
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
        let mut ids = self.tokenize(&format!("{BEFORE}{prompt}{BEHIND}{answer}"));
        let words = ids.len();
        ids.resize(words.max(min_length), PAD);
        let text = ids.into_iter().map(Token::Id).collect();
        self.decoder.states_padded(text, words, layers)
    }

    /// The hidden states of a prompt whose words have weights behind this number of layers, `[1, tokens, width]` in f32, and
    /// the textual inversions that were left out of it. Only Gemma's prompts have weights.
    ///
    /// A weight moves a token's states away from those of an empty text: the token that begins it, with padding that
    /// nothing sees.
    ///
    /// # Errors
    /// When the prompt cannot be read, weights cannot be fetched, or the model is not Gemma.
    pub fn weighted(
        &self,
        prompt: &str,
        embeddings: &Embeddings,
        layer: usize,
    ) -> Result<(Tensor<3>, Vec<EmbeddingProblem>), ConditioningError> {
        let Tokenizer::Gemma(tokenizer) = &self.tokenizer else {
            return Err(ConditioningError::NoEncoder {
                family: self.family,
                encoder: GEMMA2,
                present: "a model with another tokenizer by this name".to_owned(),
            });
        };
        let (start, width) = (tokenizer.start(), self.decoder.config().width);
        let tokenize = |text: &str| tokenizer.tokenize(text);
        let PromptTokens { chunks, warnings } =
            prompt::read_from_start(prompt, tokenize, start, (EMBEDDING, width), embeddings)?;
        let empty = |length: usize| {
            let mut tokens = vec![Token::Id(start)];
            tokens.resize(length.max(1), Token::Id(tokenizer.pad()));
            tokens
        };
        let states = weighted::encode(&chunks, empty, |texts| {
            // The empty text comes behind the prompt's one chunk.
            let words = |at: usize, text: &[Token]| if at < chunks.len() { text.len() } else { 1 };
            let encode = |(at, text): (usize, &Vec<Token>)| {
                self.decoder.states_padded(text.clone(), words(at, text), &[layer])
            };
            let states: Vec<_> = texts.iter().enumerate().map(encode).collect::<Result<_, _>>()?;
            Ok(Tensor::cat(states.into_iter().flatten().collect(), 0))
        })?;
        Ok((states, warnings))
    }

    /// The states of a text behind all layers and the final norm, `[1, tokens, width]` in f32.
    pub fn last_states(&self, pieces: Vec<Piece>) -> Result<Tensor<3>, ModelError> {
        self.decoder.last_states_with_pictures(pieces)
    }

    /// The hidden states of a text behind each of these numbers of layers, `[1, tokens, width]` in f32.
    pub fn states(
        &self,
        pieces: Vec<Piece>,
        layers: &[usize],
    ) -> Result<Vec<Tensor<3>>, ModelError> {
        self.decoder.states_with_pictures(pieces, layers)
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
