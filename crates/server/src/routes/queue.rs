//! The queue: what waits and runs, taking out, stopping, and dropping from memory.

use axum::extract::{Request, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use distorch_queue::Record;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::OpenApi;
use uuid::Uuid;

use super::prompt::whole;
use crate::error::ApiError;
use crate::execution::MemoryRequest;
use crate::request::{JsonBody, body};
use crate::state::AppState;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(list, change, interrupt, free))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/queue", get(list).post(change))
        .route("/interrupt", post(interrupt))
        .route("/free", post(free))
}

/// A prompt as `/queue` and `/history` have it: number, id, nodes, what came with it, outputs.
#[derive(Serialize)]
pub(super) struct Item(Value, Uuid, distorch_queue::Json, distorch_queue::Json, Vec<String>);

impl Item {
    pub fn of(record: Record) -> Self {
        let payload = record.payload;
        let (number, id) = (whole(record.job.number), record.job.id);
        Self(number, id, payload.prompt, payload.extra_data, payload.outputs)
    }
}

#[derive(Serialize)]
struct Queued {
    queue_running: Vec<Item>,
    queue_pending: Vec<Item>,
}

/// The prompts that run and those that wait, each as number, id, nodes, what came with it, outputs.
#[utoipa::path(get, path = "/queue", responses((status = 200, description = "`queue_running`, `queue_pending`")))]
async fn list(State(state): State<AppState>) -> Result<Json<Queued>, ApiError> {
    let items = |records: Vec<Record>| records.into_iter().map(Item::of).collect();
    let [running, pending] = state.queue.unfinished().await.map_err(ApiError::internal)?;
    Ok(Json(Queued { queue_running: items(running), queue_pending: items(pending) }))
}

/// What is to be taken out of a list.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Change {
    pub clear: Option<bool>,
    pub delete: Option<Vec<Value>>,
}

impl Change {
    /// The ids that are ids; others are of no prompt.
    pub fn ids(&self) -> Vec<Uuid> {
        let ids = self.delete.iter().flatten();
        ids.filter_map(|id| Uuid::try_parse(id.as_str()?).ok()).collect()
    }
}

/// Takes prompts out that wait: all (`clear`), or some by id (`delete`).
#[utoipa::path(post, path = "/queue", request_body = Object,
    responses((status = 200, description = "Done"), (status = 400, description = "Not as expected")))]
async fn change(
    State(state): State<AppState>,
    JsonBody(change): JsonBody<Change>,
) -> Result<StatusCode, ApiError> {
    if change.clear == Some(true) {
        state.queue.clear_pending().await.map_err(ApiError::internal)?;
    }
    let ids = change.ids();
    if !ids.is_empty() {
        state.queue.delete_pending(&ids).await.map_err(ApiError::internal)?;
    }
    Ok(StatusCode::OK)
}

/// Stops the prompts that run, or the one of `prompt_id` where that is sent and it runs.
#[utoipa::path(post, path = "/interrupt", request_body = Option<Object>,
    responses((status = 200, description = "Done, or there was nothing to stop")))]
async fn interrupt(
    State(state): State<AppState>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let bytes = body(request, &state).await?;
    // Clients that mean all send nothing.
    let sent: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    match sent.get("prompt_id") {
        None | Some(Value::Null) => {
            state.queue.interrupt_all().await.map_err(ApiError::internal)?;
        }
        Some(id) => {
            let id = id.as_str().and_then(|id| Uuid::try_parse(id).ok());
            let Some(id) = id else { return Ok(StatusCode::OK) };
            let job = state.queue.job(id).await.map_err(ApiError::internal)?;
            // One that waits is not touched by this route.
            if job.is_some_and(|job| job.state == distorch_queue::State::Running) {
                state.queue.cancel(id).await.map_err(ApiError::internal)?;
            }
        }
    }
    Ok(StatusCode::OK)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Free {
    unload_models: bool,
    free_memory: bool,
}

/// Drops models (`unload_models`) that no prompt uses, and results of nodes (`free_memory`), once nothing runs or before
/// the next prompt begins.
#[utoipa::path(post, path = "/free", request_body = Object,
    responses((status = 200, description = "It will be"), (status = 400, description = "Not as expected")))]
async fn free(State(state): State<AppState>, JsonBody(free): JsonBody<Free>) -> StatusCode {
    let Free { unload_models, free_memory } = free;
    if unload_models || free_memory {
        state.memory.ask(MemoryRequest { unload_models, free_memory });
    }
    StatusCode::OK
}
