//! LoRA files as a [`Patch`] of weights.
//!
//! A [`LoraFile`] is an open file, matched with a model. A [`LoraPatch`] is a chain of such files
//! for one component, each with its strength; they are applied in the order in which they were added.
//! What a file does to a layer is a formula (see [`distorch_checkpoint::lora`]), which `delta` computes
//! in f32 when the layer is read: no product is kept.

mod columns;
mod data;
mod delta;
mod dora;
mod rotation;

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use distorch_checkpoint::family::{Model, Widened};
use distorch_checkpoint::lora::{self, Adapter, Delta, Factor, LoraError};
use distorch_checkpoint::{Checkpoint, ComponentKind, OpenError};
use rayon::prelude::*;

use crate::patch::Patch;
use crate::tensor::TensorData;
use crate::weights::WeightError;
use delta::Weights;

/// Why a LoRA file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraFileError {
    /// The file cannot be opened or read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file does not fit the model, or is no LoRA.
    #[error("{}: {error}", path.display())]
    Lora {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: LoraError,
    },
}

/// A LoRA file and what it does to a model.
pub struct LoraFile {
    file: Arc<Checkpoint>,
    adapters: Vec<Adapter>,
    unknown: Vec<String>,
    widened: Option<Widened>,
    /// A hash of each adapter's formula and contents.
    digests: Vec<u64>,
    /// The adapters of each layer.
    by_layer: HashMap<(ComponentKind, String), Vec<usize>>,
}

impl LoraFile {
    /// Opens a LoRA file for a model.
    ///
    /// # Errors
    /// The file cannot be opened, is no LoRA, is broken or does not fit the model's layers.
    pub fn open(path: &Path, model: &Model) -> Result<Self, LoraFileError> {
        Self::new(Arc::new(Checkpoint::open(path)?), model)
    }

    /// Takes an open file as a LoRA for a model. The adapters' data is read once, to tell changed files
    /// apart.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn new(file: Arc<Checkpoint>, model: &Model) -> Result<Self, LoraFileError> {
        let lora = lora::read(&file, model)
            .map_err(|error| LoraFileError::Lora { path: file.path().to_owned(), error })?;
        let digest = |adapter: &Adapter| digest(&file, adapter);
        let digests = lora.adapters.par_iter().map(digest).collect::<Result<_, _>>()?;
        let mut by_layer: HashMap<_, Vec<usize>> = HashMap::new();
        for (at, adapter) in lora.adapters.iter().enumerate() {
            by_layer.entry((adapter.component, adapter.layer.clone())).or_default().push(at);
        }
        let lora::Lora { adapters, unknown, widened } = lora;
        Ok(Self { file, adapters, unknown, widened, digests, by_layer })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The changes of layers, in file order.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// The keys that mean nothing for the model, in file order.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// The layer that takes more than the diffusion model's own, if the file widens one.
    pub fn widened(&self) -> Option<&Widened> {
        self.widened.as_ref()
    }
}

impl fmt::Debug for LoraFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoraFile")
            .field("path", &self.path())
            .field("adapters", &self.adapters.len())
            .field("unknown", &self.unknown.len())
            .finish_non_exhaustive()
    }
}

