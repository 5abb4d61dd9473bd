//! What claims prompts from the queue and runs them: those whose models share no device side by side.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use distorch_allocation::DeviceInfo;
use distorch_pipeline::CancelToken;
use distorch_queue::{
    Attempt, Claimed, Job, Json, LeaseStatus, Notice, NoticeKind, Notices, Status, Worker,
};
use distorch_workflow::execute::{ExecutionError, Report};
use distorch_workflow::graph::Prompt;
use distorch_workflow::{Executor, NodeError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use uuid::Uuid;

use super::model_files::{Models, model_files};
use super::observer::{PromptObserver, Relayed};
use super::outcome::{self, End};
use crate::config::PreviewMethod;
use crate::outputs::Outputs;
use crate::socket::{Audience, To};
use crate::state::AppState;

/// How often the queue is looked at where it does not say that there is something new.
const POLL: Duration = Duration::from_secs(5);

/// How long to wait after the queue failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// The prompts that run, with the devices that each has to itself.
#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    occupied: HashMap<Id, BTreeSet<String>>,
}

impl Tasks {
    fn start(
        &mut self,
        occupied: BTreeSet<String>,
        prompt: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = self.set.spawn(prompt).id();
        self.occupied.insert(id, occupied);
    }

    /// The devices that are in use.
    fn busy(&self) -> BTreeSet<String> {
        self.occupied.values().flatten().cloned().collect()
    }

    /// Waits until one of them has ended; for ever where there is none.
    async fn one_ended(&mut self) {
        match self.set.join_next_with_id().await {
            Some(ended) => self.ended(ended),
            None => std::future::pending().await,
        }
    }

    async fn all_ended(&mut self) {
        while let Some(ended) = self.set.join_next_with_id().await {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!("what runs a prompt failed: {error}");
                error.id()
            }
        };
        self.occupied.remove(&id);
    }
}

