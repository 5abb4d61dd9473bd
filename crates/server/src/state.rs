//! What the routes share.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use distorch_queue::Queue;
use distorch_runtime::devices::Hardware;
use distorch_workflow::{Environment, Registry};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::config::Config;
use crate::execution::{MemoryRequests, Running};
use crate::logs::LogBuffer;
use crate::node_texts::NodeTexts;
use crate::socket::{Clients, To};

/// What the routes share. Copies are the same.
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

/// The parts of an [`AppState`].
pub struct Inner {
    /// What the server was started with.
    pub config: Config,
    /// Devices, models, folders.
    pub environment: Arc<Environment>,
    /// The devices with what the machine says of them: those of the environment's topology.
    pub hardware: Vec<Hardware>,
    /// The nodes.
    pub registry: Arc<Registry>,
    /// The prompts that wait, run and have ended.
    pub queue: Queue,
    /// The prompts that run in this process.
    pub running: Running,
    /// What is to be dropped from memory.
    pub memory: MemoryRequests,
    /// Who listens on `/ws`.
    pub clients: Clients,
    /// The last lines of the log.
    pub logs: LogBuffer,
    /// Pictures that are decoded for clients at once: each takes memory.
    pub pictures: Semaphore,
    /// What this process marks its messages with, for others that have the same queue.
    pub(crate) process: Uuid,
    /// The nodes as clients read them.
    pub(crate) nodes: NodeTexts,
    /// Prompts that wait or run, when that was last counted.
    remaining: AtomicU64,
}

/// Pictures that are decoded for clients at once.
const PICTURES: usize = 2;

/// What a state is made of.
pub struct Parts {
    /// What the server was started with.
    pub config: Config,
    /// Devices, models, folders.
    pub environment: Arc<Environment>,
    /// The devices with what the machine says of them.
    pub hardware: Vec<Hardware>,
    /// The nodes.
    pub registry: Arc<Registry>,
    /// The prompts that wait, run and have ended.
    pub queue: Queue,
    /// The last lines of the log.
    pub logs: LogBuffer,
}

impl AppState {
    /// A state without clients.
    pub fn new(parts: Parts) -> Self {
        let Parts { config, environment, hardware, registry, queue, logs } = parts;
        let clients = Clients::new(config.limits.clients);
        let told = clients.clone();
        logs.listen(move |time, text| told.tell_log(time, text));
        Self(Arc::new(Inner {
            config,
            environment,
            hardware,
            registry,
            queue,
            running: Running::default(),
            memory: MemoryRequests::default(),
            clients,
            logs,
            pictures: Semaphore::new(PICTURES),
            process: Uuid::new_v4(),
            nodes: NodeTexts::default(),
            remaining: AtomicU64::new(0),
        }))
    }

    /// How long the queue is: `{"exec_info": {"queue_remaining": n}}`.
    pub fn queue_status(&self) -> Value {
        json!({ "exec_info": { "queue_remaining": self.remaining.load(Ordering::Relaxed) } })
    }

    /// Counts the prompts that wait or run.
    pub(crate) async fn count_queue(&self) {
        match self.queue.remaining().await {
            Ok(remaining) => self.remaining.store(remaining, Ordering::Relaxed),
            Err(error) => tracing::warn!("the queue cannot be counted: {error}"),
        }
    }

    /// Counts the prompts that wait or run, and tells all clients.
    pub(crate) async fn tell_queue_status(&self) {
        self.count_queue().await;
        self.clients.send_json(To::All, "status", &json!({ "status": self.queue_status() }));
    }

    /// The name that this process has among the workers of its queue.
    pub fn worker_name(&self) -> &str {
        &self.config.worker_name
    }

    /// Whether prompts of this process may run on other machines, which have devices, models and nodes of their own.
    pub(crate) fn has_other_machines(&self) -> bool {
        self.queue.address().starts_with("postgres")
    }
}

impl Deref for AppState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
