//! The operations that a diffusion model spends its time in, fused.
//!
//! On the CPU each has a kernel of its own for f32 activations: Burn's `flex` leaves some of them on
//! one thread and makes copies where strides would do. Weights may be in 16 bits there, and
//! [`Precision`] says what is multiplied. On every other device, and with other activations, each
//! is a few Burn operations with the same result. Shapes that don't fit go to Burn, which panics with
//! its own message: layers check them before they call.
//!
//! How they work and how fast they are beside PyTorch's is in `docs/kernels.md`.

mod attention;
mod conv;
mod elementwise;
#[cfg(target_arch = "x86_64")]
mod flash;
mod fused;
mod heads;
mod line;
mod linear;
mod modulate;
mod norm;
mod picture;
#[cfg(target_arch = "x86_64")]
mod product;
mod softmax;
mod winograd;

pub(crate) use crate::tensor::host;
use crate::tensor::{self, DType, Device};

pub use attention::{attention, attention_in_tiles};
pub use conv::{Convolved, conv2d};
pub use distorch_cube::Activation;
pub use elementwise::{activated, add, gated_silu, geglu, gelu, gelu_tanh, quick_gelu, relu, silu};
pub use heads::{Projected, Rotation, join_activated, join_heads, join_rotated_heads};
pub use linear::{Rows, linear, linear_activated, linear_geglu, linear_plus, matmul};
pub use modulate::{add_gated, modulated_norm};
pub use norm::{channel_rms_norm, group_norm, layer_norm, rms_norm};
pub use picture::{Addend, each_pixel, join_channels, picture, tokens};

/// What products of f32 activations multiply on the CPU; they are summed in f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32 by f32. Weights in 16 bits are the same numbers in f32.
    #[default]
    F32,
    /// bf16 by bf16, where the processor has that (AVX512-BF16, AMX-BF16): both operands are rounded
    /// to the nearest. Elsewhere f32.
    Bf16,
}

impl Precision {
    /// That of computing in this dtype.
    pub fn of(dtype: DType) -> Self {
        if dtype == DType::BF16 { Precision::Bf16 } else { Precision::F32 }
    }
}

/// The dtype of activations where `dtype` is computed in: the CPU's kernels have them in f32 and only
/// multiply in 16 bits.
pub fn activation_dtype(device: &Device, dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 if tensor::is_host(device) => DType::F32,
        dtype => dtype,
    }
}

/// Whether the CPU's kernels multiply matrices as they are stored in 16 bits, without a copy in f32.
pub fn takes_16_bits() -> bool {
    #[cfg(target_arch = "x86_64")]
    let takes = product::Unit::of(Precision::F32).is_some();
    #[cfg(not(target_arch = "x86_64"))]
    let takes = false;
    takes
}

/// Inputs of the kernels' tests.
#[cfg(test)]
mod made_up {
    use super::Precision;
    use crate::tensor::{AnyTensor, DType, Tensor, TensorData, cpu};

    /// Values from -1 to 1, others for each seed.
    pub(super) fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 20_011) as f32 / 10_005.5 - 1.0).collect()
    }

    /// The same as a tensor.
    pub(super) fn tensor<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
        let values = values(shape.iter().product(), seed);
        Tensor::from_data(TensorData::new(values, shape), &cpu())
    }

    /// The nearest values in `dtype`, in f32.
    pub(super) fn rounded<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
        let x = AnyTensor::from_tensor(x.cast(DType::F32)).cast(dtype).cast(DType::F32);
        x.rank().unwrap_or_else(|| panic!("a cast keeps the shape"))
    }

    /// In which dtypes products of this precision see an operand in f32, and one that is stored in `stored`.
    pub(super) fn seen(precision: Precision, stored: DType) -> [DType; 2] {
        match precision {
            Precision::Bf16 if multiplies_bf16() => [DType::BF16; 2],
            _ => [DType::F32, stored],
        }
    }

    /// Whether products of bf16 round their operands to it here.
    pub(super) fn multiplies_bf16() -> bool {
        #[cfg(target_arch = "x86_64")]
        let there = {
            use super::product::Unit;
            !matches!(Unit::of(Precision::Bf16), None | Some(Unit::Avx512))
        };
        #[cfg(not(target_arch = "x86_64"))]
        let there = false;
        there
    }
}
