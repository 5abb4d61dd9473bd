//! How long the queue's operations take when the history is full: 10,000 entries, each with a
//! prompt of 6 kB.
//!
//! `cargo run --release -p distorch-queue --example history [ADDRESS]`

use std::time::{Duration, Instant};

use distorch_queue::{
    Error, JobFilter, Json, NewJob, Outcome, Queue, QueueOptions, SortBy, Status, Worker,
};
use serde_json::json;
use uuid::Uuid;

const ENTRIES: u64 = 10_000;
const RUNS: u32 = 50;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let folder = std::env::temp_dir().join(format!("distorch-history-{}.sqlite", Uuid::new_v4()));
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| format!("sqlite:{}", folder.display()));
    let options = QueueOptions { max_history: ENTRIES, ..QueueOptions::default() };
    let queue = Queue::open(&address, options).await?;
    println!("{}", queue.address());
    let start = Instant::now();
    for _ in 0..ENTRIES {
        run_one(&queue).await?;
    }
    print("submit, claim and finish, while the history fills", start.elapsed() / 10_000);

    print("the same, when it is full", timed(|| run_one(&queue)).await?);
    print("history, latest 64", timed(|| queue.history(Some(64), None)).await?);
    print("history, 64 from 9,000 on", timed(|| queue.history(Some(64), Some(9_000))).await?);
    let filter = JobFilter { limit: Some(64), ..JobFilter::default() };
    print("listing, latest 64 with the count", timed(|| queue.jobs(&filter)).await?);
    let filter = JobFilter { sort_by: SortBy::Duration, ..filter };
    print("listing, longest 64 with the count", timed(|| queue.jobs(&filter)).await?);
    let id = queue.history(Some(1), Some(5_000)).await?.first().map(|record| record.job.id);
    print("one of them", timed(|| queue.get(id.unwrap_or_default())).await?);
    let start = Instant::now();
    let all = queue.history(None, None).await?;
    print(&format!("all {} of them", all.len()), start.elapsed());
    queue.close().await;
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", folder.display()));
    }
    Ok(())
}

/// The mean of some runs.
async fn timed<T, F: Future<Output = Result<T, Error>>>(
    operation: impl Fn() -> F,
) -> Result<Duration, Error> {
    let start = Instant::now();
    for _ in 0..RUNS {
        operation().await?;
    }
    Ok(start.elapsed() / RUNS)
}

fn print(what: &str, time: Duration) {
    println!("{:>9.3} ms  {what}", time.as_secs_f64() * 1e3);
}

async fn run_one(queue: &Queue) -> Result<(), Error> {
    let node = json!({ "class_type": "KSampler", "inputs": { "text": "a".repeat(500) } });
    let nodes: serde_json::Map<_, _> = (0..10).map(|at| (at.to_string(), node.clone())).collect();
    let prompt = Json::from(serde_json::Value::Object(nodes));
    queue.submit(&NewJob { id: Uuid::new_v4(), prompt, ..NewJob::default() }).await?;
    let worker = Worker { name: "worker".into(), ..Worker::default() };
    if let Some(claimed) = queue.claim(&worker, Duration::from_secs(60)).await? {
        let image = json!({ "filename": "ComfyUI_00001_.png", "subfolder": "", "type": "output" });
        let outcome = Outcome {
            status: Status::Success,
            outputs: Json::from(json!({ "9": { "images": [image] } })),
            meta: Json::from(json!({ "9": { "node_id": "9" } })),
            messages: Json::from(json!([["execution_start", { "timestamp": 0 }]])),
            summary: Some(Json::from(json!({ "outputs_count": 1 }))),
        };
        queue.finish(claimed.attempt, &outcome).await?;
    }
    Ok(())
}
