//! All prompts in one list: those that wait, run and have ended.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use distorch_queue::{Cancelled, Job, JobFilter, Record, SortBy, SortOrder, State as JobState};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use uuid::Uuid;

use super::history;
use super::prompt::whole;
use crate::error::ApiError;
use crate::request::{JsonBody, Path, Query};
use crate::state::AppState;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(list, one, cancel_one, cancel_some))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/jobs", get(list))
        .route("/jobs/cancel", post(cancel_some))
        .route("/jobs/{job_id}", get(one))
        .route("/jobs/{job_id}/cancel", post(cancel_one))
}

/// The names of states, as clients filter by them.
const STATES: [(&str, JobState); 5] = [
    ("pending", JobState::Pending),
    ("in_progress", JobState::Running),
    ("completed", JobState::Success),
    ("failed", JobState::Error),
    ("cancelled", JobState::Interrupted),
];

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    status: Option<String>,
    workflow_id: Option<String>,
    sort_by: Option<String>,
    sort_order: Option<String>,
    limit: Option<String>,
    offset: Option<String>,
}

/// Prompts in any state, by when they were queued or how long they ran.
#[utoipa::path(get, path = "/jobs", params(
    ("status" = Option<String>, Query, description = "States, with commas between"),
    ("workflow_id" = Option<String>, Query),
    ("sort_by" = Option<String>, Query, description = "`created_at` or `execution_duration`"),
    ("sort_order" = Option<String>, Query, description = "`asc` or `desc`"),
    ("limit" = Option<i64>, Query), ("offset" = Option<i64>, Query)),
    responses((status = 200, description = "`jobs` and `pagination`"),
              (status = 400, description = "Not as expected")))]
async fn list(
    State(state): State<AppState>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, ApiError> {
    let filter = filter(&asked)?;
    let page = state.queue.jobs(&filter).await.map_err(ApiError::internal)?;
    let jobs: Vec<Value> = page.jobs.iter().map(described).collect();
    let end = filter.offset.saturating_add(u64::try_from(jobs.len()).unwrap_or(u64::MAX));
    Ok(Json(json!({
        "jobs": jobs,
        "pagination": {
            "offset": filter.offset, "limit": filter.limit, "total": page.total,
            "has_more": end < page.total,
        },
    })))
}

fn filter(asked: &Asked) -> Result<JobFilter, ApiError> {
    let lower = |text: &Option<String>| text.as_deref().map(str::to_lowercase);
    let mut states = Vec::new();
    let status = asked.status.as_deref().unwrap_or_default().to_lowercase();
    for name in status.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let state = STATES.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            let known = STATES.map(|(name, _)| name).join(", ");
            ApiError::bad_request(format!("no status is named `{name}`; there are {known}"))
        })?;
        states.push(state.1);
    }
    let sort_by = match lower(&asked.sort_by).as_deref() {
        None | Some("created_at") => SortBy::Created,
        Some("execution_duration") => SortBy::Duration,
        Some(_) => {
            let text = "`sort_by` is `created_at` or `execution_duration`";
            return Err(ApiError::bad_request(text));
        }
    };
    let order = match lower(&asked.sort_order).as_deref() {
        None | Some("desc") => SortOrder::Descending,
        Some("asc") => SortOrder::Ascending,
        Some(_) => return Err(ApiError::bad_request("`sort_order` is `asc` or `desc`")),
    };
    let number = |name: &str, text: &Option<String>| match text.as_deref().map(str::parse::<i64>) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => Err(ApiError::bad_request(format!("`{name}` is no whole number"))),
    };
    let limit = match number("limit", &asked.limit)? {
        None => None,
        Some(limit @ 1..) => Some(limit.unsigned_abs()),
        Some(_) => return Err(ApiError::bad_request("`limit` is at least 1")),
    };
    let offset = number("offset", &asked.offset)?.and_then(|offset| u64::try_from(offset).ok());
    let workflow_id = asked.workflow_id.clone().filter(|id| !id.is_empty());
    Ok(JobFilter { states, workflow_id, sort_by, order, limit, offset: offset.unwrap_or_default() })
}

