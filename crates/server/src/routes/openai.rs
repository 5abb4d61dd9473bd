//! Pictures for clients of OpenAI's API, who have no workflow: one of ours runs.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use distorch_checkpoint::folders::ModelKind;
use distorch_queue::{NoticeKind, Queue, Record, State as JobState};
use distorch_workflow::amend::Missing;
use distorch_workflow::graph::Prompt;
use http::header::HOST;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::OpenApi;
use uuid::Uuid;

use super::folders::{self, Folder};
use super::object_info::blocking;
use super::prompt::{self, Sent};
use crate::error::ApiError;
use crate::request::body;
use crate::state::AppState;

/// The most pictures of one request, as OpenAI has it.
const MOST_PICTURES: u32 = 10;

/// The class of the latent's node: all families' but some of 16 channels, which take theirs from its size.
const LATENT: &str = "EmptyLatentImage";

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(generations))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new().route("/v1/images/generations", post(generations))
}

/// What is asked for. What OpenAI's models take and ours do not (`quality`, `style`, …) is not read; `negative_prompt`,
/// `seed`, `steps` and `cfg` are this server's own.
#[derive(Deserialize)]
struct Asked {
    model: Option<String>,
    prompt: Option<String>,
    n: Option<u32>,
    size: Option<String>,
    response_format: Option<String>,
    #[serde(default)]
    negative_prompt: String,
    seed: Option<u64>,
    steps: Option<u32>,
    cfg: Option<f64>,
}

/// An error in OpenAI's shape.
struct OpenAiError {
    status: StatusCode,
    message: String,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

impl OpenAiError {
    fn of(param: &'static str, message: impl Into<String>) -> Self {
        let (status, message) = (StatusCode::BAD_REQUEST, message.into());
        Self { status, message, param: Some(param), code: None }
    }
}

impl From<ApiError> for OpenAiError {
    fn from(error: ApiError) -> Self {
        Self { status: error.status(), message: error.message(), param: None, code: None }
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let Self { status, message, param, code } = self;
        let kind = match status.is_server_error() {
            true => "server_error",
            false => "invalid_request_error",
        };
        let error = json!({ "message": message, "type": kind, "param": param, "code": code });
        (status, Json(json!({ "error": error }))).into_response()
    }
}

/// Makes pictures of a prompt (`prompt`) with a checkpoint (`model`: its file's name): `n` of them, of a `size` such as
/// `1024x1024` or `auto`. They come as links (`response_format` `url`) or as Base64 (`b64_json`).
#[utoipa::path(post, path = "/v1/images/generations", request_body = Object, responses(
    (status = 200, description = "`created` and `data`, a list with `url` or `b64_json`"),
    (status = 400, description = "Not as expected"), (status = 404, description = "No such model"),
    (status = 500, description = "The prompt failed"), (status = 503, description = "The queue is full")))]
async fn generations(
    State(state): State<AppState>,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<Value>, OpenAiError> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let bytes = body(request, &state).await?;
    let asked: Asked = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is not as expected: {error}")))?;
    let as_base64 = match asked.response_format.as_deref() {
        None | Some("url") => false,
        Some("b64_json") => true,
        Some(_) => return Err(OpenAiError::of("response_format", "it is `url` or `b64_json`")),
    };
    let checked = state.clone();
    let text = blocking(move || workflow(&checked, &asked)).await??;
    let record = run(&state, text).await?;
    let pictures = pictures(&record)?;
    let mut data = Vec::new();
    for picture in pictures {
        data.push(match as_base64 {
            true => json!({ "b64_json": STANDARD.encode(read(&state, &picture).await?) }),
            false => json!({ "url": link(&state, host.as_deref(), &picture) }),
        });
    }
    let created = record.job.ended.unwrap_or(record.job.created) / 1000;
    Ok(Json(json!({ "created": created, "data": data, "output_format": "png" })))
}

