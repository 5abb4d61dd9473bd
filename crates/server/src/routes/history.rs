//! Prompts that have ended.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use distorch_queue::{Error as QueueError, HistoryPages, Record, State as JobState};
use futures::stream;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::OpenApi;
use uuid::Uuid;

use super::prompt::whole;
use super::queue::Change;
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

/// Entries by id as JSON. What is stored is JSON already, and can be megabytes: it is copied as it is.
#[derive(Default)]
struct Entries {
    text: String,
    count: usize,
}

impl Entries {
    /// `{"id": {"prompt": [number, id, nodes, what came with it, outputs], "outputs", "status", "meta"}, …`
    fn add(&mut self, record: &Record) {
        let (id, payload, result) = (record.job.id, &record.payload, record.result.as_ref());
        let (number, wanted) = (whole(record.job.number), json!(payload.outputs));
        let status = Status::of(record);
        let (kind, completed) = (json!(status.status_str), status.completed);
        let parts = [
            if self.count == 0 { "{" } else { "," },
            &format!(r#""{id}":{{"prompt":[{number},"{id}","#),
            payload.prompt.as_str(),
            ",",
            payload.extra_data.as_str(),
            &format!(r#",{wanted}],"outputs":"#),
            result.map_or("{}", |result| result.outputs.as_str()),
            &format!(r#","status":{{"status_str":{kind},"completed":{completed},"messages":"#),
            status.messages.as_str(),
            r#"},"meta":"#,
            result.map_or("{}", |result| result.meta.as_str()),
            "}",
        ];
        self.text.extend(parts);
        self.count += 1;
    }

    fn add_all(&mut self, records: &[Record]) {
        records.iter().for_each(|record| self.add(record));
    }

    fn end(&mut self) {
        self.text.push_str(if self.count == 0 { "{}" } else { "}" });
    }

    /// What was added since this was last taken.
    fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.text).into()
    }
}

/// An answer of JSON.
fn answer(body: Body) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// A long history, a page at a time: all of it may be larger than the memory.
fn streamed(entries: Entries, pages: HistoryPages) -> Body {
    let rest = stream::try_unfold(Some((entries, pages)), |rest| async {
        let Some((mut entries, mut pages)) = rest else { return Ok::<_, QueueError>(None) };
        // A client sees that the answer was cut off.
        let page = pages.next().await.inspect_err(|error| tracing::error!("{error}"))?;
        if page.is_empty() {
            entries.end();
            return Ok(Some((entries.take(), None)));
        }
        entries.add_all(&page);
        Ok(Some((entries.take(), Some((entries, pages)))))
    });
    Body::from_stream(rest)
}

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
) -> Result<Response, ApiError> {
    let most = part.max_items.map(|items| u64::try_from(items).unwrap_or(0));
    let offset = part.offset.and_then(|offset| u64::try_from(offset).ok());
    let pages = state.queue.history_pages(most, offset).await;
    let mut pages = pages.map_err(ApiError::internal)?;
    let mut entries = Entries::default();
    entries.add_all(&pages.next().await.map_err(ApiError::internal)?);
    if !pages.is_done() {
        return Ok(answer(streamed(entries, pages)));
    }
    entries.end();
    Ok(answer(entries.take().into()))
}

/// One prompt that has ended; an empty object where there is none of this id.
#[utoipa::path(get, path = "/history/{prompt_id}", params(("prompt_id" = String, Path)),
    responses((status = 200, description = "The entry under its id")))]
async fn one(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let mut entries = Entries::default();
    if let Ok(id) = Uuid::try_parse(&id) {
        let record = state.queue.get(id).await.map_err(ApiError::internal)?;
        entries.add_all(record.filter(|record| record.job.state.is_ended()).as_slice());
    }
    entries.end();
    Ok(answer(entries.take().into()))
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
