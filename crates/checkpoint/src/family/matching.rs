//! Matching the layers that a configuration asks for with the tensors of the file.

use super::error::FamilyError;
use super::inventory::Inventory;
use super::layout::{LayerSpec, ParamSpec};
use crate::encoding::Companion;
use crate::file::Unread;
use crate::layer::{Layer, LayerKind, Param};

/// Missing keys that an error names.
const KEYS_NAMED: usize = 3;

/// Where a parameter is in the file.
pub(super) struct Stored {
    /// The full key.
    pub key: String,
    /// The shape that the stored tensor must have.
    pub shape: Vec<usize>,
    /// Its rows that belong to the parameter, where it holds more than that.
    pub rows: Option<(usize, usize)>,
    /// Whether the canonical matrix is its transpose.
    pub transposed: bool,
}

impl Stored {
    /// A tensor that is the parameter as it is.
    pub fn whole(key: String, param: &ParamSpec) -> Self {
        Self { key, shape: param.shape.clone(), rows: None, transposed: false }
    }
}

/// The key `prefix` + `layer` + `.` + the parameter's name.
pub(super) fn plain_key(prefix: &str, layer: &str, param: &ParamSpec) -> String {
    let dot = if param.name.is_empty() { "" } else { "." };
    format!("{prefix}{layer}{dot}{}", param.name)
}

/// What is being matched.
pub(super) struct Part<'p> {
    /// Its name in errors, such as "SDXL base diffusion model".
    pub label: &'p str,
    /// What its layers' names start with, a dot included: empty, or a text encoder's name.
    pub root: &'p str,
    /// Its first use index.
    pub use_start: usize,
}

/// Finds every parameter of `layout` in the file, takes its key and checks its shape.
///
/// `locate` says where a layer's parameter is stored.
pub(super) fn match_layers(
    inventory: &mut Inventory<'_>,
    part: &Part<'_>,
    layout: Vec<LayerSpec>,
    locate: impl Fn(&Inventory<'_>, &LayerSpec, &ParamSpec) -> Stored,
) -> Result<Vec<Layer>, FamilyError> {
    let mut missing = Vec::new();
    let mut layers = Vec::with_capacity(layout.len());
    for spec in layout {
        let mut params = Vec::with_capacity(spec.params.len());
        for param in &spec.params {
            let stored = locate(inventory, &spec, param);
            match find(inventory, part.label, &spec, param, &stored)? {
                Some(found) => params.push(found),
                None => missing.push(stored.key),
            }
        }
        companions(inventory, part.label, &mut params)?;
        for param in &params {
            inventory.take(&param.key);
        }
        layers.push(Layer {
            name: format!("{}{}", part.root, spec.name),
            kind: spec.kind,
            use_index: part.use_start + spec.use_index,
            head: spec.head,
            params,
        });
    }
    if missing.is_empty() {
        return Ok(layers);
    }
    missing.dedup();
    let total = missing.len();
    missing.truncate(KEYS_NAMED);
    Err(FamilyError::Missing { part: part.label.to_owned(), keys: missing, total })
}

fn find(
    inventory: &Inventory<'_>,
    part: &str,
    layer: &LayerSpec,
    param: &ParamSpec,
    stored: &Stored,
) -> Result<Option<Param>, FamilyError> {
    let Some(tensor) = inventory.get(&stored.key) else {
        return match inventory.unread(&stored.key) {
            Some(unread) => Err(FamilyError::unread(part, &stored.key, unread)),
            None => Ok(None),
        };
    };
    if !same_shape(layer.kind, &stored.shape, tensor.shape) {
        return Err(FamilyError::Shape {
            part: part.to_owned(),
            key: stored.key.clone(),
            expected: stored.shape.clone(),
            found: tensor.shape.to_vec(),
        });
    }
    if !tensor.dtype.is_float() {
        return Err(FamilyError::Quantised {
            part: part.to_owned(),
            key: stored.key.clone(),
            dtype: tensor.dtype,
        });
    }
    let own_name = || layer.name.rsplit('.').next().unwrap_or_default().to_owned();
    Ok(Some(Param {
        name: if param.name.is_empty() { own_name() } else { param.name.clone() },
        key: stored.key.clone(),
        dtype: tensor.dtype,
        shape: param.shape.clone(),
        rows: stored.rows,
        transposed: stored.transposed,
    }))
}

/// Equal, or a 1×1 convolution that the file stores as a matrix (autoencoders that went through
/// another library do).
fn same_shape(kind: LayerKind, expected: &[usize], found: &[usize]) -> bool {
    let as_matrix = || match expected {
        [out, input, 1, 1] => found == [*out, *input],
        _ => false,
    };
    expected == found || (kind == LayerKind::Conv && as_matrix())
}

/// Adds the scales of a weight that is stored in scaled FP8. Scales of another kind are an error: without
/// them, or read as plain numbers, the weights would be wrong.
fn companions(
    inventory: &Inventory<'_>,
    part: &str,
    params: &mut Vec<Param>,
) -> Result<(), FamilyError> {
    let Some(base) = params.first().and_then(|weight| weight.key.strip_suffix(".weight")) else {
        return Ok(());
    };
    let mut found = Vec::new();
    for (name, _) in Companion::PARAMS {
        let key = format!("{base}.{name}");
        if let Some(unread) = inventory.unread(&key) {
            return Err(FamilyError::unread(part, &key, unread));
        }
        let Some(tensor) = inventory.get(&key) else { continue };
        if !tensor.dtype.is_float() {
            // MXFP8's scales are powers of two, kept in bytes where a format has no dtype for them.
            let scales = Unread::new("F8_E8M0");
            let unread = Unread { dtype: tensor.dtype.name().to_owned(), ..scales };
            return Err(FamilyError::unread(part, &key, &unread));
        }
        found.push(Param {
            name: name.to_owned(),
            key,
            dtype: tensor.dtype,
            shape: tensor.shape.to_vec(),
            rows: None,
            transposed: false,
        });
    }
    params.extend(found);
    Ok(())
}
