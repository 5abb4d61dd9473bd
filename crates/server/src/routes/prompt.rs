//! Queueing prompts.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use distorch_queue::{Error as QueueError, Json as Stored, NewJob, Requirements};
use distorch_workflow::graph::{Prompt, PromptError};
use distorch_workflow::validate::{self, Invalid, Valid};
use http::{HeaderMap, StatusCode};
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use uuid::Uuid;

use super::object_info::blocking;
use crate::error::ApiError;
use crate::execution::{milliseconds, requirements};
use crate::request::JsonBody;
use crate::state::AppState;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(waiting, queue))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new().route("/prompt", get(waiting).post(queue))
}

/// What a client sends with a prompt. What belongs to accounts elsewhere is not kept.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Sent {
    /// Nodes by id, kept in the client's order.
    prompt: Option<Stored>,
    prompt_id: Option<Value>,
    client_id: Option<String>,
    number: Option<Value>,
    front: Option<Value>,
    extra_data: Option<Map<String, Value>>,
    partial_execution_targets: Option<Vec<String>>,
}

/// What is sent with prompts and is of no use here: keys of accounts.
const SECRETS: [&str; 2] = ["auth_token_comfy_org", "api_key_comfy_org"];

/// How many prompts wait or run.
#[utoipa::path(get, path = "/prompt", responses((status = 200, description = "`exec_info.queue_remaining`")))]
async fn waiting(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let remaining = state.queue.remaining().await.map_err(ApiError::internal)?;
    Ok(Json(json!({ "exec_info": { "queue_remaining": remaining } })))
}

/// Queues a prompt in the API format, which is checked first.
#[utoipa::path(post, path = "/prompt", request_body = Object, responses(
    (status = 200, description = "`prompt_id`, `number`, and `node_errors` of outputs that cannot be run"),
    (status = 400, description = "`error` and `node_errors`: why it cannot be run"),
    (status = 503, description = "The queue is full")))]
async fn queue(
    State(state): State<AppState>,
    headers: HeaderMap,
    JsonBody(sent): JsonBody<Sent>,
) -> Result<Json<Value>, ApiError> {
    let usage = headers.get("comfy-usage-source").and_then(|value| value.to_str().ok());
    let Queued { id, number, node_errors } = put(&state, sent, usage).await?;
    Ok(Json(json!({ "prompt_id": id, "number": whole(number), "node_errors": node_errors })))
}

/// A prompt that was queued.
struct Queued {
    id: Uuid,
    number: f64,
    node_errors: IndexMap<String, validate::NodeProblems>,
}

/// Queues a prompt, and returns its id.
pub(super) async fn submit(
    state: &AppState,
    sent: Sent,
    usage: Option<&str>,
) -> Result<Uuid, ApiError> {
    put(state, sent, usage).await.map(|queued| queued.id)
}

async fn put(state: &AppState, sent: Sent, usage: Option<&str>) -> Result<Queued, ApiError> {
    let Some(prompt) = sent.prompt else {
        return Err(ApiError::prompt("no_prompt", "No prompt provided", "No prompt provided"));
    };
    let id = prompt_id(sent.prompt_id.as_ref())?;
    let number = sent.number.as_ref().map(number).transpose()?;
    let mut extra_data = sent.extra_data.unwrap_or_default();
    extra_data.retain(|key, _| !SECRETS.contains(&key.as_str()));
    if let Some(client) = &sent.client_id {
        extra_data.insert("client_id".to_owned(), json!(client));
    }
    if let Some(usage) = usage {
        extra_data.entry("comfy_usage_source").or_insert_with(|| json!(usage));
    }
    let (checked, targets) = (state.clone(), sent.partial_execution_targets);
    let text = prompt.clone();
    let (parsed, valid) = blocking(move || check(&checked, &text, targets.as_deref())).await??;
    extra_data.insert("create_time".to_owned(), json!(milliseconds()));
    let workflow_id = extra_data
        .get("extra_pnginfo")
        .and_then(|info| info["workflow"]["id"].as_str())
        .map(str::to_owned);
    let own = || extra_data.get("client_id")?.as_str().map(str::to_owned);
    let client_id = sent.client_id.clone().or_else(own);
    let job = NewJob {
        id,
        client_id,
        workflow_id,
        prompt,
        extra_data: Stored::from(Value::Object(extra_data)),
        outputs: valid.outputs,
        number,
        front: sent.front.is_some_and(|front| is_true(&front)),
        requires: match (state.has_other_machines(), requirements(&parsed, &state.registry)) {
            (true, needs) => needs,
            // This process runs it, which has just checked it, or one with the same devices and models.
            (false, Requirements { occupies, .. }) => {
                Requirements { occupies, ..Requirements::default() }
            }
        },
    };
    let number = state.queue.submit(&job).await.map_err(refused)?;
    metrics::counter!("distorch_prompts_queued_total").increment(1);
    Ok(Queued { id, number, node_errors: valid.node_errors })
}

