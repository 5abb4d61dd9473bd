//! Prompts that have ended.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use distorch_queue::{Record, State as JobState};
use http::StatusCode;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::OpenApi;
use uuid::Uuid;

use super::queue::{Change, Item};
use crate::error::ApiError;
use crate::request::{JsonBody, Path, Query};
use crate::state::AppState;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(list, one, change))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new().route("/history", get(list).post(change)).route("/history/{prompt_id}", get(one))
}

/// An entry of the history.
#[derive(Serialize)]
struct Entry {
    prompt: Item,
    outputs: distorch_queue::Json,
    status: Status,
    meta: distorch_queue::Json,
}

/// How a prompt ended, and what was told on the way: `[[type, data], …]`.
#[derive(Serialize)]
pub(super) struct Status {
    status_str: &'static str,
    completed: bool,
    messages: distorch_queue::Json,
}

impl Status {
    pub fn of(record: &Record) -> Self {
        let completed = record.job.state == JobState::Success;
        let status_str = if completed { "success" } else { "error" };
        let messages = match (&record.result, &record.job.error) {
            // The queue ended it itself: its workers were lost.
            (_, Some(error)) => {
                let data = json!({
                    "prompt_id": record.job.id, "exception_message": error,
                    "exception_type": "RuntimeError", "node_id": null, "node_type": null,
                    "executed": [], "traceback": [], "current_inputs": {}, "current_outputs": [],
                    "timestamp": record.job.ended,
                });
                distorch_queue::Json::from(json!([["execution_error", data]]))
            }
            (Some(result), None) => result.messages.clone(),
            (None, None) => distorch_queue::Json::from(json!([])),
        };
        Self { status_str, completed, messages }
    }
}

impl Entry {
    fn of(record: Record) -> Self {
        let empty = || distorch_queue::Json::from(json!({}));
        let status = Status::of(&record);
        let result = record.result.as_ref();
        let outputs = result.map_or_else(empty, |result| result.outputs.clone());
        let meta = result.map_or_else(empty, |result| result.meta.clone());
        Self { prompt: Item::of(record), outputs, status, meta }
    }
}

type Entries = IndexMap<Uuid, Entry>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Part {
    max_items: Option<i64>,
    offset: Option<i64>,
}

/// The prompts that have ended by id, the earliest first: the latest `max_items`, or so many from `offset` on.
#[utoipa::path(get, path = "/history",
    params(("max_items" = Option<i64>, Query), ("offset" = Option<i64>, Query)),
    responses((status = 200, description = "Entries by id"), (status = 400, description = "Not as expected")))]
async fn list(
    State(state): State<AppState>,
    Query(part): Query<Part>,
) -> Result<Json<Entries>, ApiError> {
    let most = part.max_items.map(|items| u64::try_from(items).unwrap_or(0));
    let offset = part.offset.and_then(|offset| u64::try_from(offset).ok());
    let records = state.queue.history(most, offset).await.map_err(ApiError::internal)?;
    Ok(Json(records.into_iter().map(|record| (record.job.id, Entry::of(record))).collect()))
}

/// One prompt that has ended; an empty object where there is none of this id.
#[utoipa::path(get, path = "/history/{prompt_id}", params(("prompt_id" = String, Path)),
    responses((status = 200, description = "The entry under its id")))]
async fn one(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<Entries>, ApiError> {
    let mut entries = Entries::new();
    if let Ok(id) = Uuid::try_parse(&id) {
        let record = state.queue.get(id).await.map_err(ApiError::internal)?;
        let ended = record.filter(|record| record.job.state.is_ended());
        entries.extend(ended.map(|record| (id, Entry::of(record))));
    }
    Ok(Json(entries))
}

/// Removes prompts from the history: all (`clear`), or some by id (`delete`).
#[utoipa::path(post, path = "/history", request_body = Object,
    responses((status = 200, description = "Done"), (status = 400, description = "Not as expected")))]
async fn change(
    State(state): State<AppState>,
    JsonBody(change): JsonBody<Change>,
) -> Result<StatusCode, ApiError> {
    if change.clear == Some(true) {
        state.queue.clear_history().await.map_err(ApiError::internal)?;
    }
    let ids = change.ids();
    if !ids.is_empty() {
        state.queue.delete_history(&ids).await.map_err(ApiError::internal)?;
    }
    Ok(StatusCode::OK)
}

/// The parts of an entry that one job shows.
pub(super) fn result(record: &Record) -> (Value, Value) {
    let outputs = record.result.as_ref().and_then(|result| result.outputs.parse().ok());
    (outputs.unwrap_or_else(|| json!({})), json!(Status::of(record)))
}
