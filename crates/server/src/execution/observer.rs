//! What clients are told of a prompt that runs, in ComfyUI's messages.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use distorch_pipeline::image::png_file::Picture8;
use distorch_pipeline::preview::Preview as Pixels;
use distorch_workflow::observe::{Event, Observer};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use super::running::Running;
use crate::socket::{Audience, Clients, Message, PictureFormat, Preview, To};

/// The least time from one preview to the next.
const BETWEEN_PREVIEWS: Duration = Duration::from_millis(250);

/// After a preview, this many times what it took passes without one: a tiny decoder may take longer than a step.
const REST: u32 = 9;

/// The least time between two messages about weights that are loaded.
const BETWEEN_LOADING: Duration = Duration::from_millis(100);

/// Tells clients of one prompt, and keeps what its history says.
pub(super) struct PromptObserver {
    prompt: Uuid,
    client: Option<String>,
    clients: Clients,
    running: Running,
    previews: Audience,
    /// Whether a tiny decoder makes them.
    decoded: bool,
    /// What is told beside the clients of this process.
    relay: Option<UnboundedSender<Relayed>>,
    /// Whether what nodes show is told when they are done, or by the worker once it is stored.
    tells_outputs: bool,
    state: Mutex<State>,
}

/// A message for clients of other processes.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Relayed {
    /// The client; all where there is none.
    pub to: Option<String>,
    /// Its type.
    pub kind: String,
    /// Its data.
    pub data: Value,
}

#[derive(Default)]
struct State {
    nodes: IndexMap<String, NodeState>,
    messages: Vec<Value>,
    cached: Vec<String>,
    /// When a preview was last asked for.
    preview_asked: Option<Instant>,
    /// When the next preview is due; at once where there was none.
    preview_due: Option<Instant>,
    loading: Option<Instant>,
}

struct NodeState {
    value: f64,
    max: f64,
    state: &'static str,
    activity: Option<&'static str>,
}

impl PromptObserver {
    pub fn new(
        prompt: Uuid,
        client: Option<String>,
        clients: Clients,
        running: Running,
        previews: Audience,
        relay: Option<UnboundedSender<Relayed>>,
    ) -> Self {
        let (decoded, tells_outputs, state) = (false, true, Mutex::default());
        Self { prompt, client, clients, running, previews, decoded, relay, tells_outputs, state }
    }

    /// The same, with previews by a tiny decoder or not.
    pub fn with_decoded_previews(self, decoded: bool) -> Self {
        Self { decoded, ..self }
    }

    /// The same; what nodes show is told by the worker, once it is stored.
    pub fn without_outputs(self) -> Self {
        Self { tells_outputs: false, ..self }
    }

    /// Tells the prompt's client something that its history keeps.
    pub fn tell_and_keep(&self, kind: &str, mut data: Map<String, Value>) {
        let data = self.keep(kind, &mut data);
        self.tell(kind, data);
    }

    /// Keeps something for the history, and returns its data as it is told.
    pub fn keep(&self, kind: &str, data: &mut Map<String, Value>) -> Value {
        data.insert("prompt_id".to_owned(), json!(self.prompt));
        data.insert("timestamp".to_owned(), json!(milliseconds()));
        let data = Value::Object(std::mem::take(data));
        self.state().messages.push(json!([kind, data]));
        data
    }

    /// Tells the prompt's client something; everybody where it has none.
    pub fn tell(&self, kind: &str, data: Value) {
        self.clients.send_json(self.to(), kind, &data);
        if let Some(relay) = &self.relay {
            let to = self.client.clone();
            // Without a reader there is nobody to tell.
            drop(relay.send(Relayed { to, kind: kind.to_owned(), data }));
        }
    }

    /// Tells everybody something.
    pub fn tell_all(&self, kind: &str, data: Value) {
        self.clients.send_json(To::All, kind, &data);
        if let Some(relay) = &self.relay {
            // Without a reader there is nobody to tell.
            drop(relay.send(Relayed { to: None, kind: kind.to_owned(), data }));
        }
    }

    /// What the history says of the prompt.
    pub fn messages(&self) -> Vec<Value> {
        self.state().messages.clone()
    }

    /// The nodes whose results were there already.
    pub fn cached(&self) -> Vec<String> {
        self.state().cached.clone()
    }

    /// Tells what an output node shows.
    pub fn tell_output(&self, node: &str, ui: &Value) {
        let data =
            json!({ "node": node, "display_node": node, "output": ui, "prompt_id": self.prompt });
        self.tell("executed", data);
    }

    /// Tells that no node runs any more, which ends the prompt for clients that wait.
    pub fn tell_end(&self) {
        if self.client.is_some() {
            self.tell("executing", json!({ "node": null, "prompt_id": self.prompt }));
        }
    }

