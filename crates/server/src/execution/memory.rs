//! What clients ask to be dropped from memory, until the executor has a moment for it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use distorch_workflow::Executor;
use tokio::sync::Notify;

/// What was asked for and not done yet.
#[derive(Default)]
pub struct MemoryRequests {
    waiting: Mutex<MemoryRequest>,
    changed: Notify,
}

/// What is to be dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryRequest {
    /// The weights of all models.
    pub unload_models: bool,
    /// The results of nodes too.
    pub free_memory: bool,
}

impl MemoryRequests {
    /// Asks for more to be dropped.
    pub fn ask(&self, request: MemoryRequest) {
        let mut waiting = self.waiting();
        waiting.unload_models |= request.unload_models;
        waiting.free_memory |= request.free_memory;
        drop(waiting);
        self.changed.notify_one();
    }

    /// Waits until something was asked for.
    pub(super) async fn asked(&self) {
        self.changed.notified().await;
    }

    /// What was asked for until now.
    pub(super) fn take(&self) -> MemoryRequest {
        std::mem::take(&mut *self.waiting())
    }

    fn waiting(&self) -> MutexGuard<'_, MemoryRequest> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryRequest {
    /// Drops it, but for models of prompts that run. Results hold models, so these go first.
    pub(super) fn apply(self, executor: &Executor) {
        if self.free_memory {
            executor.cache().clear();
        }
        if self.unload_models || self.free_memory {
            executor.environment().session.unload();
            tracing::info!("models are unloaded");
        }
    }
}
