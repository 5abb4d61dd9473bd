//! Which layer the name of a module means.
//!
//! The tools that write LoRAs name modules in three ways: as the original code does, as diffusers
//! and transformers do, and either of these with underscores for dots (kohya's sd-scripts). So
//! each layer is listed under its original and its diffusers name, all with underscores, and a
//! name is looked up without its prefix. Diffusers' names follow from the model's configuration, so that
//! they hold for any number of levels and blocks.

mod chroma;
mod clip;
mod flux;
mod flux2;
mod krea2;
mod mmdit;
mod next_dit;
mod qwen_image21;
mod unet;

use std::borrow::Cow;
use std::collections::HashMap;

use super::adapter::RowSpan;
use crate::config::{DiffusionConfig, TextEncoderConfig};
use crate::family::Model;
use crate::layer::{ComponentKind, Layer};

/// A layer, or the part of it that a name means.
#[derive(Clone)]
pub(super) struct Target<'m> {
    pub component: ComponentKind,
    pub layer: &'m Layer,
    /// The shape of the named module's weight.
    pub shape: Vec<usize>,
    pub rows: Vec<RowSpan>,
}

/// Which part of a layer a module of another library is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slice {
    /// All of it.
    Whole,
    /// So many rows from a row on.
    Rows(usize, usize),
    /// All of it, with the two halves of its rows swapped.
    SwappedHalves,
    /// The other way round: the layer is this one of so many equal parts of the module's rows.
    PartOfModule(usize, usize),
}

/// Where the module of a prefix is.
#[derive(Clone, Copy)]
enum Place {
    Diffusion,
    /// The first of these text encoders that the model has.
    Encoder(&'static [&'static str]),
}
use Place::{Diffusion, Encoder};

const CLIP: Place = Encoder(&["clip_l", "clip_h", "clip_g"]);
const SECOND: Place = Encoder(&["clip_g", "t5xxl"]);
const T5: Place = Encoder(&["t5xxl"]);

/// What names start with. Every prefix that fits is tried.
const PREFIXES: &[(&str, Place)] = &[
    // kohya's sd-scripts; OneTrainer; LyCORIS.
    ("lora_unet_", Diffusion),
    ("lora_transformer_", Diffusion),
    ("lycoris_", Diffusion),
    ("lora_te_", CLIP),
    ("lora_te1_", CLIP),
    ("lora_te2_", SECOND),
    ("lora_te3_", T5),
    // diffusers' pipelines.
    ("unet.", Diffusion),
    ("transformer.", Diffusion),
    ("text_encoder.", CLIP),
    ("text_encoder_2.", SECOND),
    ("text_encoder_3.", T5),
    // Original checkpoints, with text encoders as CompVis, generative-models and others keep them.
    ("diffusion_model.", Diffusion),
    ("model.diffusion_model.", Diffusion),
    ("cond_stage_model.transformer.", Encoder(&["clip_l"])),
    ("cond_stage_model.model.", Encoder(&["clip_h", "clip_g"])),
    ("conditioner.embedders.0.transformer.", Encoder(&["clip_l"])),
    ("conditioner.embedders.0.model.", Encoder(&["clip_g"])),
    ("conditioner.embedders.1.model.", Encoder(&["clip_g"])),
    ("text_encoders.clip_l.transformer.", Encoder(&["clip_l"])),
    ("text_encoders.clip_h.transformer.", Encoder(&["clip_h"])),
    ("text_encoders.clip_g.transformer.", Encoder(&["clip_g"])),
    ("text_encoders.t5xxl.transformer.", T5),
    ("text_encoders.gemma2_2b.transformer.", Encoder(&["gemma2"])),
    ("clip_l.transformer.", Encoder(&["clip_l"])),
    ("clip_h.transformer.", Encoder(&["clip_h"])),
    ("clip_g.transformer.", Encoder(&["clip_g"])),
    ("t5xxl.transformer.", T5),
    // One model alone, as PEFT saves it or as diffusers does.
    ("base_model.model.", Diffusion),
    ("base_model.model.", CLIP),
    ("base_model.model.", T5),
    ("", Diffusion),
    ("", CLIP),
    ("", T5),
];

/// The names of a model's layers.
pub(super) struct Names<'m> {
    diffusion: HashMap<String, Vec<Target<'m>>>,
    encoders: HashMap<&'static str, HashMap<String, Vec<Target<'m>>>>,
}

