//! Gemma's tokenizer: a SentencePiece model of byte-pair encoding that comes with the weights.
//!
//! A text is read as SentencePiece's library reads it, by which ComfyUI does; of the marks of a chat only that which ends a
//! turn is read by its name, as there.

use super::spiece::{SpieceError, SpieceModel};
use super::spiece_bpe::SpieceBpe;
use super::t5_tokenizer::TokenizerError;

/// The name of the token that ends a turn of a chat.
const TURN_END: &str = "<end_of_turn>";

/// The names of tokens that fill texts up.
const PADS: [&str; 2] = ["<pad>", "<unk>"];

/// A Gemma tokenizer.
pub struct GemmaTokenizer {
    pieces: SpieceBpe,
    start: u32,
    pad: u32,
    turn_end: Option<u32>,
}

impl GemmaTokenizer {
    /// The tokenizer of a SentencePiece model, such as model files hold under `spiece_model`.
    ///
    /// # Errors
    /// When the bytes are no model of byte-pair encoding with a token that begins a text.
    pub fn from_spiece(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let model = SpieceModel::parse(bytes)?;
        let beginning = model.beginning.clone();
        let pieces = SpieceBpe::new(model)?;
        let missing = SpieceError::Missing("that begins a text");
        let start = pieces.id(&beginning).ok_or(missing)?;
        let pad = PADS.into_iter().find_map(|name| pieces.id(name)).unwrap_or_default();
        let turn_end = pieces.id(TURN_END);
        Ok(Self { pieces, start, pad, turn_end })
    }

    /// How many ids there are.
    pub fn ids(&self) -> usize {
        self.pieces.ids()
    }

    /// The id of the token that begins every text.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The id of the token that fills texts up.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The token ids of a text, without the one that begins it.
    pub fn tokenize(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let Some(turn_end) = self.turn_end else {
            self.pieces.encode(text, &mut ids);
            return ids;
        };
        for (number, part) in text.split(TURN_END).enumerate() {
            if number > 0 {
                ids.push(turn_end);
            }
            self.pieces.encode(part, &mut ids);
        }
        ids
    }
}
