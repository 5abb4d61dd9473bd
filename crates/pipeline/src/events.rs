//! What a run reports while it goes on. Events are owned, so that they can be sent, kept and serialised.

use std::fmt;

use distorch_allocation::Plan;
use distorch_runtime::machine::Remedy;
use serde::Serialize;

use crate::models::tasks::Tasks;
use crate::preview::Preview;

/// Tells the runs of a process apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RunId(pub(crate) u64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {}", self.0)
    }
}

/// What a run is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Opening and planning the model file.
    Load,
    /// Encoding prompts, and pictures to start from.
    Encode,
    /// Going from noise to a latent.
    Sample,
    /// Going from latents to pictures.
    Decode,
}

/// Something that happened in a run.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run goes on to this.
    Phase {
        /// What.
        phase: Phase,
    },
    /// A model is about to be loaded: what goes where.
    Planned {
        /// The model's name.
        model: String,
        /// What it is loaded for.
        #[serde(skip)]
        tasks: Tasks,
        /// One plan for each component.
        plans: Vec<Plan>,
    },
    /// Weights are being loaded.
    Loading {
        /// The model and its component.
        what: String,
        /// Stored bytes loaded so far.
        done: u64,
        /// All stored bytes.
        total: u64,
    },
    /// The work has come one step further.
    Step {
        /// Steps done.
        done: usize,
        /// All steps, where that is known before the end.
        total: Option<usize>,
        /// The picture as it is now, where the work samples and previews are wanted.
        #[serde(skip_serializing_if = "Option::is_none")]
        preview: Option<Preview>,
    },
    /// A device ran out of memory, and the work goes on with another allocation.
    Adopted {
        /// What was lacking.
        shortage: String,
        /// The allocation.
        remedy: Remedy,
    },
    /// Something that the user should know.
    Warning {
        /// What.
        text: String,
    },
}

/// An event with its run, as one value: to be sent, kept, or serialised.
///
/// In JSON: `{"run": 1, "event": "step", "done": 3, "total": 20}`.
#[derive(Clone, Debug, Serialize)]
pub struct RunEvent {
    /// The run.
    pub run: RunId,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Who is told of events. Called from the thread that computes: be quick.
pub trait EventSink: Sync {
    /// Something happened in a run.
    fn event(&self, run: RunId, event: Event);

    /// Whether the step that is being done is to carry a preview, which costs a small product: asked at each.
    fn wants_previews(&self) -> bool {
        false
    }

    /// Whether the previews of a run that begins are to come from a tiny decoder in `models/vae_approx`, which costs a forward
    /// pass each, where there is one for the model's latents. Where nobody would see them, it is false.
    fn wants_decoded_previews(&self) -> bool {
        false
    }
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl EventSink for Silent {
    fn event(&self, _: RunId, _: Event) {}
}

impl<F: Fn(RunId, Event) + Sync> EventSink for F {
    fn event(&self, run: RunId, event: Event) {
        self(run, event);
    }
}
