//! ComfyUI's interface over HTTP and WebSocket, over distorch's workflows.
//!
//! | module | holds |
//! | --- | --- |
//! | [`config`] | what a server is started with: address, limits, who may come in |
//! | [`error`] | what is answered where something is wrong |
//! | [`execution`] | prompts that run: who is told, and what is kept of them |
//! | `lingering` | bodies that are read to their end, so that a refusal is heard |
//! | [`logs`] | the last lines of the log, for clients |
//! | [`outputs`] | results in an object store, for machines without a common folder |
//! | [`socket`] | the clients of `/ws`, and the messages to them |
//! | [`state`] | what the routes share |
//! | [`request`] | reading bodies and queries, with errors as JSON |
//! | [`live_plan`] | where the layers of a checkpoint would go, for a form that changes |
//! | [`summary`] | how a picture was made, in a few words |
//! | [`web`] | what browsers are shown: the page of our own, or ComfyUI's frontend |
//! | [`routes`] | one file a topic; each route with and without `/api` |
//! | [`safety`] | hosts, origins, tokens, and names of files that stay in their folders |
//! | [`serve`] | listening, TLS, ending |

pub mod config;
pub mod error;
pub mod execution;
mod lingering;
pub mod live_plan;
pub mod logs;
mod node_texts;
pub mod outputs;
pub mod request;
pub mod routes;
pub mod safety;
pub mod serve;
pub mod socket;
pub mod state;
pub mod summary;
pub mod web;

pub use config::Config;
pub use error::ApiError;
pub use serve::Server;
pub use state::AppState;

/// The examples of the README, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
