//! DoRA: a weight's direction and its lengths change apart (Liu et al., <https://arxiv.org/abs/2402.09353>).

use distorch_checkpoint::Checkpoint;
use distorch_checkpoint::lora::{Adapter, Axis, Magnitude, Norm};

use super::data::read;
use super::delta::{Weights, rows_of};

/// Turns the weight `W` with the change `Δ` into `W + strength · (m · V / norm − W)`,
/// `V = W + scale · Δ`, with the norms of each output's or each input's weights, of `W` or of `V` ([`Norm`]).
pub(super) fn apply(
    file: &Checkpoint,
    adapter: &Adapter,
    magnitude: &Magnitude,
    mut change: Vec<f32>,
    strength: f32,
    weights: &mut Weights<'_>,
) -> Result<(), String> {
    let width = adapter.width();
    let own = weights.gathered(adapter)?;
    // From Δ to V.
    change.iter_mut().zip(&own).for_each(|(value, own)| *value = *value * adapter.scale + own);
    let kernel: usize = adapter.shape.iter().skip(2).product();
    let groups = match magnitude.axis {
        Axis::Output => Groups { count: adapter.height(), length: width, repeated: false },
        Axis::Input => {
            let count = adapter.shape.get(1).copied().unwrap_or(1);
            Groups { count, length: kernel, repeated: true }
        }
    };
    let magnitudes = read(file, &magnitude.key, groups.count)?;
    let norms = groups.norms(if magnitude.norm == Norm::Before { &own } else { &change });
    let factor = |(length, norm): (&f32, f32)| match magnitude.norm {
        Norm::Before | Norm::Changed => length / (norm + f32::EPSILON),
        // Values that are all 0 have no direction: they stay 0 instead of becoming NaN.
        Norm::Exact if norm == 0.0 => 0.0,
        Norm::Exact => length / norm,
    };
    let factors: Vec<f32> = magnitudes.iter().zip(norms).map(factor).collect();
    groups.scale(&mut change, &factors);
    for span in &adapter.rows {
        let change = rows_of(&change, span, width)?;
        for (weight, value) in weights.rows(span, width)?.iter_mut().zip(change) {
            *weight += strength * (value - *weight);
        }
    }
    Ok(())
}

/// Which of a matrix's values belong together: every run of `length` values belongs to the next group,
/// again from the first one on where they are `repeated`.
struct Groups {
    count: usize,
    length: usize,
    repeated: bool,
}

impl Groups {
    /// The number of each run's group.
    fn numbers(&self) -> impl Iterator<Item = usize> {
        let turns = if self.repeated { usize::MAX } else { 1 };
        let count = self.count;
        (0..turns).flat_map(move |_| 0..count)
    }

    /// The norm of each group. Squares are summed in f64.
    fn norms(&self, values: &[f32]) -> Vec<f32> {
        let mut squares = vec![0.0_f64; self.count];
        for (values, number) in values.chunks(self.length.max(1)).zip(self.numbers()) {
            squares[number] += values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
        }
        squares.into_iter().map(|square| square.sqrt() as f32).collect()
    }

    /// Multiplies each group by its factor.
    fn scale(&self, values: &mut [f32], factors: &[f32]) {
        for (values, number) in values.chunks_mut(self.length.max(1)).zip(self.numbers()) {
            values.iter_mut().for_each(|value| *value *= factors[number]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_outputs_and_of_inputs() {
        // Two outputs, two inputs, a kernel of one.
        let weights = [3.0, 4.0, 0.0, 1.0];
        let outputs = Groups { count: 2, length: 2, repeated: false };
        assert_eq!(outputs.norms(&weights), [5.0, 1.0]);
        let inputs = Groups { count: 2, length: 1, repeated: true };
        assert_eq!(inputs.norms(&weights), [3.0, 17_f32.sqrt()]);
        let mut scaled = weights;
        inputs.scale(&mut scaled, &[2.0, 10.0]);
        assert_eq!(scaled, [6.0, 40.0, 0.0, 10.0]);
    }

    #[test]
    fn a_kernel_belongs_to_its_input() {
        let weights = [3.0, 4.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        let groups = Groups { count: 2, length: 2, repeated: true };
        assert_eq!(groups.norms(&weights), [5.0, 2_f32.sqrt()]);
    }
}
