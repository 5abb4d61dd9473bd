//! The products that a LoRA's formulas stand for, in f32 on the host.

use std::ops::Range;

use distorch_checkpoint::Checkpoint;
use distorch_checkpoint::lora::{Adapter, Delta, Factor, Matrix, RowSpan};
use rayon::prelude::*;

use super::data::read;
use super::rotation;
use crate::kernels::host;

/// A product of fewer multiplications than this is not worth a second thread.
const PARALLEL: usize = 1 << 20;

/// A parameter's values, which adapters change.
pub(super) struct Weights<'w> {
    values: &'w mut [f32],
}

impl<'w> Weights<'w> {
    pub fn new(values: &'w mut [f32]) -> Self {
        Self { values }
    }

    /// Whether the spans are one that covers every row as it is.
    pub fn are_all_of(&self, rows: &[RowSpan], width: usize) -> bool {
        matches!(rows, [RowSpan { adapter: 0, layer: 0, count }]
            if count.checked_mul(width) == Some(self.values.len()))
    }

    /// The rows of a span, each `width` wide.
    pub fn rows(&mut self, span: &RowSpan, width: usize) -> Result<&mut [f32], String> {
        let len = self.values.len();
        self.values.get_mut(elements(span.layer, span.count, width)).ok_or_else(|| {
            let (first, end) = (span.layer, span.layer.saturating_add(span.count));
            format!("it changes rows {first} to {end} of {width} in a parameter of {len} values")
        })
    }

    /// The weight in the rows of an adapter; rows that the layer does not have are 0.
    pub fn gathered(&mut self, adapter: &Adapter) -> Result<Vec<f32>, String> {
        let width = adapter.width();
        let mut rows = vec![0.0; adapter.height().saturating_mul(width)];
        for span in &adapter.rows {
            let own = self.rows(span, width)?;
            let to = rows.get_mut(elements(span.adapter, span.count, width));
            to.ok_or("its rows lie outside of the layer")?.copy_from_slice(own);
        }
        Ok(rows)
    }

    /// Puts the spans' rows of a matrix in the place of the weight's.
    pub fn set(&mut self, rows: &[RowSpan], width: usize, to: &[f32]) -> Result<(), String> {
        for span in rows {
            let to = rows_of(to, span, width)?;
            self.rows(span, width)?.copy_from_slice(to);
        }
        Ok(())
    }

    /// Adds `factor` times the spans' rows of a change.
    pub fn add(
        &mut self,
        rows: &[RowSpan],
        width: usize,
        change: &[f32],
        factor: f32,
    ) -> Result<(), String> {
        for span in rows {
            let change = rows_of(change, span, width)?;
            for (value, change) in self.rows(span, width)?.iter_mut().zip(change) {
                *value += factor * change;
            }
        }
        Ok(())
    }
}

/// The rows of a span in the adapter's matrix.
pub(super) fn rows_of<'c>(
    change: &'c [f32],
    span: &RowSpan,
    width: usize,
) -> Result<&'c [f32], String> {
    change
        .get(elements(span.adapter, span.count, width))
        .ok_or_else(|| format!("it has {} values, too few for its rows", change.len()))
}

fn elements(first: usize, count: usize, width: usize) -> Range<usize> {
    first.saturating_mul(width)..first.saturating_add(count).saturating_mul(width)
}

/// `weights += factor · up · down`.
pub(super) fn add_product(
    file: &Checkpoint,
    up: &Matrix,
    down: &Matrix,
    factor: f32,
    weights: &mut Weights<'_>,
) -> Result<(), String> {
    let mut up = Values::read(file, up)?;
    up.values.iter_mut().for_each(|value| *value *= factor);
    let down = Values::read(file, down)?;
    multiply(up.view(), down.view(), &mut Place::whole(weights.values, down.columns), true)
}