/// The workflow of a request, in the API format.
fn workflow(state: &AppState, asked: &Asked) -> Result<String, OpenAiError> {
    let folders = &state.environment.session.folders;
    let text = asked.prompt.as_deref().filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| OpenAiError::of("prompt", "a prompt is needed"))?;
    let model = asked.model.as_deref().ok_or_else(|| {
        OpenAiError::of(
            "model",
            "a model is needed: the name of a checkpoint, as `/models/checkpoints` lists it",
        )
    })?;
    let path = folders.resolve(ModelKind::Checkpoints, model).map_err(|error| OpenAiError {
        status: StatusCode::NOT_FOUND,
        message: error.to_string(),
        param: Some("model"),
        code: Some("model_not_found"),
    })?;
    let file = state.environment.session.models.open(model, &path.into());
    let file = file.map_err(|error| OpenAiError::of("model", error.to_string()))?;
    let count = asked.n.unwrap_or(1);
    if !(1..=MOST_PICTURES).contains(&count) {
        return Err(OpenAiError::of("n", format!("it is 1 to {MOST_PICTURES}")));
    }
    let native = file.native();
    let (width, height) = match asked.size.as_deref() {
        None | Some("auto") => (native.width, native.height),
        Some(size) => size
            .split_once('x')
            .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)))
            .ok_or_else(|| OpenAiError::of("size", "it is `auto`, or such as `1024x1024`"))?,
    };
    // As large as numbers are that ComfyUI's clients write exactly.
    let seed = asked.seed.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0 >> 12);
    let device = state.environment.session.topology().default_compute().to_string();
    let nodes = json!({
        "3": { "class_type": "KSampler", "inputs": {
            "seed": seed, "steps": asked.steps.unwrap_or(20), "cfg": asked.cfg.unwrap_or(8.0),
            "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
        } },
        "4": { "class_type": "CheckpointLoaderAdvancedDisTorch2MultiGPU", "inputs": {
            "ckpt_name": model, "unet_compute_device": device, "unet_donor_device": "cpu",
            "clip_compute_device": "cpu", "clip_donor_device": "cpu", "vae_device": device,
        } },
        "5": { "class_type": LATENT, "inputs": {
            "width": width, "height": height, "batch_size": count,
        } },
        "6": { "class_type": "CLIPTextEncode", "inputs": { "text": text, "clip": ["4", 1] } },
        "7": { "class_type": "CLIPTextEncode",
               "inputs": { "text": asked.negative_prompt, "clip": ["4", 1] } },
        "8": { "class_type": "VAEDecode", "inputs": { "samples": ["3", 0], "vae": ["4", 2] } },
        "9": { "class_type": "SaveImage",
               "inputs": { "filename_prefix": "images/generated", "images": ["8", 0] } },
    });
    let mut prompt = Prompt::from_json(&nodes.to_string(), &state.registry)
        .map_err(|error| ApiError::internal(error.to_string()))?;
    prompt.fill_in(Missing::Any, &state.registry);
    Ok(prompt.to_json().to_string())
}

/// Queues a prompt and waits for its end. A client that goes away takes its prompt along.
async fn run(state: &AppState, text: String) -> Result<Record, OpenAiError> {
    let mut notices = state.queue.subscribe();
    let sent = format!("{{\"prompt\":{text}}}");
    let sent: Sent = serde_json::from_str(&sent).map_err(ApiError::internal)?;
    let id = prompt::submit(state, sent, None).await?;
    let waiting = Waiting { queue: state.queue.clone(), id, done: false };
    loop {
        // It may have ended before this is looked at.
        let record = state.queue.get(id).await.map_err(ApiError::internal)?;
        match record {
            None => {
                return Err(ApiError::new(StatusCode::CONFLICT, "the prompt was cancelled").into());
            }
            Some(record) if record.job.state.is_ended() => {
                waiting.over();
                return Ok(record);
            }
            Some(_) => {}
        }
        loop {
            let notice = notices.next().await;
            let Some(notice) = notice else {
                return Err(ApiError::internal("the queue was closed").into());
            };
            let is_mine = notice.job.is_none_or(|job| job == id);
            let ends = [NoticeKind::Finished, NoticeKind::Removed, NoticeKind::Missed];
            if is_mine && ends.contains(&notice.kind) {
                break;
            }
        }
    }
}

/// A prompt that somebody waits for: it is cancelled where the wait is given up.
struct Waiting {
    queue: Queue,
    id: Uuid,
    done: bool,
}

impl Waiting {
    fn over(mut self) {
        self.done = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (queue, id) = (self.queue.clone(), self.id);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = queue.cancel(id).await {
                    tracing::warn!(prompt = %id, "a prompt could not be cancelled: {error}");
                }
            });
        }
    }
}

/// The pictures of a prompt, or why there are none.
fn pictures(record: &Record) -> Result<Vec<Value>, OpenAiError> {
    let summary: Value =
        record.job.summary.as_ref().and_then(|s| s.parse().ok()).unwrap_or_default();
    if record.job.state != JobState::Success {
        let said = summary["execution_error"]["exception_message"].as_str();
        let message = match (record.job.state, said.or(record.job.error.as_deref())) {
            (JobState::Interrupted, _) => "the prompt was cancelled",
            (_, Some(said)) => said,
            (_, None) => "the prompt failed",
        };
        let status = match record.job.state {
            JobState::Interrupted => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        return Err(ApiError::new(status, message).into());
    }
    let result = record.result.as_ref();
    let outputs: Value = result.and_then(|result| result.outputs.parse().ok()).unwrap_or_default();
    Ok(outputs["9"]["images"].as_array().cloned().unwrap_or_default())
}

/// The bytes of a picture.
async fn read(state: &AppState, picture: &Value) -> Result<Vec<u8>, ApiError> {
    let text = |name: &str| picture[name].as_str().unwrap_or_default().to_owned();
    let (name, subfolder) = (text("filename"), text("subfolder"));
    let path = folders::find(state, name, subfolder, Folder::Output).await?;
    blocking(move || std::fs::read(path).map_err(ApiError::internal)).await?
}

/// Where a picture is to be had.
fn link(state: &AppState, host: Option<&str>, picture: &Value) -> String {
    let scheme = if state.config.tls.is_some() { "https" } else { "http" };
    let text = |name: &str| picture[name].as_str().unwrap_or_default();
    // These are names that this program made, of characters that stand for themselves in a query.
    format!(
        "{scheme}://{}/view?filename={}&subfolder={}&type=output",
        host.unwrap_or("localhost"),
        text("filename"),
        text("subfolder"),
    )
}
