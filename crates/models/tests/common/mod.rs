//! What the tests of this crate share.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // each test file uses its own part

pub mod allocations;
pub mod clip_case;
pub mod fixture;
pub mod flux_case;
pub mod mmdit_case;
pub mod recording;
pub mod seeded;
pub mod text_case;
pub mod unet_case;

pub use distorch_test_support::tensors::{max_error, values};
