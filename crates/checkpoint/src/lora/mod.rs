//! LoRA files: which layers of a model they change, and how.
//!
//! [`read`] looks at keys and shapes, and at the alphas. It knows the names that kohya's sd-scripts,
//! LyCORIS, diffusers, PEFT and ComfyUI write (see `docs/lora.md`), and the kinds LoRA, LoCon, LoHa,
//! LoKr, DoRA and full differences. What a file does to a layer is an [`Adapter`]: a formula over the
//! file's tensors, every shape of which was checked against the layer. Doing the sums is the
//! runtime's business.
//!
//! | module | holds |
//! | --- | --- |
//! | `key` | a key is a module's name and a role in its adapter |
//! | `names` | the layer that a module's name means |
//! | `build` | an adapter from the tensors of one module |
//! | `alphas` | the scale of an adapter |

mod adapter;
mod alphas;
mod build;
mod error;
mod key;
mod names;

use indexmap::IndexMap;

pub use adapter::{Adapter, Axis, BiasDelta, Delta, Factor, Magnitude, Matrix, RowSpan};
pub use error::LoraError;

use crate::family::Model;
use crate::file::Checkpoint;
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
    let mut adapters = Vec::new();
    for module in modules.values() {
        let targets = names.find(module.name);
        if targets.is_empty() || module.is_empty() {
            unknown.extend(module.keys());
        }
        if !module.is_empty() {
            for target in targets {
                adapters.push(build::adapter(file, &alphas, module, target)?);
            }
        }
    }
    unknown.sort_by_cached_key(|key| file.position(key));
    let unknown = unknown.into_iter().map(str::to_owned).collect();
    Ok(Lora { adapters, unknown })
}

type Modules<'f> = IndexMap<&'f str, Module<'f>>;

/// The file's tensors by module, and the keys that are not a LoRA's.
fn modules(file: &Checkpoint) -> Result<(Modules<'_>, Vec<&str>), LoraError> {
    let mut modules = Modules::new();
    let mut unknown = Vec::new();
    for (key, _) in file.tensors() {
        match key::split(key) {
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
