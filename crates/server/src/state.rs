//! What the routes share.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use distorch_runtime::devices::Hardware;
use distorch_workflow::{Environment, Registry};
use serde_json::{Value, json};

use crate::config::Config;
use crate::logs::LogBuffer;
use crate::socket::Clients;

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
    /// Who listens on `/ws`.
    pub clients: Clients,
    /// The last lines of the log.
    pub logs: LogBuffer,
    /// Prompts that wait or run, when that was last counted.
    remaining: AtomicU64,
}

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
    /// The last lines of the log.
    pub logs: LogBuffer,
}

impl AppState {
    /// A state without clients.
    pub fn new(parts: Parts) -> Self {
        let Parts { config, environment, hardware, registry, logs } = parts;
        let clients = Clients::new(config.limits.clients);
        let told = clients.clone();
        logs.listen(move |time, text| told.tell_log(time, text));
        Self(Arc::new(Inner {
            config,
            environment,
            hardware,
            registry,
            clients,
            logs,
            remaining: AtomicU64::new(0),
        }))
    }

    /// How long the queue is: `{"exec_info": {"queue_remaining": n}}`.
    pub fn queue_status(&self) -> Value {
        json!({ "exec_info": { "queue_remaining": self.remaining.load(Ordering::Relaxed) } })
    }
}

impl Deref for AppState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
