//! The queue on both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour;
mod crash;
mod model;
mod notices;
mod postgres;
mod support;
