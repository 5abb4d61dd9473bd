//! Who is told how a run goes on.

use distorch_allocation::{Plan, Topology};
use distorch_pipeline::preview::Preview;

use crate::graph::Prompt;
use distorch_pipeline::models::Tasks;

/// Something that happened in a run.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The run begins.
    Started {
        /// What is run.
        prompt: &'a Prompt,
    },
    /// These nodes' results are there from an earlier run.
    Cached {
        /// Their ids.
        nodes: &'a [String],
    },
    /// A node begins.
    Node {
        /// Its id.
        node: &'a str,
        /// Its class.
        class: &'a str,
    },
    /// A node has come to its end.
    Done {
        /// Its id.
        node: &'a str,
        /// What it has to show, as ComfyUI's clients read it: `{"images": […]}`.
        ui: Option<&'a serde_json::Value>,
    },
    /// A model is about to be loaded: what goes where.
    Planned {
        /// The node that loads it.
        node: &'a str,
        /// The model's name.
        model: &'a str,
        /// What it is loaded for.
        tasks: &'a Tasks,
        /// One plan for each component.
        plans: &'a [Plan],
    },
    /// All models of a run that was only looked at, as they were planned.
    Overview {
        /// Each with its name and the node that loads it, in the order in which they are used.
        models: &'a [PlannedModel],
        /// The devices.
        topology: &'a Topology,
    },
    /// Weights are being loaded.
    Loading {
        /// The node that needs them.
        node: &'a str,
        /// The model and its component.
        what: &'a str,
        /// Stored bytes loaded so far.
        done: u64,
        /// All stored bytes.
        total: u64,
    },
    /// A node has come one step further.
    Step {
        /// Its id.
        node: &'a str,
        /// Steps done.
        done: usize,
        /// All steps, where that is known before the end.
        total: Option<usize>,
        /// The picture as it is now, where the node samples and previews are wanted.
        preview: Option<&'a Preview>,
    },
    /// Something that the user should know.
    Warning {
        /// The node.
        node: &'a str,
        /// What.
        text: &'a str,
    },
}

/// The models of a loader, as they were planned.
#[derive(Clone, Debug)]
pub struct PlannedModel {
    /// The node that loads them.
    pub node: String,
    /// Their name.
    pub model: String,
    /// One plan for each component.
    pub plans: Vec<Plan>,
    /// The nodes that use them, in order: what they have there is needed from the first to the last of these.
    pub used_by: Vec<String>,
}

/// Who is told. Called from the thread that computes: be quick.
pub trait Observer: Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);

    /// Whether the step that is being done is to carry a preview: asked at each.
    fn wants_previews(&self) -> bool {
        false
    }

    /// Whether the previews of a sampler that begins are to come from a tiny decoder in `models/vae_approx`, where there is
    /// one, and somebody would see them.
    fn wants_decoded_previews(&self) -> bool {
        false
    }
}

/// Nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event<'_>) {}
}
