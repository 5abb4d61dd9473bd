//! Flux's text encoders: T5's hidden states, and CLIP-L's pooled output.

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::Scope;

use crate::clip::Pooling;
use crate::clip_text::{self, ClipPart, EncoderUse};
use crate::conditioning::ConditioningError;
use crate::prompt;
use crate::prompt::embedding::Embeddings;
use crate::t5_text::{self, T5Part};
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions, TextStates};

/// CLIP-L, of which the pooled output is read, without a projection.
const L: EncoderUse = EncoderUse { pooled: Some(Pooling::State), ..EncoderUse::L };

/// Tokens that T5 reads at least; longer prompts are not cut.
const MIN_LENGTH: usize = 256;

/// Encodes prompts for Flux.
///
/// The context is T5's hidden states, `[1, 256 or more tokens, 4096]`, padding included, which T5 and the
/// diffusion model see as any token; the pooled vector CLIP-L's at the first end token, `[1, 768]`.
/// [`TextOptions::clip_skip`] counts for T5.
pub struct FluxText {
    clip_l: ClipPart,
    t5xxl: T5Part,
}

impl FluxText {
    /// Takes the text encoders from a scope whose layers' names start with the encoders'
    /// (`clip_l.text_model.…`, `t5xxl.encoder.…`).
    ///
    /// # Errors
    /// When a text encoder or a layer of it is missing, or a vocabulary in the file is of no use.
    pub fn load(scope: &Scope, encoders: &[TextEncoder]) -> Result<Self, ConditioningError> {
        let encoders: Vec<_> =
            encoders.iter().map(|encoder| (encoder, scope.at(encoder.name))).collect();
        Self::load_each(&encoders)
    }

    /// As [`load`](Self::load), of text encoders that each have a scope, and so may come from different files.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_each(encoders: &[(&TextEncoder, Scope)]) -> Result<Self, ConditioningError> {
        let missing = |encoder| ConditioningError::NoEncoder {
            family: Family::Flux,
            encoder,
            present: clip_text::names(encoders.iter().map(|(encoder, _)| *encoder)),
        };
        let clip_l = ClipPart::find(L, encoders)?.ok_or_else(|| missing(L.name))?;
        let t5xxl = T5Part::find(encoders, MIN_LENGTH)?.ok_or_else(|| missing(t5_text::NAME))?;
        Ok(Self { clip_l, t5xxl })
    }
}

impl TextConditioner for FluxText {
    fn encode(
        &self,
        prompt: &Prompt,
        embeddings: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        clip_text::check_clip_skip(options)?;
        let clip = prompt::read(prompt.of(L.name), self.clip_l.layout(), embeddings)?;
        let t5 = self.t5xxl.read(prompt.of(t5_text::NAME), embeddings, options.t5_padding)?;
        let context = self.t5xxl.encode(&t5.chunks, options.clip_skip)?;
        let (_, pooled) = self.clip_l.encode(&clip.chunks, options.clip_skip)?;
        let mut warnings = Vec::new();
        clip_text::add_warnings(&mut warnings, clip.warnings);
        clip_text::add_warnings(&mut warnings, t5.warnings);
        Ok(EncodedText {
            states: TextStates { context, pooled, picture_slots: Vec::new() },
            warnings,
        })
    }
}
