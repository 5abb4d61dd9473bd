//! Reading the tensors of a LoRA file.

use distorch_checkpoint::decode::to_f32;
use distorch_checkpoint::{Checkpoint, OpenError};

/// The values of a tensor of so many elements.
pub(super) fn read(file: &Checkpoint, key: &str, elements: usize) -> Result<Vec<f32>, String> {
    let info = file.get(key).ok_or_else(|| format!("`{key}` is missing"))?;
    if usize::try_from(info.elements()) != Ok(elements) {
        return Err(format!("`{key}` has {} values, not {elements}", info.elements()));
    }
    let bytes = bytes(file, key).map_err(|error| error.to_string())?;
    Ok(to_f32(&bytes, info.dtype))
}

/// A tensor's data, read rather than mapped: the file may have changed since it was opened.
pub(super) fn bytes(file: &Checkpoint, key: &str) -> Result<Vec<u8>, OpenError> {
    let len = file.get(key).map_or(0, |info| info.bytes());
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_into(key, 0, &mut bytes)?;
    Ok(bytes)
}