/// An adapter's change of the weight, row-major: its `Δ` without scale and, but for rotations, strength.
pub(super) fn evaluate(
    file: &Checkpoint,
    delta: &Delta,
    adapter: &Adapter,
    strength: f32,
    weights: &mut Weights<'_>,
) -> Result<Vec<f32>, String> {
    let kernel = adapter.shape.iter().skip(2).product();
    let change = match delta {
        Delta::Plain(change) => factor(file, change, kernel)?,
        Delta::Hadamard(first, second) => {
            let mut product = factor(file, first, kernel)?;
            let second = factor(file, second, kernel)?;
            product.iter_mut().zip(second).for_each(|(value, other)| *value *= other);
            product
        }
        Delta::Kronecker(first, second) => {
            let of = |matrix: &Factor| [matrix.rows(), matrix.columns()];
            // The first has no kernel.
            let values = [factor(file, first, 1)?, factor(file, second, kernel)?];
            kronecker(&values[0], of(first), &values[1], of(second))
        }
        Delta::Generalised { first, second, added } => {
            let mut change = factor(file, added, kernel)?;
            let own = weights.gathered(adapter)?;
            generalised(file, [first, second], &own, adapter, &mut change)?;
            change
        }
        Delta::Replacement(matrix) => Values::read(file, matrix).map(|matrix| matrix.values)?,
        Delta::Rotation(rotation) => {
            let own = weights.gathered(adapter)?;
            rotation::evaluate(file, rotation, strength, &own, adapter.width())?
        }
    };
    let expected = adapter.height().saturating_mul(adapter.width());
    match change.len() == expected {
        true => Ok(change),
        false => Err(format!("`{}` makes {} values, not {expected}", adapter.name, change.len())),
    }
}

/// The matrix that a factor stands for, row-major.
fn factor(file: &Checkpoint, factor: &Factor, kernel: usize) -> Result<Vec<f32>, String> {
    match factor {
        Factor::Whole(matrix) => Values::read(file, matrix).map(|matrix| matrix.values),
        Factor::LowRank { up, down } => {
            let (up, down) = (Values::read(file, up)?, Values::read(file, down)?);
            let mut out = vec![0.0; up.rows * down.columns];
            multiply(up.view(), down.view(), &mut Place::whole(&mut out, down.columns), false)?;
            Ok(out)
        }
        Factor::Tucker { up, core, down } => {
            let read = |matrix| Values::read(file, matrix);
            tucker(&read(up)?, &read(core)?, &read(down)?, kernel)
        }
    }
}

/// `up · core[k] · down` for each place of the kernel, which is innermost in the result.
fn tucker(up: &Values, core: &Values, down: &Values, kernel: usize) -> Result<Vec<f32>, String> {
    let width = down.columns * kernel;
    let mut inner = vec![0.0; up.rows * core.columns];
    multiply(up.view(), core.view(), &mut Place::whole(&mut inner, core.columns), false)?;
    let mut out = vec![0.0; up.rows * width];
    for place in 0..kernel {
        let left = View {
            values: inner.get(place..).unwrap_or_default(),
            rows: up.rows,
            columns: down.rows,
            steps: [core.columns, kernel],
        };
        let values = out.get_mut(place..).unwrap_or_default();
        multiply(left, down.view(), &mut Place { values, steps: [width, kernel] }, false)?;
    }
    Ok(out)
}

/// `change += W · first · second`; for each place of the kernel by itself where `first` is for the inputs alone.
fn generalised(
    file: &Checkpoint,
    [first, second]: [&Matrix; 2],
    own: &[f32],
    adapter: &Adapter,
    change: &mut [f32],
) -> Result<(), String> {
    let (first, second) = (Values::read(file, first)?, Values::read(file, second)?);
    let (height, width) = (adapter.height(), adapter.width());
    let places = width.checked_div(first.rows).unwrap_or(0);
    if own.len() != change.len() || places * first.rows != width {
        return Err(format!("a product of {} inputs does not fit {width} values", first.rows));
    }
    let mut inner = vec![0.0; height * first.columns];
    for place in 0..places {
        let values = own.get(place..).unwrap_or_default();
        let weight = View { values, rows: height, columns: first.rows, steps: [width, places] };
        multiply(weight, first.view(), &mut Place::whole(&mut inner, first.columns), false)?;
        let inner = View {
            values: &inner,
            rows: height,
            columns: first.columns,
            steps: [first.columns, 1],
        };
        let values = change.get_mut(place..).unwrap_or_default();
        multiply(inner, second.view(), &mut Place { values, steps: [width, places] }, true)?;
    }
    Ok(())
}

