//! Requests: a picture from a prompt, or from a prompt and a picture, as plain data.
//!
//! A request says what is wanted; [`Session::text_to_image`] and [`Session::image_to_image`] check all of it that can
//! be known before the first step and return a [`Generation`], which computes it.
//!
//! [`Session::text_to_image`]: crate::Session::text_to_image
//! [`Session::image_to_image`]: crate::Session::image_to_image

mod check;
mod generation;
mod kinds;
mod picture;
mod placement;
mod source;

pub use generation::{Generated, Generation};
pub use kinds::{ImageToImage, Lora, TextToImage};
pub use placement::{ComponentPlacement, Placement, PlacementError};
pub use source::ModelSource;
