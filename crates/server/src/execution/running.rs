//! The prompts that run in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use uuid::Uuid;

/// The prompts that run in this process. Copies are the same.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<HashMap<Uuid, RunningPrompt>>>);

/// A prompt that runs.
#[derive(Clone, Debug)]
pub struct RunningPrompt {
    /// Who queued it.
    pub client: Option<String>,
    /// The node that runs.
    pub node: Option<String>,
}

impl Running {
    pub(super) fn begin(&self, prompt: Uuid, client: Option<String>) {
        self.all().insert(prompt, RunningPrompt { client, node: None });
    }

    pub(super) fn at(&self, prompt: Uuid, node: &str) {
        if let Some(running) = self.all().get_mut(&prompt) {
            running.node = Some(node.to_owned());
        }
    }

    pub(super) fn end(&self, prompt: Uuid) {
        self.all().remove(&prompt);
    }

    /// Whether a prompt runs here.
    pub fn has(&self, prompt: Uuid) -> bool {
        self.all().contains_key(&prompt)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all().len()
    }

    /// The nodes that run of a client's prompts, as the message `executing` says it.
    pub fn nodes_of(&self, client: &str) -> Vec<Value> {
        let all = self.all();
        let nodes = all.iter().filter_map(|(id, prompt)| {
            let node = prompt.node.as_ref().filter(|_| prompt.client.as_deref() == Some(client))?;
            Some(json!({ "node": node, "display_node": node, "prompt_id": id }))
        });
        nodes.collect()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Uuid, RunningPrompt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
