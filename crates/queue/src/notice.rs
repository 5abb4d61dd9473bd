//! What subscribers of a queue hear.

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

use crate::json::Json;

/// How many notices a subscriber may be behind before it misses some.
pub(crate) const BACKLOG: usize = 4096;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoticeKind {
    /// A job is pending.
    Submitted,
    /// A worker has claimed it.
    Started,
    /// It has new progress.
    Progress,
    /// It has a new event.
    Event,
    /// Its worker is asked to end it.
    CancelRequested,
    /// It has ended.
    Finished,
    /// It is pending again: its worker gave it back, or was lost.
    Requeued,
    /// It was removed, pending or from the history; several where no job is named.
    Removed,
    /// Notices may have been missed (the subscriber was slow, or the connection broke): read the
    /// queue itself.
    Missed,
}

/// Something that happened in the queue, in this process or another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// What happened.
    pub kind: NoticeKind,
    /// To which job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Uuid>,
    /// In which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i64>,
    /// The place of an event, which [`crate::Queue::events`] takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<i64>,
    /// The progress or the event, where it is small enough to be sent along: else it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Json>,
}

impl Notice {
    pub(crate) fn of(kind: NoticeKind, job: Uuid) -> Self {
        Self { kind, job: Some(job), attempt: None, event: None, body: None }
    }

    pub(crate) fn several(kind: NoticeKind) -> Self {
        Self { kind, job: None, attempt: None, event: None, body: None }
    }

    pub(crate) fn attempt(mut self, attempt: i64) -> Self {
        self.attempt = Some(attempt);
        self
    }
}

/// The notices of a queue from the moment of subscription on.
#[derive(Debug)]
pub struct Notices(pub(crate) broadcast::Receiver<Notice>);

impl Notices {
    /// The next notice; `None` once the queue is closed. Losing the future loses no notice.
    pub async fn next(&mut self) -> Option<Notice> {
        match self.0.recv().await {
            Ok(notice) => Some(notice),
            Err(RecvError::Lagged(_)) => Some(Notice::several(NoticeKind::Missed)),
            Err(RecvError::Closed) => None,
        }
    }
}
