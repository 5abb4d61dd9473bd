//! What a node looks at before the first node of a run is run: what would be a pity to learn after
//! the last step, such as an output folder that nothing can be written to.

use crate::environment::Environment;
use crate::graph::{Given, Prompt};
use crate::inputs::Inputs;
use crate::signature::Node;
use crate::validate::class_of;

/// What a node sees of a run that has not begun.
///
/// Validation asks every node that a sound output needs, so that there all links lead to nodes of
/// known classes and none in a circle. What is wrong is reported as validation's other problems are.
pub struct Preflight<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) prompt: &'a Prompt,
    pub(crate) node: &'a str,
    pub(crate) inputs: &'a Inputs,
}

/// Returns what would go wrong, in words, with the way out.
pub type PreflightCheck = fn(&Preflight<'_>) -> Result<(), String>;

/// The node and the slot that an input is linked to.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The node's id.
    pub node: &'a str,
    /// Its class.
    pub class: &'static Node,
    /// Its output slot.
    pub slot: usize,
}

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

    /// What an input of the node is linked to; `None` where it is not.
    pub fn source(&self, input: &str) -> Option<Source<'a>> {
        self.source_of(self.node, input)
    }

    /// What an input of any node is linked to: to follow links back.
    pub fn source_of(&self, node: &str, input: &str) -> Option<Source<'a>> {
        match self.prompt.nodes.get(node)?.inputs.get(input)? {
            Given::Link { node, slot } => {
                let class = class_of(self.prompt.nodes.get(node)?)?;
                Some(Source { node, class, slot: *slot })
            }
            Given::Literal(_) => None,
        }
    }

    /// The inputs of another node that are written in the prompt.
    pub fn inputs_of(&self, node: &str) -> Inputs {
        let node = self.prompt.nodes.get(node);
        let class = node.and_then(|node| Some((node, class_of(node)?)));
        class.map_or_else(Inputs::default, |(node, class)| {
            crate::validate::literals(node, class, self.environment)
        })
    }
}
