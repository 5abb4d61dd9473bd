//! Noise, with the bits that PyTorch's generators give.
//!
//! A seed means the same picture here as in ComfyUI only if the numbers are the same ones, so this
//! follows `torch.manual_seed` and `torch.randn` for float32 exactly, on any machine: the CPU's
//! generator to the last bit, CUDA's but for what is a GPU's own ([`CudaGenerator`]).

mod box_muller;
mod brownian;
mod philox;
mod seed_sequence;

pub use brownian::{BrownianNoise, BrownianTree};
pub use philox::CudaGenerator;

use distorch_runtime::tensor::TensorData;
use distorch_runtime::{Device, Tensor};
use rand_mt::Mt;

/// PyTorch's CPU generator: `torch.Generator("cpu").manual_seed(seed)`.
///
/// It continues: one call after the other gives what the same calls give there.
#[derive(Clone, Debug)]
pub struct Generator {
    engine: Mt,
    /// The second number of the last pair that the path for small tensors made.
    spare: Option<f64>,
}

impl Generator {
    /// Seeds the Mersenne Twister, as PyTorch does with the low 32 bits.
    pub fn new(seed: u64) -> Self {
        Self { engine: Mt::new(seed as u32), spare: None }
    }

    /// `torch.randn(n)`: `n` normal numbers in float32.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        if n < box_muller::BLOCK {
            return (0..n).map(|_| self.normal() as f32).collect();
        }
        let mut numbers: Vec<f32> = (0..n).map(|_| self.uniform()).collect();
        box_muller::transform(&mut numbers);
        // The last block is made anew where it is no whole one, over numbers already made.
        if !n.is_multiple_of(box_muller::BLOCK)
            && let Some(last) = numbers.last_chunk_mut::<{ box_muller::BLOCK }>()
        {
            last.fill_with(|| self.uniform());
            box_muller::transform(last);
        }
        numbers
    }

    /// `torch.randn(shape)` as a float32 tensor on a device.
    pub fn randn_tensor<const D: usize>(
        &mut self,
        shape: [usize; D],
        device: &Device,
    ) -> Tensor<D> {
        Tensor::from_data(TensorData::new(self.randn(shape.iter().product()), shape), device)
    }

    /// A float32 of [0, 1): 24 bits of the next word.
    fn uniform(&mut self) -> f32 {
        (self.engine.next_u32() & 0x00ff_ffff) as f32 / (1u32 << 24) as f32
    }

    /// A float64 of [0, 1): 53 bits of the next two words, the high one first.
    fn uniform64(&mut self) -> f64 {
        let high = u64::from(self.engine.next_u32());
        let low = u64::from(self.engine.next_u32());
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// The path for small tensors: Box–Muller in float64, two numbers at a time.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = std::f64::consts::TAU * self.uniform64();
        let radius = (-2.0 * (-self.uniform64()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// The noise that ComfyUI's KSampler starts from: `torch.manual_seed(seed)`, then `torch.randn` of
/// the latent's shape, float32, on the CPU, taken to `device`.
pub fn latent_noise<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    Generator::new(seed).randn_tensor(shape, device)
}

/// The noise of pictures `batch_index` of a larger batch of this seed, in the order given.
///
/// Each picture of the batch takes its noise in a call of its own, as ComfyUI does for a latent that
/// says where in its batch it comes from (LatentFromBatch). `shape` is that of the result; its first
/// dimension is replaced by the number of indices. Memory is bounded by the result: pictures in
/// between are generated and dropped.
pub fn batch_noise<const D: usize>(
    mut shape: [usize; D],
    seed: u64,
    batch_index: &[usize],
    device: &Device,
) -> Tensor<D> {
    let picture: usize = shape.iter().skip(1).product();
    let mut noise = vec![0.0; batch_index.len() * picture];
    let mut generator = Generator::new(seed);
    for index in 0..batch_index.iter().max().map_or(0, |last| last + 1) {
        let numbers = generator.randn(picture);
        for (place, wanted) in batch_index.iter().enumerate() {
            if *wanted == index
                && let Some(part) = noise.get_mut(place * picture..(place + 1) * picture)
            {
                part.copy_from_slice(&numbers);
            }
        }
    }
    if let Some(batch) = shape.first_mut() {
        *batch = batch_index.len();
    }
    Tensor::from_data(TensorData::new(noise, shape), device)
}

/// Whose generator makes the noise that samplers add between steps. The noise that a run starts from
/// is the CPU's with either.
///
/// ComfyUI draws it where the latent is, so a seed gives one picture on its CPU and another on its
/// GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoiseDevice {
    /// PyTorch's CPU generator.
    #[default]
    Cpu,
    /// PyTorch's CUDA generator.
    Cuda {
        /// The blocks that the GPU runs at once: [`CudaGenerator::new`].
        blocks: u32,
    },
}

impl NoiseDevice {
    /// The blocks of an RTX 4090 (128 multiprocessors of 1536 threads): all latents of up to 196,608
    /// values are the same on every GPU that runs as many or more.
    pub const BLOCKS: u32 = 128 * 1536 / 256;

    /// `torch.randn(n)` of a new generator of this seed.
    fn randn(self, seed: u64, n: usize) -> Vec<f32> {
        Source::new(self, seed).randn(n)
    }
}

/// A generator of either kind.
#[derive(Debug)]
enum Source {
    Cpu(Box<Generator>),
    Cuda(CudaGenerator),
}

impl Source {
    fn new(device: NoiseDevice, seed: u64) -> Self {
        match device {
            NoiseDevice::Cpu => Self::Cpu(Box::new(Generator::new(seed))),
            NoiseDevice::Cuda { blocks } => Self::Cuda(CudaGenerator::new(seed, blocks)),
        }
    }

    fn randn(&mut self, n: usize) -> Vec<f32> {
        match self {
            Self::Cpu(generator) => generator.randn(n),
            Self::Cuda(generator) => generator.randn(n),
        }
    }
}

/// Noise that samplers add between steps: one generator for a run, one call a draw.
///
/// As in ComfyUI, the CPU's is seeded with the run's seed plus one, so that it differs from the noise
/// that the run starts from; CUDA's, which differs anyway, with the run's seed.
#[derive(Debug)]
pub struct StepNoise(Source);

impl StepNoise {
    /// Noise for a run of this seed.
    pub fn new(seed: u64, device: NoiseDevice) -> Self {
        let seed = match device {
            NoiseDevice::Cpu => seed.wrapping_add(1),
            NoiseDevice::Cuda { .. } => seed,
        };
        Self(Source::new(device, seed))
    }

    /// The next draw, of the shape, dtype and device of `x`.
    pub fn like<const D: usize>(&mut self, x: &Tensor<D>) -> Tensor<D> {
        let noise = self.0.randn(x.shape().num_elements());
        Tensor::from_data(TensorData::new(noise, x.dims()), &x.device()).cast(x.dtype())
    }
}
