//! What frontends ask beside the API: the log, folders, files.

use std::time::SystemTime;

use axum::extract::State;
use axum::routing::{get, patch};
use axum::{Json, Router};
use distorch_checkpoint::folders::ModelKind;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::folders::Folder;
use super::object_info::blocking;
use crate::error::ApiError;
use crate::request::{JsonBody, Path};
use crate::state::AppState;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(logs, raw_logs, subscribe, folder_paths, files))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/internal/logs", get(logs))
        .route("/internal/logs/raw", get(raw_logs))
        .route("/internal/logs/subscribe", patch(subscribe))
        .route("/internal/folder_paths", get(folder_paths))
        .route("/internal/files/{folder}", get(files))
}

/// The last lines of the log as one text.
#[utoipa::path(get, path = "/internal/logs", responses((status = 200, description = "A text")))]
async fn logs(State(state): State<AppState>) -> Json<String> {
    Json(state.logs.text())
}

/// The last lines of the log with their times.
#[utoipa::path(get, path = "/internal/logs/raw",
    responses((status = 200, description = "`entries`, each with its time `t` and its text `m`")))]
async fn raw_logs(State(state): State<AppState>) -> Json<Value> {
    Json(json!({ "entries": state.logs.entries(), "size": { "cols": 120, "rows": 40 } }))
}

#[derive(Deserialize)]
struct Subscription {
    #[serde(rename = "clientId")]
    client_id: String,
    #[serde(default)]
    enabled: bool,
}

/// Says whether a client is sent further lines of the log, as messages `logs`.
#[utoipa::path(patch, path = "/internal/logs/subscribe", request_body = Object,
    responses((status = 200, description = "Done"), (status = 400, description = "Not as expected")))]
async fn subscribe(
    State(state): State<AppState>,
    JsonBody(subscription): JsonBody<Subscription>,
) -> StatusCode {
    state.clients.subscribe_logs(&subscription.client_id, subscription.enabled);
    StatusCode::OK
}

/// The folders that models are looked for in, by kind.
#[utoipa::path(get, path = "/internal/folder_paths", responses((status = 200, description = "Paths by kind")))]
async fn folder_paths(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let mut all = Map::new();
    for kind in ModelKind::ALL {
        let roots = state.environment.session.folders.roots(kind).map_err(ApiError::internal)?;
        let paths = roots.iter().map(|root| json!(root.path.display().to_string()));
        all.insert(kind.name().to_owned(), paths.collect());
    }
    Ok(Json(Value::Object(all)))
}

/// The names of the files right in a folder, the newest first.
#[utoipa::path(get, path = "/internal/files/{folder}", params(("folder" = String, Path)), responses(
    (status = 200, description = "Names"), (status = 400, description = "No such folder")))]
async fn files(
    State(state): State<AppState>,
    Path(folder): Path<String>,
) -> Result<Json<Vec<String>>, ApiError> {
    let folder = Folder::named(&folder)?;
    let names = blocking(move || {
        let entries = std::fs::read_dir(folder.path(&state.environment));
        let named = |entry: std::fs::DirEntry| {
            let data = entry.metadata().ok().filter(|data| data.is_file())?;
            let modified = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let name = entry.file_name().into_string().ok()?;
            (!name.starts_with('.')).then_some((modified, name))
        };
        let mut files: Vec<_> = entries.into_iter().flatten().flatten().filter_map(named).collect();
        files.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        files.into_iter().map(|(_, name)| name).collect()
    });
    names.await.map(Json)
}
