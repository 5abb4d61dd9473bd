//! What a job is: as it is submitted, as it stands, and what came of it.

use uuid::Uuid;

use crate::error::Error;
use crate::json::Json;
use crate::routing::Requirements;

/// A job to be queued.
#[derive(Debug, Clone, Default)]
pub struct NewJob {
    /// Its id, which no other job may have.
    pub id: Uuid,
    /// Who asked, for readers of notices.
    pub client_id: Option<String>,
    /// What [`JobFilter::workflow_id`] finds.
    pub workflow_id: Option<String>,
    /// What is to be done.
    pub prompt: Json,
    /// What goes with it.
    pub extra_data: Json,
    /// The nodes whose outputs are asked for.
    pub outputs: Vec<String>,
    /// Where it stands among the pending: lower is sooner. Without one, the queue counts.
    pub number: Option<f64>,
    /// Whether a counted number is negated, so that the job comes before all that are counted.
    pub front: bool,
    /// What a worker must have to run it.
    pub requires: Requirements,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Waiting for a worker.
    Pending,
    /// Claimed by a worker.
    Running,
    /// Done.
    Success,
    /// Failed.
    Error,
    /// Ended because someone asked for that.
    Interrupted,
}

impl State {
    /// All states.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Running, Self::Success, Self::Error, Self::Interrupted];

    /// Its name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Error => "error",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether the job is part of the history.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Success | Self::Error | Self::Interrupted)
    }

    pub(crate) fn stored(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| Error::Damaged { column: "state", value: text.to_owned() })
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Done.
    Success,
    /// Failed.
    Error,
    /// Ended because someone asked for that.
    Interrupted,
}

impl From<Status> for State {
    fn from(status: Status) -> Self {
        match status {
            Status::Success => Self::Success,
            Status::Error => Self::Error,
            Status::Interrupted => Self::Interrupted,
        }
    }
}

/// What came of a job.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// What it made, by node.
    pub outputs: Json,
    /// About these outputs.
    pub meta: Json,
    /// What happened on the way.
    pub messages: Json,
    /// The little of it that a listing shows ([`Job::summary`]).
    pub summary: Option<Json>,
}

/// A job as it stands, without what is large. Times are milliseconds since 1970 (UTC), by the
/// clock of the database.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its id.
    pub id: Uuid,
    /// Its place among the pending: lower is sooner; equal ones in the order of submission.
    pub number: f64,
    /// Who asked.
    pub client_id: Option<String>,
    /// The workflow that it belongs to.
    pub workflow_id: Option<String>,
    /// Where it stands.
    pub state: State,
    /// How often it was claimed; names the attempt that runs it.
    pub attempt: i64,
    /// The worker that runs it, or ran it last.
    pub worker: Option<String>,
    /// Whether someone asked that it ends.
    pub is_cancel_requested: bool,
    /// When it was submitted.
    pub created: i64,
    /// When the latest attempt was claimed.
    pub started: Option<i64>,
    /// When it ended.
    pub ended: Option<i64>,
    /// Why the queue itself ended it: its worker was lost too often, or lost while it was to be
    /// interrupted.
    pub error: Option<String>,
    /// What the worker put there for listings.
    pub summary: Option<Json>,
    /// The newest progress of a running job.
    pub progress: Option<Json>,
}

/// What is large of a job, as it was submitted.
#[derive(Debug, Clone)]
pub struct Payload {
    /// What is to be done.
    pub prompt: Json,
    /// What goes with it.
    pub extra_data: Json,
    /// The nodes whose outputs are asked for.
    pub outputs: Vec<String>,
}

/// What is large of a job that has ended.
#[derive(Debug, Clone)]
pub struct JobResult {
    /// What it made, by node.
    pub outputs: Json,
    /// About these outputs.
    pub meta: Json,
    /// What happened on the way.
    pub messages: Json,
}

/// All of a job.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it stands.
    pub job: Job,
    /// As it was submitted.
    pub payload: Payload,
    /// What came of it, where it has ended.
    pub result: Option<JobResult>,
}

/// One claim of a job. Every write of a worker names its attempt, and is refused once another
/// attempt has the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// The job.
    pub job: Uuid,
    /// The how manieth claim of it, from 1.
    pub number: i64,
}

/// A job that a worker has claimed.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// What the worker's writes name.
    pub attempt: Attempt,
    /// The job.
    pub record: Record,
    /// What it needs.
    pub requires: Requirements,
}

/// What a worker learns when it renews a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseStatus {
    /// The job is the worker's.
    Held,
    /// It is, and someone asks that it ends: stop, and finish it as interrupted.
    CancelRequested,
    /// It is another's, or ended, or removed: stop; nothing that is written counts.
    Lost,
}

/// What became of a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// The job was pending and is removed.
    Removed,
    /// It is running; its worker is asked to end it.
    Requested,
    /// It has ended, or there is none.
    NotActive,
}

/// An event of a running job, in the order of its worker.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its place: rising within a job.
    pub seq: i64,
    /// The attempt that wrote it.
    pub attempt: i64,
    /// What happened.
    pub body: Json,
}

/// What a listing is ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortBy {
    /// When jobs were submitted.
    #[default]
    Created,
    /// How long they ran; 0 for those that have not ended.
    Duration,
}

/// The direction of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortOrder {
    /// The least first.
    Ascending,
    /// The greatest first.
    #[default]
    Descending,
}

/// Which jobs a listing has.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// In any of these states; in any at all where empty.
    pub states: Vec<State>,
    /// Of this workflow.
    pub workflow_id: Option<String>,
    /// By what they are ordered.
    pub sort_by: SortBy,
    /// In which direction.
    pub order: SortOrder,
    /// How many, at most.
    pub limit: Option<u64>,
    /// How many are left out at the beginning.
    pub offset: u64,
}

/// A part of a listing.
#[derive(Debug, Clone)]
pub struct JobPage {
    /// The jobs of this part.
    pub jobs: Vec<Job>,
    /// How many the filter finds in all.
    pub total: u64,
}
