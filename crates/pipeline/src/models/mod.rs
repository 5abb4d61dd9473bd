//! Checkpoints that are open, their plans and their weights.
//!
//! A [`ModelFile`] is a mapped file that has been recognised. A [`Part`] is one of its components
//! with a plan; its weights are loaded when they are first needed, and may be dropped and loaded
//! again. [`Model`], [`Clip`] and [`Vae`] are what nodes hand on: a part and how it is to be used.
//! The [`ModelStore`] knows what is there, and makes room.

mod clip;
mod clip_type;
mod file;
mod fit;
mod model;
pub(crate) mod part;
mod pinning;
pub mod planning;
mod retry;
mod shortage;
mod state;
pub(crate) mod store;
pub(crate) mod tasks;
mod upscaler;
mod vae;

pub use clip::Clip;
pub use clip_type::ClipType;
pub use file::{ModelFile, native};
pub use fit::CannotFit;
pub use model::{Model, ModelOptions, trained_sampling};
pub use part::{Part, PartError, PartOptions, in_words};
pub use pinning::{Pin, Pinning};
pub use shortage::shortage_in;
pub use store::{Loader, ModelStore, Parts};
pub use tasks::{Task, Tasks, size_in_words};
pub use upscaler::Upscaler;
pub use vae::{TinyFormat, Vae};