impl<'m> Names<'m> {
    /// All names of the layers of the diffusion model and the text encoders.
    pub fn new(model: &'m Model) -> Self {
        let layers = |kind| model.component(kind).map_or(&[][..], |part| &part.layers);
        let kind = ComponentKind::DiffusionModel;
        let mut diffusion = HashMap::new();
        if let Some(found) = &model.diffusion {
            let others = diffusion_names(&found.config);
            for layer in layers(kind) {
                add(&mut diffusion, kind, layer, &layer.name, Slice::Whole);
                for (name, slice) in others(&layer.name) {
                    add(&mut diffusion, kind, layer, &name, slice);
                }
            }
        }
        let kind = ComponentKind::TextEncoders;
        let mut encoders = HashMap::new();
        for encoder in &model.text_encoders {
            let names: &mut HashMap<_, _> = encoders.entry(encoder.name).or_default();
            for layer in layers(kind) {
                let Some(own) = layer.name.strip_prefix(encoder.name) else { continue };
                let Some(own) = own.strip_prefix('.') else { continue };
                add(names, kind, layer, own, Slice::Whole);
                if let TextEncoderConfig::Clip(_) = encoder.config {
                    for (name, slice) in clip::names(own) {
                        add(names, kind, layer, &name, slice);
                    }
                }
            }
        }
        Self { diffusion, encoders }
    }

    /// What the module of this name is in the model; more than one layer where the module fuses
    /// what the model splits, none where the name is not known.
    pub fn find(&self, module: &str) -> &[Target<'m>] {
        PREFIXES
            .iter()
            .find_map(|(prefix, place)| {
                let names = match place {
                    Diffusion => &self.diffusion,
                    Encoder(any) => any.iter().find_map(|name| self.encoders.get(name))?,
                };
                names.get(&flat(&without_processor(module.strip_prefix(prefix)?)))
            })
            .map_or(&[], Vec::as_slice)
    }
}

/// Diffusers' first LoRAs hung in an attention's processor.
fn without_processor(name: &str) -> Cow<'_, str> {
    match name.contains(".processor.") {
        true => Cow::Owned(name.replace(".processor.", ".")),
        false => Cow::Borrowed(name),
    }
}

fn flat(name: &str) -> String {
    name.replace('.', "_")
}

pub(crate) type OtherNames<'c> = Box<dyn Fn(&str) -> Vec<(String, Slice)> + 'c>;

/// Diffusers' names for the layers of a diffusion model.
pub(crate) fn diffusion_names(config: &DiffusionConfig) -> OtherNames<'_> {
    match config {
        DiffusionConfig::Unet(config) => {
            let blocks = unet::blocks(config);
            Box::new(move |layer| unet::names(&blocks, layer))
        }
        DiffusionConfig::Mmdit(config) => Box::new(|layer| mmdit::names(config, layer)),
        DiffusionConfig::Flux(config) => {
            Box::new(|layer| flux::names([config.width, config.mlp_width], layer))
        }
        DiffusionConfig::NextDit(config) => Box::new(|layer| next_dit::names(config, layer)),
        DiffusionConfig::Flux2(config) => Box::new(|layer| flux2::names(config, layer)),
        DiffusionConfig::Chroma(config) => Box::new(|layer| chroma::names(config, layer)),
        DiffusionConfig::Krea2(_) => Box::new(krea2::names),
        // Diffusers' names are the original's.
        DiffusionConfig::QwenImage(_) => Box::new(|_| Vec::new()),
        DiffusionConfig::QwenImage21(config) => {
            Box::new(|layer| qwen_image21::names(config, layer))
        }
    }
}

/// Lists a layer under a name.
fn add<'m>(
    names: &mut HashMap<String, Vec<Target<'m>>>,
    component: ComponentKind,
    layer: &'m Layer,
    name: &str,
    slice: Slice,
) {
    let Some(weight) = layer.params.first() else { return };
    let height = weight.shape.first().copied().unwrap_or(1);
    let span = |adapter, layer, count| RowSpan { adapter, layer, count };
    let (rows, spans) = match slice {
        Slice::Whole => (height, vec![span(0, 0, height)]),
        Slice::Rows(first, count) => (count, vec![span(0, first, count)]),
        Slice::SwappedHalves => {
            let half = height / 2;
            (height, vec![span(0, half, half), span(half, 0, half)])
        }
        Slice::PartOfModule(at, of) => (of * height, vec![span(at * height, 0, height)]),
    };
    let mut shape = weight.shape.clone();
    if let Some(first) = shape.first_mut() {
        *first = rows;
    }
    let targets = names.entry(flat(name)).or_default();
    // Some layers have one name everywhere.
    if targets.iter().all(|target| target.layer.name != layer.name) {
        targets.push(Target { component, layer, shape, rows: spans });
    }
}

/// The name of a module whose beginning another library calls differently.
fn renamed(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(from, to)| {
        let rest = name.strip_prefix(from)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
    })
}

/// Modules whose rows the original stacks, each so high.
fn stacked(names: [&str; 3], rows: usize) -> Vec<(String, Slice)> {
    let slices = (0..3).map(|at| Slice::Rows(at * rows, rows));
    names.into_iter().map(str::to_owned).zip(slices).collect()
}

/// The one name of a layer that has the same rows there.
fn whole(name: Option<String>) -> Vec<(String, Slice)> {
    name.map(|name| (name, Slice::Whole)).into_iter().collect()
}
