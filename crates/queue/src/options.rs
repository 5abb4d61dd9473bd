//! Limits of a queue.

use std::time::Duration;

/// Limits of a queue. Processes that share a database should use the same.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// The most jobs that may be pending; more are refused with [`crate::Error::Full`].
    pub max_pending: u64,
    /// The most finished jobs that are kept; the oldest are dropped. ComfyUI keeps 10,000.
    pub max_history: u64,
    /// How often a job's lease may be lost (its worker died or hung) before the job is an error.
    pub max_lost: u32,
    /// How often a job may be passed over by a later one whose models a worker has loaded.
    pub max_passed: u32,
    /// How long events are kept for readers that follow a job.
    pub keep_events: Duration,
    /// How long an operation is tried again while the database is away or busy.
    pub retry_for: Duration,
    /// How long one try may take.
    pub timeout: Duration,
    /// Connections to the database, at most, besides one for notices.
    pub connections: u32,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            max_pending: 1_000,
            max_history: 10_000,
            max_lost: 3,
            max_passed: 8,
            keep_events: Duration::from_secs(600),
            retry_for: Duration::from_secs(60),
            timeout: Duration::from_secs(30),
            connections: 8,
        }
    }
}
