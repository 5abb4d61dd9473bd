//! One model of components that come from several files.

use std::path::PathBuf;
use std::sync::Arc;

use indexmap::IndexMap;
use thiserror::Error;

use super::model::Model;
use super::text;
use crate::file::{Checkpoint, NewTensor, OpenError, Piece};
use crate::layer::{Component, ComponentKind, Layer};

/// A file that a model takes components from.
#[derive(Clone, Debug)]
pub struct Member {
    /// What it is called, in the keys of the joined checkpoint and in errors.
    pub label: String,
    /// Its tensors.
    pub checkpoint: Arc<Checkpoint>,
    /// What it was recognised as.
    pub model: Model,
    /// The components that are taken of it, where it has them.
    pub kinds: &'static [ComponentKind],
}

/// Why files make no model.
#[derive(Debug, Error)]
pub enum JoinError {
    /// Two of them hold the same component or text encoder.
    #[error("`{first}` and `{second}` both hold {what}: one of them is enough")]
    Twice {
        /// What both hold.
        what: String,
        /// The file that comes first.
        first: String,
        /// The other.
        second: String,
    },
    /// Their tensors cannot be put together.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// One checkpoint and model of what is taken of several. Text encoders of all of them make one component, in the order
/// in which a file with all of them has them, whatever the order of the files is.
///
/// # Errors
/// When two files hold the same.
pub fn join(
    name: impl Into<PathBuf>,
    members: &[Member],
) -> Result<(Arc<Checkpoint>, Model), JoinError> {
    let mut joined = Joined::default();
    for (at, member) in members.iter().enumerate() {
        joined.take(at, member, members)?;
    }
    let checkpoints = members.iter().map(|member| Arc::clone(&member.checkpoint)).collect();
    let tensors = std::mem::take(&mut joined.tensors).into_values();
    let checkpoint = Checkpoint::assemble(name, checkpoints, IndexMap::new(), tensors)?;
    Ok((Arc::new(checkpoint), joined.model(members)))
}

#[derive(Default)]
struct Joined {
    tensors: IndexMap<String, NewTensor>,
    /// Which member each component is of; all text encoders are taken.
    components: Vec<(usize, Component)>,
    encoders: Vec<Encoder>,
}

/// A text encoder: whose it is, its number there, its layers.
struct Encoder {
    member: usize,
    number: usize,
    name: &'static str,
    layers: Vec<Layer>,
}

impl Joined {
    fn take(&mut self, at: usize, member: &Member, all: &[Member]) -> Result<(), JoinError> {
        let twice = |what: String, first: usize| JoinError::Twice {
            what,
            first: all.get(first).map(|member| member.label.clone()).unwrap_or_default(),
            second: member.label.clone(),
        };
        let wanted =
            member.model.components.iter().filter(|part| member.kinds.contains(&part.kind));
        for component in wanted {
            let mut layers = component.layers.clone();
            for layer in &mut layers {
                self.rename(at, member, layer);
            }
            if component.kind != ComponentKind::TextEncoders {
                let same = |(_, other): &&(usize, Component)| other.kind == component.kind;
                if let Some((first, _)) = self.components.iter().find(same) {
                    return Err(twice(format!("a {}", component.kind.short_name()), *first));
                }
                self.components.push((at, Component { kind: component.kind, layers }));
                continue;
            }
            for (number, encoder) in member.model.text_encoders.iter().enumerate() {
                let name = encoder.name;
                if let Some(other) = self.encoders.iter().find(|other| other.name == name) {
                    return Err(twice(format!("the text encoder {name}"), other.member));
                }
                let own = |layer: &Layer| {
                    layer.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
                };
                let layers = layers.iter().filter(|layer| own(layer)).cloned().collect();
                self.encoders.push(Encoder { member: at, number, name, layers });
            }
        }
        Ok(())
    }

    /// Gives the keys of a layer the name of their file, and lists their tensors.
    fn rename(&mut self, at: usize, member: &Member, layer: &mut Layer) {
        for param in &mut layer.params {
            let key = format!("{at}/{}/{}", member.label, param.key);
            if let Some(info) = member.checkpoint.get(&param.key) {
                // Layers may share a tensor.
                self.tensors.entry(key.clone()).or_insert_with(|| NewTensor {
                    key: key.clone(),
                    shape: info.shape.clone(),
                    pieces: vec![Piece::whole(at, &param.key)],
                    dtype: None,
                });
            }
            param.key = key;
        }
    }

    fn model(mut self, members: &[Member]) -> Model {
        self.encoders.sort_by_key(|encoder| text::position(encoder.name));
        let mut layers: Vec<Layer> = Vec::new();
        for encoder in &self.encoders {
            let start = layers.len();
            let first = encoder.layers.iter().map(|layer| layer.use_index).min().unwrap_or(0);
            layers.extend(encoder.layers.iter().cloned().map(|layer| {
                let use_index = layer.use_index.saturating_sub(first).saturating_add(start);
                Layer { use_index, ..layer }
            }));
        }
        let of = |at: usize| members.get(at).map(|member| &member.model);
        let text_encoders = self.encoders.iter().filter_map(|encoder| {
            of(encoder.member).and_then(|model| model.text_encoders.get(encoder.number)).cloned()
        });
        let text_encoders = text_encoders.collect();
        let mut components = self.components;
        let owner = |kind: ComponentKind| {
            let found = components.iter().find(|(_, component)| component.kind == kind);
            found.and_then(|(at, _)| of(*at))
        };
        let diffusion =
            owner(ComponentKind::DiffusionModel).and_then(|model| model.diffusion.clone());
        let vae = owner(ComponentKind::Vae).and_then(|model| model.vae.clone());
        if !layers.is_empty() {
            components.push((0, Component { kind: ComponentKind::TextEncoders, layers }));
        }
        components.sort_by_key(|(_, component)| component.kind);
        let taken = |at: usize, kind: ComponentKind| {
            components.iter().any(|(of, component)| *of == at && component.kind == kind)
        };
        let notes = members.iter().enumerate().filter(|(at, member)| {
            // What is said of a VAE alone is answered by the model beside it.
            member.kinds.iter().any(|kind| taken(*at, *kind)) && diffusion.is_none()
        });
        let notes = notes.flat_map(|(_, member)| member.model.notes.iter().cloned()).collect();
        let components = components.into_iter().map(|(_, component)| component).collect();
        let (ignored, unknown) = (Vec::new(), Vec::new());
        Model {
            diffusion,
            text_encoders,
            vae,
            tiny_vae: None,
            upscaler: None,
            components,
            ignored,
            unknown,
            notes,
        }
    }
}
