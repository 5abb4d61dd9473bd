//! ComfyUI workflows: from the JSON that ComfyUI exports to pictures.
//!
//! | module | holds |
//! | --- | --- |
//! | [`value`] | what goes from node to node |
//! | [`graph`], [`observe`] | a prompt: nodes and what their inputs come from; who is told of a run |
//! | [`environment`] | what a run is given from outside |
//! | [`context`], [`preflight`], [`forecast`] | what a node sees of its run: in it, before it, ahead of it |
//! | [`signature`] | what a node is |
//! | [`registry`], [`describe`] | the nodes of a program, by class, and as clients read them |
//! | [`files`], [`nodes`] | the names of files that are read and written; the shipped nodes, one table |
//! | [`json_text`], [`read`], [`amend`] | the text of a workflow file; what it says; overrides and defaults |
//! | [`validate`] | everything that is wrong with a prompt, before anything runs |
//! | [`cache`], [`execute`] | running what the outputs need, and nothing twice |
//!
//! Each knows only those above it. A program adds nodes of its own to a [`Registry`].
//!
//! Models, sampling and images are those of [`distorch_pipeline`].
//!
//! ```no_run
//! # use distorch_workflow::{Environment, Executor, graph::Prompt, nodes, observe::Silent};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let environment = Environment::new(".".as_ref())?;
//! let registry = nodes::all();
//! let prompt = Prompt::from_json(&std::fs::read_to_string("workflow.json")?, &registry)?;
//! let mut executor = Executor::new(environment, registry);
//! let report = executor.run(&prompt, &Silent)?;
//! println!("{:?}", report.outputs);
//! # Ok(())
//! # }
//! ```

pub mod amend;
pub mod cache;
pub mod context;
pub mod describe;
mod editor;
pub mod environment;
pub mod execute;
pub mod files;
pub mod forecast;
pub mod graph;
mod inputs;
pub mod json_text;
mod lists;
mod look_ahead;
pub mod nodes;
pub mod observe;
pub mod preflight;
pub mod read;
pub mod registry;
pub mod remedy;
mod schedule;
pub mod signature;
pub mod validate;
pub mod value;

pub use environment::Environment;
pub use execute::{ExecutionError, Executor};
pub use inputs::{Inputs, NodeError};
pub use registry::Registry;

/// The examples of the README, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
