//! DoRA: a weight's direction and its lengths change apart (Liu et al., <https://arxiv.org/abs/2402.09353>).

use distorch_checkpoint::Checkpoint;
use distorch_checkpoint::lora::{Adapter, Axis, Magnitude};

use super::delta::{Weights, read, rows_of};

/// Turns the weight `W` with the change `Δ` into `W + strength · (m · V / |V| − W)`,
/// `V = W + scale · Δ`, with the lengths `|V|` of each output's or each input's weights.
pub(super) fn apply(
    file: &Checkpoint,
    adapter: &Adapter,
    magnitude: &Magnitude,
    mut change: Vec<f32>,
    strength: f32,
    weights: &mut Weights<'_>,
) -> Result<(), String> {
    let width = adapter.width();
    change.iter_mut().for_each(|value| *value *= adapter.scale);
    // From Δ to V.
    for span in &adapter.rows {
        let own = weights.rows(span, width)?;
        let rows = change.iter_mut().skip(span.adapter * width);
        rows.zip(own).for_each(|(value, weight)| *value += *weight);
    }
    let kernel: usize = adapter.shape.iter().skip(2).product();
    let lengths = match magnitude.axis {
        Axis::Output => Lengths { count: adapter.height(), group: width, repeated: false },
        Axis::Input => {
            let count = adapter.shape.get(1).copied().unwrap_or(1);
            Lengths { count, group: kernel, repeated: true }
        }
    };
    let magnitudes = read(file, &magnitude.key, lengths.count)?;
    lengths.set(&mut change, &magnitudes);
    for span in &adapter.rows {
        let change = rows_of(&change, span, width)?;
        for (weight, value) in weights.rows(span, width)?.iter_mut().zip(change) {
            *weight += strength * (value - *weight);
        }
    }
    Ok(())
}

/// Which of a matrix's values make up a length: every run of `group` values belongs to the next
/// length, again from the first one on where they are `repeated`.
struct Lengths {
    count: usize,
    group: usize,
    repeated: bool,
}

impl Lengths {
    /// Scales the values so that their lengths are these. Squares are summed in f64.
    fn set(&self, values: &mut [f32], lengths: &[f32]) {
        let group = self.group.max(1);
        let turns = if self.repeated { usize::MAX } else { 1 };
        let numbers = || (0..turns).flat_map(|_| 0..self.count);
        let mut squares = vec![0.0_f64; self.count];
        for (values, number) in values.chunks(group).zip(numbers()) {
            squares[number] += values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
        }
        // Values that are all 0 have no direction: they stay 0 instead of becoming NaN.
        let factor = |(length, square): (&f32, f64)| {
            if square > 0.0 { (f64::from(*length) / square.sqrt()) as f32 } else { 0.0 }
        };
        let factors: Vec<f32> = lengths.iter().zip(squares).map(factor).collect();
        for (values, number) in values.chunks_mut(group).zip(numbers()) {
            values.iter_mut().for_each(|value| *value *= factors[number]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_outputs_and_of_inputs() {
        // Two outputs, two inputs, a kernel of one.
        let weights = [3.0, 4.0, 0.0, 0.0];
        let mut outputs = weights;
        Lengths { count: 2, group: 2, repeated: false }.set(&mut outputs, &[10.0, 7.0]);
        assert_eq!(outputs, [6.0, 8.0, 0.0, 0.0]);
        let mut inputs = weights;
        Lengths { count: 2, group: 1, repeated: true }.set(&mut inputs, &[-1.0, 2.0]);
        assert_eq!(inputs, [-1.0, 2.0, 0.0, 0.0]);
    }

    #[test]
    fn a_kernel_belongs_to_its_input() {
        let mut weights = [3.0, 4.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        Lengths { count: 2, group: 2, repeated: true }.set(&mut weights, &[5.0, 2.0]);
        assert_eq!(weights, [3.0, 4.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