/// Runs prompts until `end` says so; those that run then get their grace, and are put back after it.
pub async fn work(state: AppState, executor: Executor, mut end: watch::Receiver<bool>) {
    let name = state.worker_name().to_owned();
    if let Err(error) = state.queue.release_worker(&name).await {
        tracing::error!("prompts of an earlier run cannot be taken up again: {error}");
    }
    let mut notices = state.queue.subscribe();
    let mut tasks = Tasks::default();
    // Each has a device; those of an older version's queue do not say which.
    let most = state.environment.session.topology().devices().len().max(1);
    while !*end.borrow() {
        let has_room = tasks.set.len() < most;
        let wait = match has_room {
            false => POLL,
            true => match claim(&state, &mut tasks, &executor, &end).await {
                Ok(true) => continue,
                Ok(false) => POLL,
                Err(error) => {
                    tracing::error!("no prompt can be taken from the queue: {error}");
                    AFTER_FAILURE
                }
            },
        };
        let is_idle = tasks.set.is_empty();
        tokio::select! {
            _ = end.changed() => {}
            () = tasks.one_ended() => {}
            () = state.memory.asked(), if is_idle => free(&state, executor.clone()).await,
            () = news(&mut notices), if has_room => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    tasks.all_ended().await;
    // What was claimed in the moment of the end.
    if let Err(error) = state.queue.release_worker(&name).await {
        tracing::error!("a prompt could not be put back: {error}");
    }
}

/// Starts the next prompt that can run beside those that do; whether there was one.
async fn claim(
    state: &AppState,
    tasks: &mut Tasks,
    executor: &Executor,
    end: &watch::Receiver<bool>,
) -> Result<bool, distorch_queue::Error> {
    let worker = describe(state, tasks.busy()).await;
    let Some(claimed) = state.queue.claim(&worker, state.config.lease).await? else {
        return Ok(false);
    };
    let occupied = worker.occupied(&claimed.requires);
    tasks.start(occupied, run(state.clone(), executor.clone(), claimed, end.clone()));
    Ok(true)
}

/// Waits until there may be something to run.
async fn news(notices: &mut Notices) {
    while let Some(Notice { kind, .. }) = notices.next().await {
        if let NoticeKind::Submitted | NoticeKind::Requeued | NoticeKind::Missed = kind {
            return;
        }
    }
    std::future::pending().await
}

/// Drops what clients asked to be dropped.
async fn free(state: &AppState, executor: Executor) {
    let asked = state.memory.take();
    let freed = tokio::task::spawn_blocking(move || asked.apply(&executor)).await;
    if let Err(error) = freed {
        tracing::error!("memory could not be freed: {error}");
    }
}

/// A message as it is in the queue.
#[derive(Deserialize, Serialize)]
struct Passed {
    /// The process whose clients were told already.
    from: Uuid,
    message: Relayed,
}

/// Writes what a prompt's client is told into the queue while other processes read it there.
async fn relay(state: AppState, attempt: Attempt, mut messages: UnboundedReceiver<Relayed>) {
    while let Some(message) = messages.recv().await {
        if !state.queue.is_shared() {
            continue;
        }
        let Ok(body) = Json::of(&Passed { from: state.process, message }) else { continue };
        if let Err(error) = state.queue.event(attempt, &body).await {
            tracing::warn!(prompt = %attempt.job, "a message could not be passed on: {error}");
        }
    }
}

/// Tells clients what happens in the queue: how long it is, and what prompts say that run elsewhere.
pub async fn follow(state: AppState) {
    let mut notices = state.queue.subscribe();
    let mut expiry = tokio::time::interval(state.config.lease);
    state.tell_queue_status().await;
    loop {
        let notice = tokio::select! {
            notice = notices.next() => notice,
            _ = expiry.tick() => {
                // Workers that are gone do not do it themselves.
                if let Err(error) = state.queue.expire().await {
                    tracing::warn!("the queue cannot be looked through: {error}");
                }
                continue;
            }
        };
        let Some(notice) = notice else { return };
        match (notice.kind, notice.job) {
            (NoticeKind::Event, Some(job)) => {
                tell_from_elsewhere(&state, &notice, job).await;
            }
            (NoticeKind::Event | NoticeKind::Progress | NoticeKind::CancelRequested, _) => {}
            _ => state.tell_queue_status().await,
        }
    }
}

/// Passes on a message of a prompt that runs in another process.
async fn tell_from_elsewhere(state: &AppState, notice: &Notice, job: Uuid) {
    let body = match (&notice.body, notice.event) {
        (Some(body), _) => Some(body.clone()),
        (None, Some(seq)) => {
            let events = state.queue.events(job, seq.saturating_sub(1)).await.unwrap_or_default();
            events.into_iter().find(|event| event.seq == seq).map(|event| event.body)
        }
        (None, None) => None,
    };
    let Some(Ok(Passed { from, message })) = body.map(|body| body.parse()) else { return };
    if from == state.process {
        return;
    }
    let Relayed { to, kind, data } = message;
    state.clients.send_json(to.as_deref().map_or(To::All, To::One), &kind, &data);
}

/// Why a run was told to stop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Somebody cancelled it.
    Cancelled,
    /// It is not this worker's any more.
    Lost,
    /// The server ends.
    Ending,
}

/// Runs a prompt.
async fn run(
    state: AppState,
    mut executor: Executor,
    claimed: Claimed,
    mut end: watch::Receiver<bool>,
) {
    let state = &state;
    let Claimed { attempt, record, .. } = claimed;
    let Job { id, client_id, .. } = record.job;
    tracing::info!(prompt = %id, "prompt begins");
    let started = std::time::Instant::now();
    let mut hold = state.queue.hold(attempt, state.config.lease / 3);
    state.running.begin(id, client_id.clone());
    let (previews, decoded) = previews(state.config.previews, &record.payload.extra_data);
    // Another process may open the queue while this runs.
    let (relay_to, messages) = mpsc::unbounded_channel();
    let relaying = tokio::spawn(relay(state.clone(), attempt, messages));
    let (clients, running) = (state.clients.clone(), state.running.clone());
    let observer = PromptObserver::new(id, client_id, clients, running, previews, Some(relay_to))
        .with_decoded_previews(decoded);
    let outputs = state.config.outputs.clone();
    let observer = Arc::new(match outputs {
        None => observer,
        Some(_) => observer.without_outputs(),
    });
    let cancel = CancelToken::new();
    let work = {
        let (observer, cancel) = (Arc::clone(&observer), cancel.clone());
        let registry = Arc::clone(&state.registry);
        let (payload, memory) = (record.payload, state.memory.take());
        let folder = state.environment.output_dir.clone();
        let store = outputs.map(|outputs| (outputs, folder, tokio::runtime::Handle::current()));
        move || {
            memory.apply(&executor);
            let text = format!(
                "{{\"prompt\":{},\"extra_data\":{}}}",
                payload.prompt.as_str(),
                payload.extra_data.as_str()
            );
            let (prompt, result) = match Prompt::from_json(&text, &registry) {
                Ok(prompt) => {
                    let outputs = &payload.outputs;
                    let result = executor.run_nodes_with(&prompt, outputs, &*observer, &cancel);
                    (prompt, result)
                }
                Err(error) => (Prompt::default(), Err(unreadable(&error))),
            };
            let result = match (&store, result) {
                (Some((outputs, folder, runtime)), Ok(report)) => {
                    runtime.block_on(stored(outputs, id, folder, &prompt, report))
                }
                (_, result) => result,
            };
            if let Ok(report) = &result {
                let cached = observer.cached();
                for (node, ui) in &report.outputs {
                    if store.is_some() || cached.contains(node) {
                        observer.tell_output(node, ui);
                    }
                }
            }
            outcome::end(result, &prompt, &observer)
        }
    };
    let mut working = tokio::task::spawn_blocking(work);
    let mut stop = None;
    let finished = loop {
        let grace = async {
            if end.wait_for(|end| *end).await.is_ok() {
                tokio::time::sleep(state.config.grace).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            finished = &mut working => break finished,
            status = hold.stopped(), if stop.is_none() => {
                stop = Some(if status == LeaseStatus::Lost { Stop::Lost } else { Stop::Cancelled });
                cancel.cancel();
            }
            () = grace, if stop.is_none() => {
                stop = Some(Stop::Ending);
                cancel.cancel();
            }
        }
    };
    let ended = finished.unwrap_or_else(|error| {
        tracing::error!(prompt = %id, "the thread of a prompt failed: {error}");
        failed(&observer, "the thread of this prompt failed; the log says why")
    });
    let seconds = started.elapsed().as_secs_f64();
    metrics::histogram!("distorch_prompt_seconds").record(seconds);
    match stop {
        Some(Stop::Lost) => tracing::warn!(prompt = %id, "prompt is not this worker's any more"),
        Some(Stop::Ending) if ended.status == Status::Interrupted => {
            if let Err(error) = state.queue.release(attempt).await {
                tracing::error!(prompt = %id, "prompt could not be put back: {error}");
            }
            tracing::info!(prompt = %id, "prompt is put back: the server ends");
            let text = "the server ends; the prompt runs again once it is back";
            observer.tell("notification", json!({ "value": text }));
        }
        _ => finish(state, attempt, &observer, &ended, seconds).await,
    }
    drop(hold);
    state.running.end(id);
    drop(observer);
    // It ends with the observer, which the thread that worked has dropped.
    drop(relaying.await);
}

/// Who is sent a prompt's previews, and whether a tiny decoder makes them: as the prompt says (`preview_method` in its
/// extra data), or the server.
fn previews(method: PreviewMethod, extra_data: &Json) -> (Audience, bool) {
    let data: Value = extra_data.parse().unwrap_or_default();
    let asked = data["preview_method"].as_str();
    let audience = match (asked, method) {
        (_, PreviewMethod::None) | (Some("none"), _) => Audience::Nobody,
        (Some("latent2rgb" | "taesd" | "auto"), _)
        | (_, PreviewMethod::Latent2Rgb | PreviewMethod::Taesd) => Audience::Everybody,
        (_, PreviewMethod::Auto) => Audience::Negotiated,
    };
    let decoded = match asked {
        Some("taesd") => true,
        Some("latent2rgb" | "auto" | "none") => false,
        _ => method == PreviewMethod::Taesd,
    };
    (audience, decoded)
}

/// Stores what came of a prompt, and tells so.
async fn finish(
    state: &AppState,
    attempt: Attempt,
    observer: &PromptObserver,
    ended: &End,
    seconds: f64,
) {
    let id = attempt.job;
    let (kind, data) = (ended.last.0, ended.last.1.clone());
    let status = match ended.status {
        Status::Success => "success",
        Status::Error => "error",
        Status::Interrupted => "interrupted",
    };
    metrics::counter!("distorch_prompts_total", "status" => status).increment(1);
    match state.queue.finish(attempt, &ended.outcome(observer)).await {
        Ok(true) => tracing::info!(prompt = %id, seconds, status, "prompt ended"),
        Ok(false) => {
            tracing::warn!(prompt = %id, "prompt ended, but is not this worker's any more");
            return;
        }
        Err(error) => tracing::error!(prompt = %id, "a result could not be stored: {error}"),
    }
    if status == "error" {
        tracing::warn!(prompt = %id, "{}", data["exception_message"].as_str().unwrap_or_default());
    }
    match kind {
        // All see that it was stopped, as in ComfyUI.
        "execution_interrupted" => observer.tell_all(kind, data),
        _ => observer.tell(kind, data),
    }
    observer.tell_end();
}

/// Puts what a prompt made into the store. What cannot be stored is no result: nobody else would see it.
async fn stored(
    outputs: &Outputs,
    id: Uuid,
    folder: &Path,
    prompt: &Prompt,
    mut report: Report,
) -> Result<Report, ExecutionError> {
    for (node, ui) in &mut report.outputs {
        match outputs.store(id, folder, ui).await {
            Ok(stored) => *ui = stored,
            Err(error) => {
                let class = prompt.nodes.get(node).map(|node| node.class.clone());
                return Err(ExecutionError::Node {
                    node: node.clone(),
                    class: class.unwrap_or_default(),
                    error: NodeError::Failed(Box::new(error)),
                    executed: report.executed,
                });
            }
        }
    }
    Ok(report)
}

/// A prompt in the queue that cannot be read: another version wrote it.
fn unreadable(error: &dyn std::fmt::Display) -> ExecutionError {
    let problem = distorch_workflow::validate::Problem::new(
        "prompt_unreadable",
        "The stored prompt cannot be read",
        error.to_string(),
    );
    let node_errors = indexmap::IndexMap::new();
    let invalid = distorch_workflow::validate::Invalid { error: problem, node_errors };
    ExecutionError::Invalid(Box::new(invalid))
}

fn failed(observer: &PromptObserver, text: &str) -> End {
    let mut data = Map::from_iter([
        ("node_id".to_owned(), Value::Null),
        ("node_type".to_owned(), Value::Null),
        ("executed".to_owned(), json!([])),
        ("exception_message".to_owned(), json!(text)),
        ("exception_type".to_owned(), json!("RuntimeError")),
        ("traceback".to_owned(), json!([])),
        ("current_inputs".to_owned(), json!({})),
        ("current_outputs".to_owned(), json!([])),
    ]);
    let data = observer.keep("execution_error", &mut data);
    let outputs = indexmap::IndexMap::new();
    End { status: Status::Error, outputs, last: ("execution_error", data) }
}

/// What this process has, for the queue to choose a prompt by.
async fn describe(state: &AppState, busy: BTreeSet<String>) -> Worker {
    let topology = state.environment.session.topology();
    let default_device = topology.default_compute().to_string();
    let worker =
        Worker { name: state.worker_name().to_owned(), default_device, busy, ..Worker::default() };
    if !state.has_other_machines() {
        // All prompts are of processes with the same devices and models, and need nothing but free devices.
        return worker;
    }
    let devices: BTreeMap<String, u64> = topology
        .devices()
        .iter()
        .map(|DeviceInfo { id, total, .. }| (id.to_string(), *total))
        .collect();
    let (environment, registry) = (Arc::clone(&state.environment), Arc::clone(&state.registry));
    let listed = tokio::task::spawn_blocking(move || {
        let classes = registry.nodes().map(|node| node.class.to_owned()).collect();
        (model_files(&environment), classes)
    });
    let (Models { present: models, loaded }, node_classes) = listed.await.unwrap_or_default();
    Worker { devices, models, node_classes, loaded, ..worker }
}
