//! ComfyUI workflows: from the JSON that ComfyUI exports to pictures.
//!
//! | module | holds |
//! | --- | --- |
//! | [`json_text`] | the text of a workflow file |
//! | [`graph`] | a prompt: nodes and what their inputs come from |
//! | [`signature`], [`nodes`] | what a node is; every node of this program, one table |
//! | [`validate`], [`preflight`] | everything that is wrong with a prompt, before anything runs |
//! | [`forecast`] | what is known of a run before it: files, sizes, what models have to do |
//! | [`execute`], [`cache`] | running what the outputs need, and nothing twice |
//! | [`value`] | what goes from node to node |
//! | [`files`] | the names of files that are read and written |
//! | [`environment`], [`observe`] | what a run is given from outside, and whom it tells |
//!
//! Models, sampling and images are those of [`distorch_pipeline`].
//!
//! ```no_run
//! # use distorch_workflow::{Environment, Executor, graph::Prompt, observe::Silent};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let environment = Environment::new(".".as_ref())?;
//! let prompt = Prompt::from_json(&std::fs::read_to_string("workflow.json")?)?;
//! let mut executor = Executor::new(environment);
//! let report = executor.run(&prompt, &Silent)?;
//! println!("{:?}", report.outputs);
//! # Ok(())
//! # }
//! ```

pub mod cache;
pub mod context;
mod editor;
pub mod environment;
pub mod execute;
pub mod files;
pub mod forecast;
pub mod graph;
mod inputs;
pub mod json_text;
pub mod nodes;
pub mod observe;
pub mod preflight;
pub mod signature;
pub mod validate;
pub mod value;

pub use environment::Environment;
pub use execute::{ExecutionError, Executor};
pub use inputs::{Inputs, NodeError};
