//! Weights that are wider or narrower than an adapter.

use crate::tensor::TensorData;

/// Changes a weight's first `width` columns. A matrix that has fewer gets the others, which are zeros; one that has more
/// keeps the others as they are.
///
/// # Errors
/// Those of `change`, and where the values are not f32.
pub(super) fn with(
    data: &mut TensorData,
    width: usize,
    change: impl FnOnce(&mut [f32]) -> Result<(), String>,
) -> Result<(), String> {
    let odd = |error| format!("{error:?}");
    let shape = data.shape.to_vec();
    let &[rows, own] = shape.as_slice() else {
        return change(data.as_mut_slice::<f32>().map_err(odd)?);
    };
    if width > own {
        let values = data.as_slice::<f32>().map_err(odd)?;
        *data = TensorData::new(resized(values, own, width), [rows, width]);
    }
    if width >= own {
        return change(data.as_mut_slice::<f32>().map_err(odd)?);
    }
    let values = data.as_mut_slice::<f32>().map_err(odd)?;
    let mut first = resized(values, own, width);
    change(&mut first)?;
    for (row, first) in values.chunks_mut(own).zip(first.chunks(width.max(1))) {
        row.iter_mut().zip(first).for_each(|(value, new)| *value = *new);
    }
    Ok(())
}

/// Rows of another width: cut, or with zeros after them.
fn resized(values: &[f32], own: usize, width: usize) -> Vec<f32> {
    let row = |row: &[f32]| {
        let mut row = row.to_vec();
        row.resize(width, 0.0);
        row
    };
    values.chunks(own.max(1)).flat_map(row).collect()
}
