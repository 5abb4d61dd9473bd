//! From a prompt to a picture: what a program needs to make pictures with diffusion models.
//!
//! | module | holds |
//! | --- | --- |
//! | [`session`] | what runs share: devices, folders, models that stay loaded |
//! | [`run`], [`events`], [`preview`] | one request: cancelling it, hearing how it goes on |
//! | [`models`] | model files that are open, their plans and weights |
//! | [`diffusion`] | a run of a sampler: model, conditioning, latent |
//! | [`image`] | pictures and masks in memory, and as files |
//! | [`latent`], [`finite`], [`error`] | what goes between these, and what goes wrong |

pub mod diffusion;
pub mod error;
pub mod events;
pub mod finite;
pub mod image;
pub mod latent;
pub mod models;
pub mod preview;
pub mod run;
pub mod session;

pub use error::PipelineError;
pub use events::{Event, EventSink, Phase, RunId, Silent};
pub use latent::Latent;
pub use run::{CancelToken, Run};
pub use session::Session;
