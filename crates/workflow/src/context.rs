//! What a node sees of the run that it is in.

use distorch_pipeline::Run;
use distorch_pipeline::events::{Event as RunEvent, EventSink, RunId};
use distorch_pipeline::models::Tasks;
use serde_json::{Value as Json, json};

use crate::environment::Environment;
use crate::graph::Prompt;
use crate::observe::{Event, Observer};
use crate::remedy;

/// What a node sees of the run that it is in.
pub struct Context<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) run: Run<'a>,
    pub(crate) prompt: &'a Prompt,
    pub(crate) tasks: Tasks,
    pub(crate) node: &'a str,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) ui: Option<Json>,
}

impl<'a> Context<'a> {
    /// What the run is given.
    pub fn environment(&self) -> &'a Environment {
        self.environment
    }

    /// The pipeline's run, which reports as this node.
    pub fn run(&self) -> &Run<'a> {
        &self.run
    }

    /// What is run.
    pub fn prompt(&self) -> &'a Prompt {
        self.prompt
    }

    /// The node's id.
    pub fn node(&self) -> &'a str {
        self.node
    }

    /// What the run asks of what the node loads.
    pub fn tasks(&self) -> Tasks {
        self.tasks
    }

    /// Tells something about the run.
    pub fn tell(&self, event: Event<'_>) {
        self.observer.event(event);
    }

    /// Tells something that the user should know.
    pub fn warn(&self, text: &str) {
        self.run.warn(text);
    }

    /// Shows pictures or text, as ComfyUI's clients read it: adds to the list `kind`.
    pub fn show(&mut self, kind: &str, items: Vec<Json>) {
        let ui = self.ui.get_or_insert_with(|| json!({}));
        let Some(ui) = ui.as_object_mut() else { return };
        match ui.entry(kind).or_insert_with(|| json!([])) {
            Json::Array(list) => list.extend(items),
            other => *other = Json::Array(items),
        }
    }
}

/// Tells an observer the pipeline's events as those of a node.
pub(crate) struct NodeEvents<'a> {
    pub(crate) node: &'a str,
    pub(crate) observer: &'a dyn Observer,
}

impl EventSink for NodeEvents<'_> {
    fn event(&self, _: RunId, event: RunEvent) {
        let node = self.node;
        match &event {
            RunEvent::Phase { .. } => {}
            RunEvent::Planned { model, tasks, plans } => {
                self.observer.event(Event::Planned { node, model, tasks, plans });
            }
            RunEvent::Loading { what, done, total } => {
                self.observer.event(Event::Loading { node, what, done: *done, total: *total });
            }
            RunEvent::Step { done, total, preview } => {
                let preview = preview.as_ref();
                self.observer.event(Event::Step { node, done: *done, total: *total, preview });
            }
            RunEvent::Adopted { shortage, remedy } => {
                let setting = remedy::setting(remedy).unwrap_or_else(|| remedy.to_string());
                let text = &format!("{shortage}; going on with {setting}");
                self.observer.event(Event::Warning { node, text });
            }
            RunEvent::Warning { text } => self.observer.event(Event::Warning { node, text }),
        }
    }

    fn wants_previews(&self) -> bool {
        self.observer.wants_previews()
    }

    fn wants_decoded_previews(&self) -> bool {
        self.observer.wants_decoded_previews()
    }
}
