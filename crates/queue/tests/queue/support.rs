//! Empty queues of either database, and jobs for them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use distorch_queue::{Attempt, Json, NewJob, Outcome, Queue, QueueOptions, Status, Worker};
use serde_json::json;
use uuid::Uuid;

use crate::postgres;

/// A lease that is not over while a test runs.
pub const LONG: Duration = Duration::from_secs(3600);

/// An empty database.
pub struct Place {
    pub address: String,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("sqlite:{}", folder.path().join("queue.sqlite").display());
        Self { address, _folder: Some(folder) }
    }

    pub async fn postgres() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let address = postgres::shared()?.database(&name);
        Some(Self { address, _folder: None })
    }

    pub async fn open(&self) -> Queue {
        self.open_with(QueueOptions::default()).await
    }

    pub async fn open_with(&self, options: QueueOptions) -> Queue {
        let options = QueueOptions { connections: 4, ..options };
        Queue::open(&self.address, options).await.unwrap()
    }
}

/// Makes of each test function a test on SQLite and one on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::support::Place::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(place) = crate::support::Place::postgres().await {
                    super::$name(place).await;
                }
            })*
        }
    };
}
pub(crate) use on_both;

/// A job whose id is a number.
pub fn job(id: u128) -> NewJob {
    NewJob { id: Uuid::from_u128(id), ..NewJob::default() }
}

pub fn worker(name: &str) -> Worker {
    Worker { name: name.into(), ..Worker::default() }
}

pub fn outcome(status: Status) -> Outcome {
    Outcome {
        status,
        outputs: Json::from(json!({ "9": { "images": [] } })),
        meta: Json::from(json!({ "9": { "node_id": "9" } })),
        messages: Json::from(json!([["execution_start", {}]])),
        summary: Some(Json::from(json!({ "outputs_count": 0 }))),
    }
}

/// Claims the next job, which there must be.
pub async fn claim(queue: &Queue, worker: &Worker, lease: Duration) -> Attempt {
    queue.claim(worker, lease).await.unwrap().expect("a job is pending").attempt
}

/// Ends as many jobs as there are pending.
pub async fn finish_all(queue: &Queue) {
    while let Some(claimed) = queue.claim(&worker("w"), LONG).await.unwrap() {
        assert!(queue.finish(claimed.attempt, &outcome(Status::Success)).await.unwrap());
    }
}
