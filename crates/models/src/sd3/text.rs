//! SD3's text encoders: CLIP-L, CLIP-G and T5, of which any may be absent.

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::{DType, Device, Scope, Tensor};

use crate::ModelError;
use crate::clip::Pooling;
use crate::clip_text::{self, ClipPart, EncoderUse};
use crate::conditioning::ConditioningError;
use crate::prompt::embedding::Embeddings;
use crate::prompt::{self, PromptError, PromptTokens, TokenLayout};
use crate::t5_text::{self, T5Part};
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions, TextStates};

/// CLIP-L, whose pooled output is read without a projection.
const L: EncoderUse = EncoderUse { pooled: Some(Pooling::State), ..EncoderUse::L_PENULTIMATE };

/// CLIP-G.
const G: EncoderUse = EncoderUse::G;

/// Tokens of a chunk of a CLIP encoder.
const CHUNK: usize = 77;

/// Tokens that T5 reads at least; longer prompts are not cut.
const MIN_LENGTH: usize = 77;

/// Widths of the published models, for encoders that are absent.
const WIDTH_L: usize = 768;
const WIDTH_G: usize = 1280;
const WIDTH_CONTEXT: usize = 4096;

/// Encodes prompts for SD3 and SD3.5.
///
/// The context is, along the tokens, first CLIP's and then T5's: the hidden states of CLIP-L's and CLIP-G's layers
/// before the last, joined along the width, cut to the fewer tokens and padded with zeros to T5's width; then
/// T5's, `[1, 77 n + 77 or more, 4096]`. Padding tokens are tokens as any other. The pooled vector joins CLIP-L's,
/// which is not projected, and CLIP-G's: `[1, 768 + 1280]`.
///
/// Zeros stand for the part of a CLIP encoder that is absent. Without both, the context is T5's alone; without T5,
/// CLIP's alone; and 77 tokens of zeros where nothing is left.
///
/// For [`Prompt::Each`], empty chunks follow where CLIP-L or CLIP-G has fewer than the other. With
/// [`TextOptions::skip_empty`] an empty text has none at first, so that CLIP is left out where both texts are empty,
/// with zeros for the pooled vector, and T5 encodes its end token alone for an empty text.
pub struct Sd3Text {
    clip_l: Option<ClipPart>,
    clip_g: Option<ClipPart>,
    t5xxl: Option<T5Part>,
    widths: Widths,
    device: Device,
}

/// Widths of what is encoded.
#[derive(Clone, Copy, Debug)]
struct Widths {
    clip_l: usize,
    clip_g: usize,
    context: usize,
}

