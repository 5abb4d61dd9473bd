//! Noise with the numbers that PyTorch's CUDA generator gives.
//!
//! The generator is Philox 4×32-10 (Salmon and others 2011, "Parallel random numbers: as easy as 1, 2,
//! 3"), a function of a key and a counter. cuRAND makes the seed its key; of the counter's four
//! words the first two are the place in a thread's sequence and the last two the thread. PyTorch
//! launches blocks of 256 threads, at most as many as the GPU runs at once; each thread makes four
//! numbers at a time, which go to places a whole grid apart. So a tensor that is larger than that
//! has other numbers on each model of GPU.

/// Threads of a block.
const BLOCK: usize = 256;

/// Numbers that one evaluation makes.
const LANES: usize = 4;

/// PyTorch's CUDA generator: `torch.Generator("cuda").manual_seed(seed)`.
///
/// It continues: one call after the other gives what the same calls give there. The uniform numbers
/// have all bits of cuRAND's; the sine and cosine of a GPU are approximations of its own hardware, so
/// that normal numbers may differ by about 1e-6.
#[derive(Clone, Debug)]
pub struct CudaGenerator {
    seed: u64,
    /// Evaluations that each thread has behind it.
    evaluations: u64,
    blocks: usize,
}

impl CudaGenerator {
    /// The generator of a GPU that runs this many blocks of 256 threads at once: its multiprocessors
    /// times the threads of each, over 256. No block counts as one.
    pub fn new(seed: u64, blocks: u32) -> Self {
        let blocks = usize::try_from(blocks).unwrap_or(usize::MAX).max(1);
        Self { seed, evaluations: 0, blocks }
    }

    /// `torch.randn(n, device="cuda")`: `n` normal numbers in float32.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        let mut numbers = vec![0.0; n];
        let threads = n.div_ceil(BLOCK).min(self.blocks).saturating_mul(BLOCK);
        for wave in numbers.chunks_mut(threads.saturating_mul(LANES).max(1)) {
            // One lane lies a grid after the other; where the wave is short, the last are cut off.
            for thread in 0..threads.min(wave.len()) {
                let normal = normal4(philox(self.counter(thread), self.key()));
                for (lane, number) in normal.into_iter().enumerate() {
                    if let Some(place) = wave.get_mut(thread + lane * threads) {
                        *place = number;
                    }
                }
            }
            self.evaluations = self.evaluations.wrapping_add(1);
        }
        numbers
    }

    fn key(&self) -> [u32; 2] {
        words(self.seed)
    }

    fn counter(&self, thread: usize) -> [u32; 4] {
        let ([low, high], [thread, thread_high]) = (words(self.evaluations), words(thread as u64));
        [low, high, thread, thread_high]
    }
}

fn words(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// Philox 4×32 with ten rounds.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    for _ in 0..10 {
        let [a, b, c, d] = counter;
        let [low, high] = words(u64::from(a) * u64::from(MULTIPLIERS[0]));
        let [other_low, other_high] = words(u64::from(c) * u64::from(MULTIPLIERS[1]));
        counter = [other_high ^ b ^ key[0], other_low, high ^ d ^ key[1], low];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Four normal numbers, by the Box–Muller transform of each pair.
fn normal4([a, b, c, d]: [u32; 4]) -> [f32; 4] {
    let ([a, b], [c, d]) = (box_muller(a, b), box_muller(c, d));
    [a, b, c, d]
}

/// cuRAND's transform: the sine comes first, both uniform numbers are of (0, 1].
fn box_muller(radius: u32, angle: u32) -> [f32; 2] {
    // 2^-32, and that of a whole turn.
    const UNIT: f32 = 1.0 / 4_294_967_296.0;
    const TURN: f32 = UNIT * std::f32::consts::TAU;
    let uniform = (radius as f32).mul_add(UNIT, UNIT / 2.0);
    let angle = f64::from((angle as f32).mul_add(TURN, TURN / 2.0));
    // Rounded once: the nearest to what the GPU's own functions approximate.
    let radius = (-2.0 * f64::from(uniform).ln() as f32).sqrt();
    [angle.sin() as f32 * radius, angle.cos() as f32 * radius]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that are published with Random123.
    #[test]
    fn philox_gives_the_known_answers() {
        let max = u32::MAX;
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([max; 4], [max; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn the_ends_of_the_uniform_numbers_are_finite() {
        for word in [0, 1, u32::MAX] {
            assert!(box_muller(word, word).into_iter().all(f32::is_finite), "{word}");
        }
    }
}
