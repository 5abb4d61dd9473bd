//! The operators that a diffusion model spends its time in on accelerators: kernels of CubeCL's, chosen here, and some of
//! our own.
//!
//! Burn's own operators try out every kernel that they have for each new size, up to 27 for a product, and compile
//! each before: on CUDA, minutes of NVRTC before the first picture. Here a size has at most three, the best that there
//! is for it by their authors' account. And what is computed does not depend on which of them is the fastest:
//!
//! - products of f32 are sums of f32 products, without TF32;
//! - products and convolutions in 16 bits are summed in f32. Burn's direct convolution sums in its dtype;
//! - norms and softmax are computed in f32, always in the same order, a row by one kernel. Burn makes them of reductions,
//!   which are by one thread for a row where it does not try out others;
//! - sums, gates, activations and rotations are computed in f32 and rounded once, each by one kernel. Burn can fuse its
//!   own operators for single values into one kernel, but which are fused, and so how often they are rounded, depends on
//!   what is done between them: a layer that is brought from elsewhere could change the picture.
//!
//! Pictures have their channels last in memory, as convolutions read them: norms and convolutions leave them so.
//!
//! Each runs on whatever runtime of CubeCL. In a build without accelerators, and for tensors on the CPU, each gives its
//! operands back.

// The operands are what an error is.
#![allow(clippy::result_large_err)]

#[cfg(not(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal")))]
mod absent;
#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
mod device;
pub mod kind;
#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
mod operators;

#[cfg(not(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal")))]
use absent::{self as device, self as operators};
pub use device::{bytes_in_use, clean_up, flush};
pub use operators::{
    activated, activated_sum, channel_rms_norm, channels_last, conv2d, flash_attention, flash_tile,
    gated, gated_sum, gated_sums, group_norm, layer_norm, matmul, rms_norm, rotated, softmax, sum,
};

/// A function of single values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · Φ(x)`.
    Gelu,
    /// `x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
    GeluTanh,
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
}

/// A floating-point tensor of rank `D` on any device.
pub type Tensor<const D: usize> = burn::tensor::Tensor<burn::Dispatch, D>;

/// The examples of the README, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
