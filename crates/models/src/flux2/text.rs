//! Flux.2's text encoders: the hidden states of three layers of Qwen3 (Klein) or of Mistral Small 3 (dev).

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::{Scope, Tensor};

use crate::ModelError;
use crate::clip_text;
use crate::conditioning::ConditioningError;
use crate::decoder_text::{Answer, DecoderPart, MISTRAL3, QWEN3, stacked};
use crate::prompt::embedding::Embeddings;
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions};

/// Tokens that a prompt is filled up to; longer ones are not cut.
const MIN_LENGTH: usize = 512;

/// Encodes prompts for Flux.2 Klein.
///
/// The context is what Qwen3 makes of the prompt as a user's turn of a chat whose answer is not thought about, filled up
/// with padding that no other token sees: `[1, 512 or more tokens, 3 × width]`, the states behind a quarter, a half and
/// three quarters of the layers side by side (9, 18 and 27 of 36). Weights, textual inversions and the layer that is asked
/// for are passed over, as in ComfyUI.
pub struct KleinText {
    part: DecoderPart,
}

impl KleinText {
    /// Takes the text encoder from a scope whose layers' names start with the encoder's (`qwen3.model.…`).
    ///
    /// # Errors
    /// When the text encoder or a layer of it is missing.
    pub fn load(scope: &Scope, encoders: &[TextEncoder]) -> Result<Self, ConditioningError> {
        Ok(Self { part: DecoderPart::load(scope, encoders, QWEN3, Family::Flux2)? })
    }
}

impl TextConditioner for KleinText {
    fn encode(
        &self,
        prompt: &Prompt,
        _: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        clip_text::check_clip_skip(options)?;
        let layers = self.part.layers();
        let read = [layers / 4, layers / 2, 3 * layers / 4];
        let states = self.part.chat(prompt.of(QWEN3), Answer::WithoutThought, &read, MIN_LENGTH)?;
        let context = stacked(states)?;
        Ok(EncodedText::of_tokens(context))
    }
}

/// Layers of Mistral Small 3 that are computed; those behind are left out of some files.
const DEV_LAYERS: usize = 30;

/// What stands before and behind a prompt for dev: the instructions of a chat and one turn of it.
const DEV_BEFORE: &str = "[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured \
                          responses focusing on object relationships, object\nattribution and actions without \
                          speculation.[/SYSTEM_PROMPT][INST]";
const DEV_BEHIND: &str = "[/INST]";

/// The name of the token that begins a text.
const DEV_BEGINNING: &str = "<s>";

/// Encodes prompts for Flux.2 dev.
///
/// The context is what Mistral Small 3 makes of the prompt as a turn of a chat with the instructions that the model was
/// trained with: the states behind layers 10, 20 and 30 of 40 side by side, behind zeros up to 512 tokens:
/// `[1, 512 or more tokens, 3 × width]`. Weights, textual inversions and the layer that is asked for are passed over, as in
/// ComfyUI.
pub struct DevText {
    part: DecoderPart,
    beginning: u32,
}

impl DevText {
    /// Takes the text encoder from a scope whose layers' names start with the encoder's (`mistral3.model.…`).
    ///
    /// # Errors
    /// When the text encoder, its vocabulary or a layer of it is missing.
    pub fn load(scope: &Scope, encoders: &[TextEncoder]) -> Result<Self, ConditioningError> {
        let part = DecoderPart::load(scope, encoders, MISTRAL3, Family::Flux2)?;
        let beginning = part.tokenize(DEV_BEGINNING);
        let [beginning] = beginning[..] else {
            return Err(ModelError::Config {
                model: "Mistral text encoder",
                reason: format!("its vocabulary has no token `{DEV_BEGINNING}`"),
            }
            .into());
        };
        Ok(Self { part, beginning })
    }
}

impl TextConditioner for DevText {
    fn encode(
        &self,
        prompt: &Prompt,
        _: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        clip_text::check_clip_skip(options)?;
        let layers = self.part.layers().min(DEV_LAYERS);
        let read = [layers / 3, 2 * layers / 3, layers];
        let mut ids = vec![self.beginning];
        let prompt = prompt.of(MISTRAL3);
        ids.extend(self.part.tokenize(&format!("{DEV_BEFORE}{prompt}{DEV_BEHIND}")));
        let pieces = self.part.pieces(&ids, &[])?;
        let mut context = stacked(self.part.states(pieces, &read)?)?;
        let [batch, tokens, width] = context.dims();
        if tokens < MIN_LENGTH {
            let options = (&context.device(), context.dtype());
            let zeros = Tensor::zeros([batch, MIN_LENGTH - tokens, width], options);
            context = Tensor::cat(vec![zeros, context], 1);
        }
        Ok(EncodedText::of_tokens(context))
    }
}
