//! Forward passes.
//!
//! A model is a tree of layers built once from a [`Scope`](distorch_runtime::Scope), which gives
//! each layer a handle on its weights. A layer fetches them in its forward pass, just when it uses
//! them, and drops them after: where they live is not known here.
//!
//! [`layers`] holds what all models are made of, [`attention`] the one operator between tokens.

mod error;

pub mod attention;
pub mod chroma;
pub mod clip;
pub mod clip_text;
pub mod conditioning;
mod cost;
pub mod decoder;
mod decoder_text;
mod description_chat;
pub mod estimate;
pub mod family;
pub mod flux;
pub mod flux2;
pub mod freeu;
pub mod krea2;
pub mod latent_format;
mod latent_tables;
pub mod layers;
pub mod lumina2;
pub mod network;
pub mod next_dit;
pub mod prompt;
pub mod qwen_image;
pub mod qwen_image21;
pub mod resample;
mod rope;
pub mod sd3;
pub mod t5;
mod t5_text;
pub mod text;
pub mod timestep;
pub mod tiny_vae;
mod token_table;
pub mod unet;
pub mod upscaler;
pub mod vae;
mod vae_causal;
mod vae_packing;
mod vae_residual;
pub mod vae_tiled;
pub mod vision;
mod weighted;
pub mod z_image;

pub use error::ModelError;

/// The examples of the README, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
