//! A sampler with its numbers.

use distorch_sampling::sampler::{Options, Sampler};

/// A sampler with its numbers.
#[derive(Clone, Copy, Debug)]
pub struct SamplerChoice {
    /// The sampler.
    pub sampler: Sampler,
    /// Its numbers.
    pub options: Options,
}
