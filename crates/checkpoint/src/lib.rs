//! Finding, opening, recognising and splitting diffusion checkpoints.
//!
//! The way of the data: [`folders`] turns a name into a path, [`file`](mod@file) opens the path as memory-mapped
//! tensor views without running or trusting anything in it, and [`family`] recognises what the
//! tensors are and splits them into a diffusion model, text encoders and a VAE whose
//! layers carry canonical names, in definition order. [`lora`] says what a LoRA file changes in them.
//!
//! This crate knows neither devices nor Burn.

pub mod cast;
pub mod config;
pub mod decode;
pub mod dtype;
pub mod encoding;
pub mod family;
pub mod file;
pub mod folders;
pub mod layer;
pub mod lora;
pub mod source;

pub use dtype::Dtype;
pub use encoding::{Companion, Encoding};
pub use file::{Checkpoint, OpenError, TensorInfo, View};
pub use layer::{Component, ComponentKind, Layer, LayerKind, Param};

/// The examples of the README, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