/// Reads and checks a prompt.
fn check(
    state: &AppState,
    text: &Stored,
    targets: Option<&[String]>,
) -> Result<(Prompt, Valid), ApiError> {
    let prompt = read(state, text)?;
    let validated = match targets {
        None => validate::validate(&prompt, &state.registry, &state.environment),
        Some(targets) => check_some(state, &prompt, targets),
    };
    let valid = validated.map_err(invalid)?;
    Ok((prompt, valid))
}

fn read(state: &AppState, text: &Stored) -> Result<Prompt, ApiError> {
    let nodes: IndexMap<String, Value> = text.parse().map_err(|error| {
        let message = "The prompt is no object of nodes";
        ApiError::prompt("invalid_prompt", message, error.to_string())
    })?;
    // Without it the prompt would be read as one in another form.
    if let Some((id, _)) = nodes.iter().find(|(_, node)| !node.is_object()) {
        let details = format!("node `{id}` is no object");
        return Err(ApiError::prompt("invalid_prompt", "A node is no object", details));
    }
    let wrapped = format!("{{\"prompt\":{}}}", text.as_str());
    Prompt::from_json(&wrapped, &state.registry).map_err(|error| match error {
        PromptError::Shape { ref place, .. } if place.ends_with("`class_type`") => {
            let message = "A node has no class_type";
            ApiError::prompt("missing_node_type", message, error.to_string())
        }
        error => ApiError::prompt("invalid_prompt", "The prompt cannot be read", error.to_string()),
    })
}

/// Checks some of the output nodes.
fn check_some(state: &AppState, prompt: &Prompt, targets: &[String]) -> Result<Valid, Invalid> {
    let (registry, environment) = (&state.registry, &state.environment);
    let is_output = |id: &&String| {
        let node = prompt.nodes.get(*id);
        let class = node.and_then(|node| registry.find(&node.class));
        class.is_some_and(|class| class.is_output)
    };
    let wanted: Vec<&String> = targets.iter().filter(is_output).collect();
    let problem = |kind, message, details| {
        let error = validate::Problem::new(kind, message, details);
        Invalid { error, node_errors: IndexMap::new() }
    };
    if wanted.is_empty() {
        let details = "none of the nodes that were asked for saves or shows something";
        return Err(problem("prompt_no_outputs", "Prompt has no outputs", details));
    }
    let ids = wanted.iter().map(|id| id.as_str());
    let (outputs, node_errors) = validate::check(prompt, registry, environment, ids);
    match outputs.is_empty() {
        true => {
            let kind = "prompt_outputs_failed_validation";
            Err(Invalid { node_errors, ..problem(kind, "Prompt outputs failed validation", "") })
        }
        false => Ok(Valid { outputs, node_errors }),
    }
}

fn invalid(invalid: Invalid) -> ApiError {
    tracing::warn!("prompt refused: {invalid}");
    ApiError::with_body(StatusCode::BAD_REQUEST, json!(invalid))
}

/// The id that a client gave, which is compared as text everywhere: only its usual form is taken.
fn prompt_id(given: Option<&Value>) -> Result<Uuid, ApiError> {
    let text = match given {
        None | Some(Value::Null) => return Ok(Uuid::new_v4()),
        Some(value) => value.as_str().unwrap_or_default(),
    };
    match Uuid::try_parse(text) {
        Ok(id) if id.to_string() == text => Ok(id),
        _ => Err(ApiError::prompt(
            "invalid_prompt_id",
            "prompt_id must be a valid UUID",
            "write it in lower case with hyphens, or leave it out",
        )),
    }
}

/// A number as clients write it: as one, or as text.
fn number(given: &Value) -> Result<f64, ApiError> {
    let number = match given {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(is_one) => Some(f64::from(u8::from(*is_one))),
        _ => None,
    };
    let number = number.filter(|number| number.is_finite());
    number.ok_or_else(|| ApiError::bad_request("`number` is no finite number"))
}

/// What Python takes for true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// A number as JSON: whole where it is.
pub(super) fn whole(number: f64) -> Value {
    match number.fract() == 0.0 && number.abs() < 9e15 {
        true => json!(number as i64),
        false => json!(number),
    }
}

fn refused(error: QueueError) -> ApiError {
    let status = match error {
        QueueError::Full { .. } => StatusCode::SERVICE_UNAVAILABLE,
        QueueError::Duplicate { .. } | QueueError::Nul { .. } | QueueError::Number { .. } => {
            StatusCode::BAD_REQUEST
        }
        other => return ApiError::internal(other),
    };
    let kind = if status == StatusCode::BAD_REQUEST { "invalid_prompt" } else { "queue_full" };
    let text = error.to_string();
    let error = json!({ "type": kind, "message": text, "details": "", "extra_info": {} });
    ApiError::with_body(status, json!({ "error": error, "node_errors": {} }))
}