impl Sd3Text {
    /// Takes those text encoders that are there from a scope whose layers' names start with the encoders'
    /// (`clip_l.text_model.…`, `t5xxl.encoder.…`).
    ///
    /// # Errors
    /// When there is none, a layer of one is missing, or a vocabulary in the file is of no use.
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
        let clip_l = ClipPart::find(L, encoders)?;
        let clip_g = ClipPart::find(G, encoders)?;
        let t5xxl = T5Part::find(encoders, MIN_LENGTH)?;
        let device = encoders.first().map(|(_, scope)| scope.device().clone());
        let none = clip_l.is_none() && clip_g.is_none() && t5xxl.is_none();
        let device = device.filter(|_| !none).ok_or_else(|| ConditioningError::NoEncoder {
            family: Family::Sd3,
            encoder: "clip_l, clip_g or t5xxl",
            present: clip_text::names(encoders.iter().map(|(encoder, _)| *encoder)),
        })?;
        let widths = Widths {
            clip_l: clip_l.as_ref().map_or(WIDTH_L, ClipPart::pooled_width),
            clip_g: clip_g.as_ref().map_or(WIDTH_G, ClipPart::pooled_width),
            context: t5xxl.as_ref().map_or(WIDTH_CONTEXT, T5Part::width),
        };
        Ok(Self { clip_l, clip_g, t5xxl, widths, device })
    }

    /// The same for a diffusion model that reads states and a pooled vector of these widths, which say how wide an
    /// encoder is that is absent; else it is as wide as in the published models.
    #[must_use]
    pub fn for_widths(mut self, context: usize, pooled: usize) -> Self {
        if self.t5xxl.is_none() {
            self.widths.context = context;
        }
        let Widths { clip_l, clip_g, .. } = &mut self.widths;
        match (&self.clip_l, &self.clip_g) {
            (Some(_), Some(_)) => {}
            (None, Some(_)) => *clip_l = pooled.saturating_sub(*clip_g),
            (_, None) => {
                *clip_l = (*clip_l).min(pooled);
                *clip_g = pooled - *clip_l;
            }
        }
        self
    }

    /// Reads a prompt for a CLIP encoder, which need not be there: its chunks count for the other.
    fn read(
        &self,
        usage: EncoderUse,
        part: Option<&ClipPart>,
        prompt: &Prompt,
        embeddings: &Embeddings,
        options: &TextOptions,
    ) -> Result<(TokenLayout<'static>, PromptTokens), PromptError> {
        let EncoderUse { name, pad, .. } = usage;
        let absent = TokenLayout { encoder: name, width: WIDTH_L, length: CHUNK, pad };
        let layout = part.map_or(absent, ClipPart::layout);
        let mut tokens = prompt::read(prompt.of(name), layout, embeddings)?;
        if part.is_none() {
            tokens.warnings.clear();
        }
        if options.skip_empty && prompt.of(name).is_empty() {
            tokens.chunks.clear();
        }
        Ok((layout, tokens))
    }

    /// CLIP's states, padded to the context's width, and the pooled vector.
    fn encode_clip(
        &self,
        [l, g]: [&PromptTokens; 2],
        clip_skip: Option<usize>,
    ) -> Result<(Option<Tensor<3>>, Tensor<2>), ConditioningError> {
        let encode = |part: &Option<ClipPart>, tokens: &PromptTokens, width: usize| {
            let encoded = part.as_ref().map(|part| part.encode(&tokens.chunks, clip_skip));
            let (states, pooled) = encoded.transpose()?.unzip();
            let pooled = pooled.flatten().unwrap_or_else(|| self.zeros([1, width]));
            Ok::<_, ModelError>((states, pooled))
        };
        let Widths { clip_l, clip_g, context } = self.widths;
        let (l, pooled_l) = encode(&self.clip_l, l, clip_l)?;
        let (g, pooled_g) = encode(&self.clip_g, g, clip_g)?;
        let pooled = Tensor::cat(vec![pooled_l, pooled_g], 1);
        let l = l.or_else(|| {
            let tokens = g.as_ref()?.dims()[1];
            Some(self.zeros([1, tokens, clip_l]))
        });
        let Some(l) = l else { return Ok((None, pooled)) };
        let states = clip_text::join([Some(l), g].into_iter().flatten().collect())?;
        let [_, tokens, width] = states.dims();
        let padding = context.checked_sub(width).ok_or_else(|| ModelError::Input {
            model: "SD3 diffusion model",
            input: "text",
            expected: format!("at most {context} values of CLIP for each token"),
            found: width.to_string(),
        })?;
        let states = match padding {
            0 => states,
            _ => Tensor::cat(vec![states, self.zeros([1, tokens, padding])], 2),
        };
        Ok((Some(states), pooled))
    }

    fn zeros<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::zeros(shape, (&self.device, DType::F32))
    }
}

impl TextConditioner for Sd3Text {
    fn encode(
        &self,
        prompt: &Prompt,
        embeddings: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        clip_text::check_clip_skip(options)?;
        let (layout_l, mut l) = self.read(L, self.clip_l.as_ref(), prompt, embeddings, options)?;
        let (layout_g, mut g) = self.read(G, self.clip_g.as_ref(), prompt, embeddings, options)?;
        if let Prompt::Each(_) = prompt {
            clip_text::equalise(&mut [(layout_l, &mut l), (layout_g, &mut g)]);
        }
        let (mut states, pooled) = if l.chunks.is_empty() && g.chunks.is_empty() {
            (None, self.zeros([1, self.widths.clip_l + self.widths.clip_g]))
        } else {
            self.encode_clip([&l, &g], options.clip_skip)?
        };
        let mut warnings = Vec::new();
        clip_text::add_warnings(&mut warnings, l.warnings);
        clip_text::add_warnings(&mut warnings, g.warnings);
        if let Some(part) = &self.t5xxl {
            let text = prompt.of(t5_text::NAME);
            let mut tokens = part.read(text, embeddings, options.t5_padding)?;
            if options.skip_empty && text.is_empty() {
                tokens.chunks.clear();
            }
            let t5 = part.encode(&tokens.chunks, options.clip_skip)?;
            states = Some(match states {
                Some(clip) => Tensor::cat(vec![clip, t5.to_device(&self.device)], 1),
                None => t5,
            });
            clip_text::add_warnings(&mut warnings, tokens.warnings);
        }
        let context = states.unwrap_or_else(|| self.zeros([1, CHUNK, self.widths.context]));
        Ok(EncodedText {
            states: TextStates { context, pooled: Some(pooled), picture_slots: Vec::new() },
            warnings,
        })
    }
}
