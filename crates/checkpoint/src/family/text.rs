//! Finding the text encoders in a file.

use super::clip;
use super::decoder;
use super::error::FamilyError;
use super::inventory::{Inventory, Scope, Tensor};
use super::matching::{Part, match_layers};
use super::model::{Family, TextEncoder, Vocabulary};
use super::t5;
use crate::config::{ClipActivation, DecoderKind, TextEncoderConfig};
use crate::dtype::Dtype;
use crate::layer::Layer;

/// Where text encoders are found, and the name that the place gives them, if it does.
///
/// `cond_stage_model` is CompVis' name, `conditioner.embedders` that of generative-models,
/// `text_encoders` that of files with several encoders (SD3, Flux).
const PLACES: [(&str, Option<&str>); 27] = [
    ("cond_stage_model.transformer.", Some("clip_l")),
    ("cond_stage_model.model.", None),
    ("conditioner.embedders.0.transformer.", Some("clip_l")),
    ("conditioner.embedders.0.model.", None),
    ("conditioner.embedders.1.model.", None),
    ("text_encoders.clip_l.transformer.", Some("clip_l")),
    ("text_encoders.clip_h.transformer.", Some("clip_h")),
    ("text_encoders.clip_g.transformer.", Some("clip_g")),
    ("text_encoders.t5xxl.transformer.", Some("t5xxl")),
    ("text_encoders.qwen3_4b.transformer.", Some("qwen3")),
    ("text_encoders.qwen3_8b.transformer.", Some("qwen3")),
    ("text_encoders.qwen3.transformer.", Some("qwen3")),
    ("text_encoders.qwen3vl_4b.transformer.", Some("qwen3vl")),
    ("text_encoders.qwen3vl_8b.transformer.", Some("qwen3vl")),
    ("text_encoders.qwen3vl.transformer.", Some("qwen3vl")),
    ("text_encoders.qwen25_7b.transformer.", Some("qwen25vl")),
    ("text_encoders.qwen25vl.transformer.", Some("qwen25vl")),
    ("text_encoders.mistral3_24b.transformer.", Some("mistral3")),
    ("text_encoders.mistral3.transformer.", Some("mistral3")),
    ("text_encoders.gemma2_2b.transformer.", Some("gemma2")),
    ("text_encoders.gemma2.transformer.", Some("gemma2")),
    ("clip_l.transformer.", Some("clip_l")),
    ("clip_h.transformer.", Some("clip_h")),
    ("clip_g.transformer.", Some("clip_g")),
    ("t5xxl.transformer.", Some("t5xxl")),
    ("t5xxl.", Some("t5xxl")),
    ("", None),
];

/// All encoders' names, in the order in which their outputs are joined.
const NAMES: [&str; 9] =
    ["clip_l", "clip_h", "clip_g", "t5xxl", "qwen3", "qwen3vl", "qwen25vl", "mistral3", "gemma2"];

/// The place of an encoder among those whose outputs are joined.
pub(super) fn position(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).unwrap_or(NAMES.len())
}

/// Bytes of a tokenizer's vocabulary at most; the largest in use have 20 MB.
const LARGEST_VOCABULARY: usize = 64 << 20;

/// The vocabulary of a tokenizer as SentencePiece writes it.
const SPIECE: &str = "spiece_model";

/// The text encoders of a file.
#[derive(Default)]
pub(super) struct TextEncoders {
    pub encoders: Vec<TextEncoder>,
    pub layers: Vec<Layer>,
    /// Where they were found.
    pub prefixes: Vec<&'static str>,
}

#[derive(Clone, Copy)]
enum Form {
    Clip(clip::Layout),
    T5,
    Decoder(DecoderKind),
}

/// A text encoder that is there and not yet matched.
struct Found {
    prefix: &'static str,
    name: &'static str,
    form: Form,
}

/// Recognises the text encoders in a file and takes their tensors.
pub(super) fn split(
    inventory: &mut Inventory<'_>,
    family: Option<Family>,
) -> Result<TextEncoders, FamilyError> {
    let mut all = TextEncoders::default();
    for found in find(inventory, family)? {
        let (config, layers) = take(inventory, &found, all.layers.len())?;
        all.layers.extend(layers);
        let vocabulary = match found.form {
            Form::T5 | Form::Decoder(DecoderKind::Gemma2) => {
                vocabulary(inventory, found.prefix, SPIECE)?
            }
            Form::Decoder(DecoderKind::Mistral3) => {
                vocabulary(inventory, found.prefix, decoder::TEKKEN)?
            }
            Form::Clip(_)
            | Form::Decoder(DecoderKind::Qwen3 | DecoderKind::Qwen3Vl | DecoderKind::Qwen25Vl) => {
                None
            }
        };
        all.encoders.push(TextEncoder { name: found.name, config, vocabulary });
        all.prefixes.push(found.prefix);
    }
    Ok(all)
}

