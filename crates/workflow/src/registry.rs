//! The nodes of a program, by class. A registry is a value: [`nodes::all`](crate::nodes::all) fills one with
//! the shipped nodes, and a program adds its own.
//!
//! ```
//! use distorch_allocation::{DeviceInfo, Topology};
//! use distorch_checkpoint::folders::ModelFolders;
//! use distorch_workflow::graph::Prompt;
//! use distorch_workflow::observe::Silent;
//! use distorch_workflow::signature::{Input, Node, Output};
//! use distorch_workflow::value::{Type, Value};
//! use distorch_workflow::{Environment, Executor, nodes};
//!
//! /// Text in capitals.
//! const UPPERCASE: Node = Node {
//!     class: "Uppercase",
//!     title: "Uppercase",
//!     category: "text",
//!     about: "Returns a text in capitals.",
//!     inputs: &[Input::string("text", "")],
//!     outputs: &[Output::new(Type::String)],
//!     run: |_, inputs| Ok(vec![Value::String(inputs.text("text")?.to_uppercase().into())]),
//!     ..Node::EMPTY
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = nodes::all().with(UPPERCASE);
//! let prompt = r#"{
//!     "1": {"class_type": "PrimitiveString", "inputs": {"value": "a red circle"}},
//!     "2": {"class_type": "Uppercase", "inputs": {"text": ["1", 0]}}
//! }"#;
//! let prompt = Prompt::from_json(prompt, &registry)?;
//! # let folder = tempfile::tempdir()?;
//! # let cpu = DeviceInfo::new("cpu".parse()?, "", 1 << 30);
//! # let environment =
//! #     Environment::on(ModelFolders::new(folder.path(), &[])?, Topology::new(vec![cpu])?);
//! let mut executor = Executor::new(environment, registry);
//! let report = executor.run_nodes(&prompt, &["2"], &Silent)?;
//! assert!(matches!(&report.values["2"][0], Value::String(text) if &**text == "A RED CIRCLE"));
//! # Ok(())
//! # }
//! ```

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::context::Context;
use crate::inputs::{Inputs, NodeError};
use crate::signature::Node;
use crate::value::Value;

/// What a node does, where that needs more than its inputs and the run: a closure with state.
pub type Work =
    dyn Fn(&mut Context<'_>, &Inputs) -> Result<Vec<Value>, NodeError> + Send + Sync + 'static;

/// A class of nodes that a registry has not, and who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absent {
    /// Which classes.
    pub classes: Classes,
    /// Who has them, and what to use here instead, in words: `ComfyUI (ControlNet)`.
    pub provider: &'static str,
}

/// One class or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classes {
    /// The class of this name.
    Named(&'static str),
    /// Those with this in their names: the mark of a pack.
    Containing(&'static str),
}

/// Nodes by class, in the order in which menus list them.
#[derive(Clone, Default)]
pub struct Registry {
    nodes: IndexMap<&'static str, Node>,
    work: HashMap<&'static str, Arc<Work>>,
    absent: Vec<Absent>,
}

impl Registry {
    /// A registry of these nodes.
    pub fn of(nodes: impl IntoIterator<Item = impl Borrow<Node>>) -> Self {
        nodes.into_iter().fold(Self::default(), Self::with)
    }

    /// The same with one node more. It takes the place of one of the same class.
    #[must_use]
    pub fn with(mut self, node: impl Borrow<Node>) -> Self {
        let node = *node.borrow();
        self.work.remove(node.class);
        self.nodes.insert(node.class, node);
        self
    }

    /// The same with one node more, which does this instead of its [`run`](Node::run): a closure may have
    /// state, such as a connection or a counter.
    #[must_use]
    pub fn with_work(
        self,
        node: impl Borrow<Node>,
        work: impl Fn(&mut Context<'_>, &Inputs) -> Result<Vec<Value>, NodeError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let class = node.borrow().class;
        let mut registry = self.with(node);
        registry.work.insert(class, Arc::new(work));
        registry
    }

    /// The same, which knows of classes that others have. Names count before marks, and those before in the
    /// list.
    #[must_use]
    pub fn with_absent(mut self, absent: impl IntoIterator<Item = Absent>) -> Self {
        self.absent.extend(absent);
        self
    }

    /// All nodes, in order.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values()
    }

    /// The node of a class.
    pub fn find(&self, class: &str) -> Option<&Node> {
        self.nodes.get(class)
    }

    /// A class's name as the registry has it: without the blanks around that ComfyUI once wrote.
    pub fn canonical<'a>(&self, class: &'a str) -> &'a str {
        let trimmed = class.trim();
        if self.find(class).is_none() && self.find(trimmed).is_some() { trimmed } else { class }
    }

    /// Who has a class that is absent here, where that is known.
    pub fn provided_by(&self, class: &str) -> Option<&'static str> {
        let provider = |is_meant: fn(Classes, &str) -> bool| {
            let mut absent = self.absent.iter();
            absent.find(|absent| is_meant(absent.classes, class)).map(|absent| absent.provider)
        };
        let named = |classes: Classes, class: &str| matches!(classes, Classes::Named(name) if name == class);
        let marked = |classes: Classes, class: &str| matches!(classes, Classes::Containing(mark) if class.contains(mark));
        provider(named).or_else(|| provider(marked))
    }

    /// The class whose name is closest to one that is not there, if one is close.
    pub fn closest_match(&self, class: &str) -> Option<&'static str> {
        let likeness = |name: &str| strsim::jaro_winkler(class, name);
        let names = self.nodes.keys().copied();
        let closest = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
        (likeness(closest) > 0.85).then_some(closest)
    }

    /// Does a node's work.
    ///
    /// # Errors
    /// When the node fails.
    pub(crate) fn run(
        &self,
        node: &Node,
        context: &mut Context<'_>,
        inputs: &Inputs,
    ) -> Result<Vec<Value>, NodeError> {
        match self.work.get(node.class) {
            Some(work) => work(context, inputs),
            None => (node.run)(context, inputs),
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.nodes.keys()).finish()
    }
}
