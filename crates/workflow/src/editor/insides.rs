//! What nodes that stand for a graph have inside.

use std::collections::{BTreeSet, HashMap};

use super::file::Graph;

/// What nodes of a class have inside.
#[derive(Default)]
pub(super) struct Inside {
    pub(super) graph: Graph,
    /// The names of what comes in, by the slot that links inside come from.
    pub(super) inputs: Vec<String>,
    /// The slots that lead to a widget inside: nodes of the class show these widgets, in this order.
    pub(super) shown: BTreeSet<usize>,
    /// The widgets of a group node, in the order of their values.
    pub(super) widgets: Option<Vec<GroupWidget>>,
}

impl Inside {
    pub(super) fn new(
        graph: Graph,
        inputs: Vec<String>,
        widgets: Option<Vec<GroupWidget>>,
    ) -> Self {
        Self { graph, inputs, shown: BTreeSet::new(), widgets }
    }
}

/// A widget of a group node, which stands for one inside.
pub(super) struct GroupWidget {
    /// What the group node calls it.
    pub(super) name: String,
    /// The node inside.
    pub(super) node: String,
    /// The input of that node.
    pub(super) input: String,
    /// Whether a widget that changes it after each run may stand behind.
    pub(super) has_control: bool,
}

/// What there is inside, by class.
pub(super) type Insides = HashMap<String, Inside>;
