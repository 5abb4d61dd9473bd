//! LoRA files: which layers of a model they change, and how.
//!
//! [`read`] looks at keys and shapes, and at the alphas. It knows the names that kohya's sd-scripts,
//! LyCORIS, diffusers, PEFT and ComfyUI write (see `docs/lora.md`), and the kinds LoRA, LoCon, LoHa,
//! LoKr, GLoRA, OFT, BOFT, DoRA, full differences and replacements. What a file does to a layer is an [`Adapter`]: a
//! formula over the file's tensors, every shape of which was checked against the layer. Doing the sums is the
//! runtime's business.
//!
//! | module | holds |
//! | --- | --- |
//! | `key` | a key is a module's name and a role in its adapter |
//! | `names` | the layer that a module's name means |
//! | `build` | an adapter from the tensors of one module |
//! | `control` | what Black Forest Labs' control LoRAs have of their own |
//! | `alphas` | the scale of an adapter |
//! | `origin` | the family that a file seems to be made for |

mod adapter;
mod alphas;
mod build;
mod control;
mod error;
mod key;
pub(crate) mod names;
mod origin;

use indexmap::IndexMap;

pub use adapter::{
    Adapter, Axis, BiasDelta, Delta, Factor, Magnitude, Matrix, Norm, Rotation, RowSpan,
};
pub use error::{Hint, LoraError};

use crate::family::{Model, Widened};
use crate::file::Checkpoint;
use crate::layer::ComponentKind;
use alphas::Alphas;
use build::Module;
use names::Names;

/// What a LoRA file does to a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The changes of layers, in file order.
    pub adapters: Vec<Adapter>,
    /// The keys that mean nothing for this model, in file order.
    pub unknown: Vec<String>,
    /// The layer that takes more than the diffusion model's own, if the file widens one.
    pub widened: Option<Widened>,
}

/// Finds out what a LoRA file does to a model.
///
/// Keys of modules that the model does not have are reported, not refused: a LoRA may hold adapters
/// for text encoders that another file holds. Of the tensors' data only alphas are read.
///
/// # Errors
/// The file is no LoRA; an adapter of a layer that the model has is incomplete, does not fit the layer, or
/// is of a kind that is not supported.
pub fn read(file: &Checkpoint, model: &Model) -> Result<Lora, LoraError> {
    let names = Names::new(model);
    let alphas = Alphas::new(file)?;
    let (modules, mut unknown) = modules(file)?;
    for (key, unread) in file.unread() {
        if key::split(key).is_some_and(|(module, _)| !names.find(module).is_empty()) {
            let (key, dtype) = (key.clone(), unread.dtype.clone());
            return Err(LoraError::Dtype { key, dtype });
        }
    }
    let (mut adapters, mut widened) = (Vec::new(), None);
    let other_model = |error: LoraError| error.made_for(|| origin::made_for(file), model);
    for module in modules.values() {
        let targets = names.find(module.name);
        if targets.is_empty() || module.is_empty() {
            unknown.extend(module.keys());
        }
        if !module.is_empty() {
            for target in targets {
                let wider = build::widened(file, module, target, model)?;
                let target = wider.as_ref().map_or(target, |(target, _)| target);
                let adapter = build::adapter(file, &alphas, module, target);
                adapters.push(adapter.map_err(other_model)?);
                widened = wider.map(|(_, widened)| widened).or(widened);
            }
        }
    }
    unknown.sort_by_cached_key(|key| file.position(key));
    let unknown = unknown.into_iter().map(str::to_owned).collect();
    Ok(Lora { adapters, unknown, widened })
}

/// A component of a model that a LoRA is meant to change.
#[derive(Clone, Copy, Debug)]
pub struct Target<'m> {
    /// The model.
    pub model: &'m Model,
    /// The component: the diffusion model or the text encoders.
    pub component: ComponentKind,
}

/// How a LoRA file fits what it is meant to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// The layers that it changes in each target, in the targets' order. One at least is not 0.
    pub layers: Vec<usize>,
    /// The keys that mean nothing for any of the targets' models, in file order.
    pub unknown: Vec<String>,
}

/// Finds out whether a LoRA file changes anything of these components. As [`read`], it looks at keys, shapes
/// and alphas only.
///
/// # Errors
/// [`LoraError::NothingFits`] where it changes nothing of them; as [`read`] otherwise.
pub fn check(file: &Checkpoint, targets: &[Target<'_>]) -> Result<Fit, LoraError> {
    let mut layers = Vec::with_capacity(targets.len());
    let mut unknown: Option<Vec<String>> = None;
    let mut elsewhere = false;
    for target in targets {
        let lora = read(file, target.model)?;
        let of = |component| move |adapter: &&Adapter| adapter.component == component;
        layers.push(lora.adapters.iter().filter(of(target.component)).count());
        elsewhere |= !lora.adapters.is_empty();
        match &mut unknown {
            Some(unknown) => unknown.retain(|key| lora.unknown.contains(key)),
            None => unknown = Some(lora.unknown),
        }
    }
    if layers.iter().any(|count| *count > 0) {
        return Ok(Fit { layers, unknown: unknown.unwrap_or_default() });
    }
    let first = file.tensors().map(|(key, _)| key).find(|key| key::split(key).is_some());
    let mut models: Vec<String> = Vec::new();
    for target in targets {
        let label = target.model.label();
        if !models.contains(&label) {
            models.push(label);
        }
    }
    Err(LoraError::NothingFits {
        keys: file.len(),
        first: first.unwrap_or_default().to_owned(),
        models: models.join(" and "),
        hint: match elsewhere {
            true => Hint::OtherComponent,
            false => origin::made_for(file).map_or(Hint::Nothing, Hint::MadeFor),
        },
    })
}

type Modules<'f> = IndexMap<&'f str, Module<'f>>;

/// The file's tensors by module, and the keys that are not a LoRA's.
fn modules(file: &Checkpoint) -> Result<(Modules<'_>, Vec<&str>), LoraError> {
    let mut modules = Modules::new();
    let mut unknown = Vec::new();
    let control = control::is_one(file);
    for (key, _) in file.tensors() {
        match key::split(key).or_else(|| control::split(key).filter(|_| control)) {
            Some((name, role)) => {
                modules.entry(name).or_insert_with(|| Module::new(name)).tensors.push((role, key));
            }
            None => unknown.push(key),
        }
    }
    if modules.values().all(Module::is_empty) {
        return Err(LoraError::NotALora { tensors: file.len() });
    }
    Ok((modules, unknown))
}