/// A prompt in listings. What is not known is left out.
fn described(job: &Job) -> Value {
    let status = STATES.iter().find(|(_, state)| *state == job.state).map(|(name, _)| *name);
    let mut shown = Map::new();
    let mut set = |name: &str, value: Value| {
        if !value.is_null() {
            shown.insert(name.to_owned(), value);
        }
    };
    set("id", json!(job.id));
    set("status", json!(status));
    set("priority", whole(job.number));
    set("create_time", json!(job.created));
    set("workflow_id", json!(job.workflow_id));
    set("outputs_count", json!(0));
    set("previewable_outputs_count", json!(0));
    if job.state != JobState::Pending {
        set("execution_start_time", json!(job.started));
        set("execution_end_time", json!(job.ended));
    }
    if let Some(Value::Object(summary)) = job.summary.as_ref().and_then(|s| s.parse().ok()) {
        summary.into_iter().for_each(|(name, value)| set(&name, value));
    }
    Value::Object(shown)
}

/// One prompt with its nodes, and its outputs where it has ended.
#[utoipa::path(get, path = "/jobs/{job_id}", params(("job_id" = String, Path)), responses(
    (status = 200, description = "The prompt"), (status = 404, description = "There is none")))]
async fn one(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let found: Option<Record> = match Uuid::try_parse(&id) {
        Ok(id) => state.queue.get(id).await.map_err(ApiError::internal)?,
        Err(_) => None,
    };
    let record = found.ok_or_else(|| ApiError::not_found("Job not found"))?;
    let mut job = described(&record.job);
    let payload = &record.payload;
    job["workflow"] = json!({ "prompt": payload.prompt, "extra_data": payload.extra_data });
    if record.job.state.is_ended() {
        let (outputs, status) = history::result(&record);
        job["outputs"] = outputs;
        job["execution_status"] = status;
    }
    Ok(Json(job))
}

/// Takes a prompt out that waits, or stops one that runs.
#[utoipa::path(post, path = "/jobs/{job_id}/cancel", params(("job_id" = String, Path)),
    responses((status = 200, description = "`cancelled`: whether there was something to cancel")))]
async fn cancel_one(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let cancelled = match Uuid::try_parse(&id) {
        Ok(id) => cancel(&state, id).await?,
        Err(_) => false,
    };
    Ok(Json(json!({ "cancelled": cancelled })))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ids {
    job_ids: Option<Vec<Value>>,
}

/// Cancels several prompts: `job_ids`. Those that have ended are left as they are.
#[utoipa::path(post, path = "/jobs/cancel", request_body = Object,
    responses((status = 200, description = "`cancelled`: whether there was something to cancel"),
              (status = 400, description = "Not as expected; `invalid_ids` are no ids")))]
async fn cancel_some(
    State(state): State<AppState>,
    JsonBody(ids): JsonBody<Ids>,
) -> Result<Json<Value>, ApiError> {
    let ids = ids.job_ids.ok_or_else(|| ApiError::bad_request("job_ids must be a list"))?;
    let read = |id: &Value| {
        let text = id.as_str()?;
        Uuid::try_parse(text).ok().filter(|id| id.to_string() == text)
    };
    let invalid: Vec<&Value> = ids.iter().filter(|id| read(id).is_none()).collect();
    if !invalid.is_empty() {
        let body = json!({ "error": "job_ids contains invalid id(s)", "invalid_ids": invalid });
        return Err(ApiError::with_body(StatusCode::BAD_REQUEST, body));
    }
    let mut cancelled = false;
    for id in ids.iter().filter_map(read) {
        cancelled |= cancel(&state, id).await?;
    }
    Ok(Json(json!({ "cancelled": cancelled })))
}

async fn cancel(state: &AppState, id: Uuid) -> Result<bool, ApiError> {
    let cancelled = state.queue.cancel(id).await.map_err(ApiError::internal)?;
    Ok(cancelled != Cancelled::NotActive)
}