/// At most one encoder of each name, in the order of [`NAMES`].
fn find(inventory: &Inventory<'_>, family: Option<Family>) -> Result<Vec<Found>, FamilyError> {
    let mut all: Vec<Found> = Vec::new();
    for (prefix, name) in PLACES {
        let scope = Scope::new(inventory, prefix);
        let clip = clip::Layout::detect(scope).or_else(|| clip::Layout::detect_incomplete(scope));
        let form = match clip {
            Some(layout) => Form::Clip(layout),
            None if scope.count(t5::BLOCKS) > 0 => Form::T5,
            None => match decoder::detect(scope) {
                Some(kind) => Form::Decoder(kind),
                None => continue,
            },
        };
        let (form, name) = match (name, form) {
            // Its pictures' encoder may be left out where the place says what it is.
            (Some("qwen3vl"), Form::Decoder(DecoderKind::Qwen3)) => {
                (Form::Decoder(DecoderKind::Qwen3Vl), "qwen3vl")
            }
            (Some(name), _) => (form, name),
            (None, Form::T5) => (form, "t5xxl"),
            (None, Form::Decoder(kind)) => (form, decoder::name(kind)),
            (None, Form::Clip(layout)) => (form, clip_name(layout, layout.width(scope)?, family)),
        };
        if all.iter().all(|found| found.name != name) {
            all.push(Found { prefix, name, form });
        }
    }
    all.sort_by_key(|found| position(found.name));
    Ok(all)
}

/// OpenCLIP's H belongs to SD 2.x, its G to SDXL; without a family, the width tells.
fn clip_name(layout: clip::Layout, width: usize, family: Option<Family>) -> &'static str {
    match (layout, family, width) {
        (clip::Layout::OpenClip, Some(Family::Sd2), _) => "clip_h",
        (clip::Layout::OpenClip, Some(_), _) => "clip_g",
        (_, _, 1024) => "clip_h",
        (_, _, 1280) | (clip::Layout::OpenClip, ..) => "clip_g",
        _ => "clip_l",
    }
}

fn take(
    inventory: &mut Inventory<'_>,
    found: &Found,
    use_start: usize,
) -> Result<(TextEncoderConfig, Vec<Layer>), FamilyError> {
    let &Found { prefix, name, form } = found;
    let label = format!("text encoder {name}");
    let root = format!("{name}.");
    let part = Part { label: &label, root: &root, use_start };
    let scope = Scope::new(inventory, prefix);
    match form {
        Form::Clip(layout) => {
            let config = layout.infer(scope, activation(name))?;
            let layers = clip::layout(&config).layers();
            let layers = match_layers(inventory, &part, layers, |inventory, layer, param| {
                layout.stored(inventory, prefix, layer, param)
            })?;
            Ok((TextEncoderConfig::Clip(config), layers))
        }
        Form::T5 => {
            let config = t5::infer(scope)?;
            let layers = t5::layout(&config).layers();
            let layers = match_layers(inventory, &part, layers, |inventory, layer, param| {
                t5::stored(inventory, prefix, layer, param)
            })?;
            Ok((TextEncoderConfig::T5(config), layers))
        }
        Form::Decoder(kind) => {
            let config = decoder::infer(scope, kind)?;
            let layers = decoder::layout(&config).layers();
            let layers = match_layers(inventory, &part, layers, |inventory, layer, param| {
                decoder::stored(inventory, prefix, layer, param)
            })?;
            Ok((TextEncoderConfig::Decoder(config), layers))
        }
    }
}

/// Takes the tokenizer's vocabulary of the encoder under a prefix: the tensor `name` there, or under a shorter prefix.
fn vocabulary(
    inventory: &mut Inventory<'_>,
    prefix: &str,
    name: &str,
) -> Result<Option<Vocabulary>, FamilyError> {
    let ends = prefix.rmatch_indices('.').map(|(at, dot)| at + dot.len()).chain([0]);
    for end in ends {
        let key = format!("{}{name}", prefix.get(..end).unwrap_or_default());
        match inventory.get(&key) {
            Some(Tensor { dtype: Dtype::U8 | Dtype::I8, shape: [bytes] }) => {
                if *bytes > LARGEST_VOCABULARY {
                    return Err(FamilyError::OddShape { key, shape: vec![*bytes] });
                }
                let bytes = inventory.bytes(&key);
                inventory.take(&key);
                return Ok(bytes.map(Vocabulary::new));
            }
            _ => continue,
        }
    }
    Ok(None)
}

/// OpenAI trained with the quick approximation, OpenCLIP with the exact GELU.
fn activation(name: &str) -> ClipActivation {
    if name == "clip_l" { ClipActivation::QuickGelu } else { ClipActivation::Gelu }
}