/// Hashes all that an adapter does.
fn digest(file: &Checkpoint, adapter: &Adapter) -> Result<u64, OpenError> {
    let mut hasher = DefaultHasher::new();
    // The formula with its keys, shapes and scale.
    format!("{adapter:?}").hash(&mut hasher);
    for key in adapter.keys() {
        file.get(key).map(|info| info.dtype).hash(&mut hasher);
        data::bytes(file, key)?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// LoRA files for the layers of one component, in the order in which they are applied.
#[derive(Clone, Debug)]
pub struct LoraPatch {
    component: ComponentKind,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    file: Arc<LoraFile>,
    strength: f32,
}

impl LoraPatch {
    /// A chain without files, which changes nothing.
    pub fn new(component: ComponentKind) -> Self {
        Self { component, steps: Vec::new() }
    }

    /// The chain with one more file. At a strength of 0 it is the same chain.
    #[must_use]
    pub fn with(&self, file: &Arc<LoraFile>, strength: f32) -> Self {
        let mut steps = self.steps.clone();
        if strength != 0.0 {
            steps.push(Step { file: Arc::clone(file), strength });
        }
        Self { component: self.component, steps }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The adapters of a layer in the order of their application.
    fn of(&self, layer: &str) -> impl Iterator<Item = (&Step, usize)> {
        let layer = (self.component, layer.to_owned());
        self.steps.iter().flat_map(move |step| {
            let adapters = step.file.by_layer.get(&layer).map_or(&[][..], Vec::as_slice);
            adapters.iter().map(move |at| (step, *at))
        })
    }
}

impl Patch for LoraPatch {
    fn key(&self, layer: &str) -> Option<u64> {
        let mut adapters = self.of(layer).peekable();
        adapters.peek()?;
        let mut hasher = DefaultHasher::new();
        for (step, at) in adapters {
            (step.strength.to_bits(), step.file.digests.get(at)).hash(&mut hasher);
        }
        Some(hasher.finish())
    }

    fn apply(
        &self,
        layer: &str,
        params: &mut Vec<(String, TensorData)>,
    ) -> Result<(), WeightError> {
        for (step, at) in self.of(layer) {
            let Some(adapter) = step.file.adapters.get(at) else { continue };
            apply(&step.file.file, adapter, step.strength, params).map_err(|reason| {
                let path = step.file.path().display();
                let reason = format!("the LoRA {path}: {reason}");
                WeightError::Load { layer: layer.to_owned(), reason }
            })?;
        }
        Ok(())
    }
}

/// Applies one adapter to a layer's parameters.
fn apply(
    file: &Checkpoint,
    adapter: &Adapter,
    strength: f32,
    params: &mut [(String, TensorData)],
) -> Result<(), String> {
    if let Some(delta) = &adapter.delta {
        let data = param(params, &adapter.param)?;
        columns::with(data, adapter.width(), |values| {
            apply_to_weight(file, adapter, delta, strength, &mut Weights::new(values))
        })?;
    }
    if let Some(bias) = &adapter.bias {
        let scale = if bias.scaled { adapter.scale } else { 1.0 };
        let change = data::read(file, &bias.key, adapter.height())?;
        columns::with(param(params, "bias")?, 1, |values| {
            Weights::new(values).add(&adapter.rows, 1, &change, strength * scale)
        })?;
    }
    Ok(())
}

fn apply_to_weight(
    file: &Checkpoint,
    adapter: &Adapter,
    delta: &Delta,
    strength: f32,
    weights: &mut Weights<'_>,
) -> Result<(), String> {
    let width = adapter.width();
    if let Some(magnitude) = &adapter.magnitude {
        let change = delta::evaluate(file, delta, adapter, strength, weights)?;
        return dora::apply(file, adapter, magnitude, change, strength, weights);
    }
    let factor = strength * adapter.scale;
    match delta {
        // The usual case, without a matrix between.
        Delta::Plain(Factor::LowRank { up, down }) if weights.are_all_of(&adapter.rows, width) => {
            delta::add_product(file, up, down, factor, weights)
        }
        _ => {
            let change = delta::evaluate(file, delta, adapter, strength, weights)?;
            match delta {
                Delta::Replacement(_) => weights.set(&adapter.rows, width, &change),
                _ => weights.add(&adapter.rows, width, &change, factor),
            }
        }
    }
}

/// The parameter of a name.
fn param<'p>(
    params: &'p mut [(String, TensorData)],
    name: &str,
) -> Result<&'p mut TensorData, String> {
    let found = params.iter_mut().find(|(own, _)| own == name);
    found.map(|(_, data)| data).ok_or_else(|| format!("the layer has no `{name}`"))
}
