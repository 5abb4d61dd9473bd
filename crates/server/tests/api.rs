//! The server as its clients meet it: over its port, with the shipped checkpoint.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "api/server.rs"]
mod server;

#[path = "api/files.rs"]
mod files;
#[path = "api/hostile.rs"]
mod hostile;
#[path = "api/openai.rs"]
mod openai;
#[path = "api/prompts.rs"]
mod prompts;
#[path = "api/safety.rs"]
mod safety;
#[path = "api/socket.rs"]
mod socket;
