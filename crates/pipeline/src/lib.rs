//! From a prompt to a picture: what a program needs to make pictures with diffusion models whose weights do not have
//! to fit on one device.
//!
//! ```
//! use distorch_pipeline::{Session, TextToImage};
//!
//! # std::env::set_current_dir("../..")?;
//! // The folder that holds `models/`, as ComfyUI's does.
//! let session = Session::new(".".as_ref())?;
//! let request = TextToImage {
//!     steps: 4,
//! #   width: Some(64),
//! #   height: Some(64),
//!     ..TextToImage::new("tiny-shapes.safetensors", "a red circle on a white background")
//! };
//! let made = session.text_to_image(request)?.run()?;
//! let [count, height, width, channels] = made.pictures.shape();
//! # assert_eq!([count, height, width, channels], [1, 64, 64, 3]);
//! # let folder = tempfile::tempdir()?;
//! # std::env::set_current_dir(&folder)?;
//! made.pictures.save_png(0, "circle.png".as_ref(), &[])?;
//! # assert!(folder.path().join("circle.png").is_file());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Generation`] can be cancelled from another thread and reports how it goes on:
//!
//! ```no_run
//! use distorch_pipeline::{Event, Phase, RunId, Session, TextToImage};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let session = Session::new(".".as_ref())?;
//! let generation = session.text_to_image(TextToImage::new("mine.safetensors", "a fox"))?;
//! let cancel = generation.cancel_token();
//! // … hand `cancel` to whoever stops it: `cancel.cancel()`.
//! let made = generation.run_with(&|run: RunId, event: Event| match event {
//!     Event::Phase { phase: Phase::Sample } => println!("{run}: sampling"),
//!     Event::Step { done, total: Some(total), .. } => println!("{run}: {done} of {total}"),
//!     _ => {}
//! })?;
//! # drop(made);
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`session`] | what runs share: devices, folders, models that stay loaded |
//! | [`request`] | what is asked for: a picture from a prompt, or from a picture |
//! | [`device_set`] | the devices that a run has to itself |
//! | [`run`], [`events`], [`preview`] | one run: cancelling it, hearing how it goes on |
//! | [`steps`] | load, encode, sample, decode: for those who put them together themselves |
//! | [`models`] | model files that are open, their plans and weights |
//! | [`diffusion`] | a run of a sampler: model, conditioning, latent |
//! | [`image`] | pictures and masks in memory, and as files |
//! | [`latent`], [`finite`], [`error`] | what goes between these, and what goes wrong |

pub mod device_set;
pub mod diffusion;
pub mod error;
pub mod events;
pub mod finite;
pub mod image;
pub mod latent;
pub mod models;
pub mod preview;
mod preview_decoder;
pub mod request;
pub mod run;
pub mod session;
pub mod steps;

pub use device_set::DeviceSet;
pub use diffusion::conditioning::Guidance;
pub use error::PipelineError;
pub use events::{Event, EventSink, Phase, RunEvent, RunId, Silent};
pub use latent::Latent;
pub use request::{Generated, Generation, ImageToImage, Lora, TextToImage};
pub use run::{CancelToken, Run};
pub use session::Session;

/// The examples of the README, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