    fn to(&self) -> To<'_> {
        self.client.as_deref().map_or(To::All, To::One)
    }

    fn set(&self, node: &str, state: NodeState) {
        self.state().nodes.insert(node.to_owned(), state);
        self.tell_progress_state();
    }

    fn tell_progress_state(&self) {
        let nodes: Map<String, Value> = {
            let state = self.state();
            let nodes = state.nodes.iter().map(|(id, node)| {
                let mut told = json!({
                    "value": node.value, "max": node.max, "state": node.state, "node_id": id,
                    "prompt_id": self.prompt, "display_node_id": id, "parent_node_id": null,
                    "real_node_id": id,
                });
                if let Some(activity) = node.activity {
                    told["activity"] = json!(activity);
                }
                (id.clone(), told)
            });
            nodes.collect()
        };
        self.tell("progress_state", json!({ "prompt_id": self.prompt, "nodes": nodes }));
    }

    fn step(&self, node: &str, done: usize, total: Option<usize>, preview: Option<&Pixels>) {
        let (value, max) = (done as f64, total.unwrap_or(done).max(1) as f64);
        let (shown, most) = (json!(done), json!(total.unwrap_or(done).max(1)));
        let data = json!({ "value": shown, "max": most, "prompt_id": self.prompt, "node": node });
        self.set(node, NodeState { value, max, state: "running", activity: None });
        self.tell("progress", data);
        if let Some(preview) = preview
            && self.preview_is_due()
        {
            self.send_preview(node, preview);
            let now = Instant::now();
            let mut state = self.state();
            let took =
                state.preview_asked.map_or(Duration::ZERO, |asked| now.duration_since(asked));
            state.preview_due = now.checked_add(pause(took));
        }
    }

    /// Whether one that is made now would be sent: each costs a part of a step.
    fn preview_is_due(&self) -> bool {
        self.state().preview_due.is_none_or(|due| Instant::now() >= due)
    }

    fn send_preview(&self, node: &str, pixels: &Pixels) {
        let &Pixels { width, height, ref rgb } = pixels;
        let picture = Picture8 { width, height, channels: 3, bytes: rgb.clone() };
        let mut file = Vec::new();
        match picture.write(&mut file, &[]) {
            Ok(()) => {
                let prompt = self.prompt.to_string();
                let preview = Preview::new(&file, PictureFormat::Png, node, &prompt);
                self.clients.send_preview(self.to(), &preview, self.previews);
            }
            Err(error) => tracing::debug!("no preview: {error}"),
        }
    }

    /// Whether enough time has passed since this was last true.
    fn is_due(&self, last: impl Fn(&mut State) -> &mut Option<Instant>, between: Duration) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        let last = last(&mut state);
        let due = last.is_none_or(|last| now.duration_since(last) >= between);
        if due {
            *last = Some(now);
        }
        due
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for PromptObserver {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Started { .. } => self.tell_and_keep("execution_start", Map::new()),
            Event::Cached { nodes } => {
                self.state().cached = nodes.to_vec();
                let data = Map::from_iter([("nodes".to_owned(), json!(nodes))]);
                self.tell_and_keep("execution_cached", data);
            }
            Event::Node { node, .. } => {
                self.running.at(self.prompt, node);
                let data = json!({ "node": node, "display_node": node, "prompt_id": self.prompt });
                if self.client.is_some() {
                    self.tell("executing", data);
                }
                let state = NodeState { value: 0.0, max: 1.0, state: "running", activity: None };
                self.set(node, state);
            }
            Event::Done { node, ui } => {
                let max = self.state().nodes.get(node).map_or(1.0, |node| node.max);
                self.set(node, NodeState { value: max, max, state: "finished", activity: None });
                if let Some(ui) = ui.filter(|_| self.tells_outputs) {
                    self.tell_output(node, ui);
                }
            }
            Event::Planned { node, model, plans, .. } => {
                let data = json!({
                    "prompt_id": self.prompt, "node": node, "model": model, "plans": plans,
                });
                self.clients.send_json(To::Watchers, "distorch.plan", &data);
            }
            // Of runs that are only looked at.
            Event::Overview { .. } => {}
            Event::Loading { node, what, done, total } => {
                if done < total && !self.is_due(|state| &mut state.loading, BETWEEN_LOADING) {
                    return;
                }
                let data = json!({
                    "prompt_id": self.prompt, "node": node, "what": what,
                    "done": done, "total": total,
                });
                self.clients.send_json(To::Watchers, "distorch.loading", &data);
                let activity = (done < total).then_some("loading");
                let changed = {
                    let mut state = self.state();
                    let known = state.nodes.get_mut(node);
                    known.is_some_and(|known| {
                        std::mem::replace(&mut known.activity, activity) != activity
                    })
                };
                if changed {
                    self.tell_progress_state();
                }
            }
            Event::Step { node, done, total, preview } => self.step(node, done, total, preview),
            Event::Warning { node, text } => {
                tracing::warn!(prompt = %self.prompt, node, "{text}");
                self.clients.send(self.to(), &Message::node_text(node, text));
            }
        }
    }

    fn wants_previews(&self) -> bool {
        let wanted = self.preview_is_due() && self.clients.takes_previews(self.to(), self.previews);
        if wanted {
            self.state().preview_asked = Some(Instant::now());
        }
        wanted
    }

    fn wants_decoded_previews(&self) -> bool {
        self.decoded && self.clients.takes_previews(self.to(), self.previews)
    }
}

/// How long no preview is made after one that took so long.
fn pause(took: Duration) -> Duration {
    took.saturating_mul(REST).max(BETWEEN_PREVIEWS)
}

/// Now, in milliseconds since 1970.
pub(crate) fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_preview_is_made_that_would_not_be_sent() {
        let (clients, running) = (Clients::new(1), Running::default());
        let observer =
            PromptObserver::new(Uuid::nil(), None, clients, running, Audience::Everybody, None);
        assert!(observer.preview_is_due(), "the first");
        let hour = Duration::from_secs(3600);
        observer.state().preview_due = Instant::now().checked_add(hour);
        assert!(!observer.preview_is_due() && !observer.wants_previews());
        observer.state().preview_due = Some(Instant::now());
        assert!(observer.preview_is_due());
        assert!(!observer.wants_previews(), "nobody is there");
    }

    #[test]
    fn previews_take_a_tenth_of_the_time_at_most() {
        for (took, rest) in [(0, 250), (25, 250), (30, 270), (2000, 18_000)] {
            let [took, rest] = [took, rest].map(Duration::from_millis);
            assert_eq!(pause(took), rest);
        }
        assert_eq!(pause(Duration::MAX), Duration::MAX);
    }
}