/// The Kronecker product of two matrices.
fn kronecker(first: &[f32], size: [usize; 2], second: &[f32], inner: [usize; 2]) -> Vec<f32> {
    let ([_, columns], [rows, width]) = (size, inner);
    let row_len = columns * width;
    if row_len == 0 || rows == 0 {
        return Vec::new();
    }
    let mut out = vec![0.0; first.len() * second.len()];
    out.par_chunks_mut(rows * row_len).zip(first.par_chunks(columns)).for_each(|(block, first)| {
        for (out, second) in block.chunks_mut(row_len).zip(second.chunks(width)) {
            for (out, factor) in out.chunks_mut(width).zip(first) {
                out.iter_mut().zip(second).for_each(|(out, value)| *out = factor * value);
            }
        }
    });
    out
}

/// A matrix of the file, in f32.
struct Values {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl Values {
    fn read(file: &Checkpoint, matrix: &Matrix) -> Result<Self, String> {
        let &Matrix { rows, columns, transposed, ref key } = matrix;
        let values = read(file, key, rows.saturating_mul(columns))?;
        Ok(Self { values, rows, columns, transposed })
    }

    fn view(&self) -> View<'_> {
        let steps = if self.transposed { [1, self.rows] } else { [self.columns, 1] };
        View { values: &self.values, rows: self.rows, columns: self.columns, steps }
    }
}

/// A matrix in memory, with its steps to the next row and the next column.
struct View<'v> {
    values: &'v [f32],
    rows: usize,
    columns: usize,
    steps: [usize; 2],
}

/// Where a product goes, with the steps to the next row and the next column.
struct Place<'p> {
    values: &'p mut [f32],
    steps: [usize; 2],
}

impl<'p> Place<'p> {
    fn whole(values: &'p mut [f32], columns: usize) -> Self {
        Self { values, steps: [columns, 1] }
    }
}

/// `out = lhs · rhs`, or `out += lhs · rhs` with `accumulate`.
fn multiply(lhs: View, rhs: View, out: &mut Place, accumulate: bool) -> Result<(), String> {
    let (size, inner) = ([lhs.rows, lhs.columns, rhs.columns], rhs.rows);
    let [rows, _, columns] = size;
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let [row, column] = out.steps;
    let last = (rows - 1) * row + (columns - 1) * column;
    if lhs.columns != inner || last >= out.values.len() {
        return Err(format!(
            "a product of {rows} × {} by {inner} × {columns} does not fit {} values",
            lhs.columns,
            out.values.len()
        ));
    }
    let matrix = |view: &View<'_>| view.steps;
    let ([lhs_row, lhs_column], [rhs_row, rhs_column]) = (matrix(&lhs), matrix(&rhs));
    let lhs = host::Matrix { values: lhs.values, row: lhs_row, column: lhs_column };
    let rhs = host::Matrix { values: rhs.values, row: rhs_row, column: rhs_column };
    let threads = match rows.saturating_mul(inner).saturating_mul(columns) >= PARALLEL {
        true => gemm::Parallelism::Rayon(0),
        false => gemm::Parallelism::None,
    };
    // SAFETY: the last element of the product lies in `out`, as checked, which is borrowed for it.
    unsafe {
        host::gemm(size, lhs, rhs, out.values.as_mut_ptr(), out.steps, accumulate, threads);
    }
    Ok(())
}
