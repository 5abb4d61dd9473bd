//! What a node looks at before the first node of a run is run: what would be a pity to learn after
//! the last step, such as an output folder that nothing can be written to.

use crate::environment::Environment;
use crate::graph::Prompt;
use crate::inputs::Inputs;

/// What a node sees of a run that has not begun.
///
/// Validation asks every node that a sound output needs, so that all links there lead to nodes of
/// known classes and none in a circle. What is wrong is reported as validation's other problems are.
pub struct Preflight<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) prompt: &'a Prompt,
    pub(crate) node: &'a str,
    pub(crate) inputs: &'a Inputs,
}

/// Returns what would go wrong, in words, with the way out.
pub type PreflightCheck = fn(&Preflight<'_>) -> Result<(), String>;

impl<'a> Preflight<'a> {
    /// What the run is given.
    pub fn environment(&self) -> &'a Environment {
        self.environment
    }

    /// What is to be run.
    pub fn prompt(&self) -> &'a Prompt {
        self.prompt
    }

    /// The node's id.
    pub fn node(&self) -> &'a str {
        self.node
    }

    /// The inputs that are written in the prompt. Those that other nodes give are not among them.
    pub fn inputs(&self) -> &'a Inputs {
        self.inputs
    }
}
