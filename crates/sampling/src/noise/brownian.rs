//! Noise for SDE samplers: the increments of one Brownian motion over sigma.
//!
//! The motion depends on the seed alone, so a run with more steps follows the same path. It is the
//! one that torchsde's `BrownianTree` gives (and k-diffusion's `BrownianTreeNoiseSampler` scales),
//! with the CPU's generator or with CUDA's: the interval is halved until a query's ends are ends of
//! pieces, and each halving draws its own noise from the seed and its place in the tree.

use distorch_runtime::Tensor;
use distorch_runtime::tensor::TensorData;

use super::NoiseDevice;
use super::seed_sequence::generate_state;

/// torchsde's pool size for seeds.
const POOL: usize = 24;

/// A Brownian motion over `[start, end]`, of `size` independent numbers.
#[derive(Clone, Debug)]
pub struct BrownianTree {
    entropy: u64,
    device: NoiseDevice,
    size: usize,
    start: f64,
    end: f64,
    whole: Vec<f32>,
}

impl BrownianTree {
    /// The motion of this entropy, drawn by the generator of `device`. Times are kept to 6 decimals;
    /// ends are put in order.
    pub fn new(start: f64, end: f64, size: usize, entropy: u64, device: NoiseDevice) -> Self {
        let (start, end) = if start <= end { (start, end) } else { (end, start) };
        let [seed, _, _] = generate_state::<POOL, 3>(entropy, &[]);
        let scale = (end - start).sqrt() as f32;
        let mut whole = device.randn(seed.into(), size);
        whole.iter_mut().for_each(|w| *w *= scale);
        Self { entropy, device, size, start: rounded(start), end: rounded(end), whole }
    }

    /// The increment `W(to) - W(from)`. Times outside the motion count as its ends.
    pub fn increment(&self, from: f64, to: f64) -> Vec<f32> {
        let (low, high, sign) = if from <= to { (from, to, 1.0) } else { (to, from, -1.0) };
        let within = |time: f64| rounded(time.max(self.start).min(self.end));
        let (low, high) = (within(low), within(high));
        let mut sum = None;
        // Nothing to add over an empty interval, nor (NaN) over one that is none.
        if low < high {
            let whole = Piece { start: self.start, end: self.end, key: 0, depth: 0 };
            self.add(whole, &self.whole, low, high, &mut sum);
        }
        let mut sum = sum.unwrap_or_else(|| vec![0.0; self.size]);
        sum.iter_mut().for_each(|w| *w *= sign);
        sum
    }

    /// Adds the increment over what `[low, high]` has in common with a piece, from left to right.
    fn add(&self, piece: Piece, w: &[f32], low: f64, high: f64, sum: &mut Option<Vec<f32>>) {
        if low <= piece.start && piece.end <= high {
            match sum {
                Some(sum) => sum.iter_mut().zip(w).for_each(|(sum, w)| *sum += w),
                None => *sum = Some(w.to_vec()),
            }
            return;
        }
        let middle = rounded(0.5 * (piece.end + piece.start));
        if middle <= piece.start || middle >= piece.end {
            return;
        }
        let (left, right) = self.halves(&piece, middle, w);
        if low < middle {
            let half = Piece { end: middle, ..piece.child(0) };
            self.add(half, &left, low, high, sum);
        }
        if high > middle {
            let half = Piece { start: middle, ..piece.child(1) };
            self.add(half, &right, low, high, sum);
        }
    }

    /// A Brownian bridge: the increments over both halves, given that over the whole.
    fn halves(&self, piece: &Piece, middle: f64, w: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let [seed, ..] = generate_state::<POOL, 4>(self.entropy, &[piece.key, piece.depth]);
        let (left, right) = (middle - piece.start, piece.end - middle);
        let per_length = 1.0 / (piece.end - piece.start);
        let deviation = (left * right * per_length).sqrt() as f32;
        let mut first = self.device.randn(seed.into(), self.size);
        for (first, w) in first.iter_mut().zip(w) {
            // The order of torchsde's products, for its bits.
            *first = (left as f32 * w) * per_length as f32 + deviation * *first;
        }
        let second = w.iter().zip(&first).map(|(w, first)| w - first).collect();
        (first, second)
    }
}

/// A piece of the motion, by its ends and its place in the tree.
#[derive(Clone, Copy)]
struct Piece {
    start: f64,
    end: f64,
    key: u64,
    depth: u64,
}

impl Piece {
    fn child(&self, side: u64) -> Self {
        Self { key: self.key.wrapping_mul(2).wrapping_add(side), depth: self.depth + 1, ..*self }
    }
}

/// A time to 6 decimals (torchsde's tolerance), correctly rounded as Python's `round` does it.
fn rounded(time: f64) -> f64 {
    format!("{time:.6}").parse().unwrap_or(time)
}

/// Unit normal noise for the step between two sigmas, from one [`BrownianTree`] over all of them.
#[derive(Clone, Debug)]
pub struct BrownianNoise {
    tree: BrownianTree,
}

impl BrownianNoise {
    /// Noise of the shape of `x` for a schedule, from its smallest sigma above 0 to its largest.
    pub fn new<const D: usize>(
        x: &Tensor<D>,
        sigmas: &[f64],
        seed: u64,
        device: NoiseDevice,
    ) -> Self {
        let positive = sigmas.iter().copied().filter(|sigma| *sigma > 0.0 && sigma.is_finite());
        let (low, high) = positive.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), sigma| {
            (low.min(sigma), high.max(sigma))
        });
        let low = if low.is_finite() { low } else { high };
        Self { tree: BrownianTree::new(low, high, x.shape().num_elements(), seed, device) }
    }

    /// The noise between two different sigmas, of the shape, dtype and device of `x`.
    pub fn between<const D: usize>(&self, sigma: f64, next: f64, x: &Tensor<D>) -> Tensor<D> {
        let mut noise = self.tree.increment(sigma, next);
        let deviation = ((next as f32 - sigma as f32).abs()).sqrt();
        noise.iter_mut().for_each(|w| *w /= deviation);
        Tensor::from_data(TensorData::new(noise, x.dims()), &x.device()).cast(x.dtype())
    }
}
