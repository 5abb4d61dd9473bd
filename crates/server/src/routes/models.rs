//! Model files by kind.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use distorch_checkpoint::folders::{Entry, ModelKind};
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::object_info::blocking;
use crate::error::ApiError;
use crate::request::Path;
use crate::state::AppState;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(kinds, files, embeddings, described_kinds, described_files))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/models", get(kinds))
        .route("/models/{folder}", get(files))
        .route("/embeddings", get(embeddings))
        .route("/experiment/models", get(described_kinds))
        .route("/experiment/models/{folder}", get(described_files))
}

/// The kinds of model files.
#[utoipa::path(get, path = "/models", responses((status = 200, description = "Names of folders")))]
async fn kinds() -> Json<Value> {
    Json(json!(ModelKind::ALL.map(ModelKind::name)))
}

/// The names of the model files of a kind.
#[utoipa::path(get, path = "/models/{folder}", params(("folder" = String, Path)), responses(
    (status = 200, description = "Names of files"), (status = 404, description = "No such kind")))]
async fn files(
    State(state): State<AppState>,
    Path(folder): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let names: Vec<String> = list(state, &folder).await?.into_iter().map(|e| e.name).collect();
    Ok(Json(json!(names)))
}

/// The names of the embeddings, without their endings.
#[utoipa::path(get, path = "/embeddings", responses((status = 200, description = "Names")))]
async fn embeddings(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let entries = list(state, ModelKind::Embeddings.name()).await?;
    let stem = |entry: Entry| match entry.name.rsplit_once('.') {
        Some((stem, _)) => stem.to_owned(),
        None => entry.name,
    };
    Ok(Json(json!(entries.into_iter().map(stem).collect::<Vec<_>>())))
}

/// The kinds of model files with the folders that they are looked for in.
#[utoipa::path(get, path = "/experiment/models",
    responses((status = 200, description = "Kinds with folders and endings")))]
async fn described_kinds(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let described = ModelKind::ALL.map(|kind| {
        let mut extensions: Vec<_> =
            ModelKind::EXTENSIONS.iter().map(|ending| format!(".{ending}")).collect();
        extensions.sort();
        let roots = state.environment.session.folders.roots(kind).map_err(ApiError::internal)?;
        let folders: Vec<_> = roots.iter().map(|root| root.path.display().to_string()).collect();
        Ok(json!({ "name": kind.name(), "folders": folders, "extensions": extensions }))
    });
    let described = described.into_iter().collect::<Result<Vec<Value>, ApiError>>()?;
    Ok(Json(Value::Array(described)))
}

/// The model files of a kind with size and times.
#[utoipa::path(get, path = "/experiment/models/{folder}", params(("folder" = String, Path)),
    responses((status = 200, description = "Files with size and times"),
              (status = 404, description = "No such kind")))]
async fn described_files(
    State(state): State<AppState>,
    Path(folder): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let kind = kind(&folder)?;
    let entries = list(state.clone(), &folder).await?;
    let roots = state.environment.session.folders.roots(kind).map_err(ApiError::internal)?;
    let described = blocking(move || {
        let describe = |entry: Entry| {
            let data = std::fs::metadata(&entry.path).ok();
            let seconds = |time: Option<SystemTime>| {
                time?.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
            };
            let index = roots.iter().position(|root| root.path == entry.root);
            let modified = seconds(data.as_ref().and_then(|data| data.modified().ok()));
            let created = seconds(data.and_then(|data| data.created().ok())).or(modified);
            json!({
                "name": entry.name, "pathIndex": index.unwrap_or_default(),
                "modified": modified, "created": created, "size": entry.bytes,
            })
        };
        Value::Array(entries.into_iter().map(describe).collect())
    });
    described.await.map(Json)
}

/// The kind of this name.
pub(super) fn kind(name: &str) -> Result<ModelKind, ApiError> {
    name.parse().map_err(|_| {
        let names = ModelKind::ALL.map(ModelKind::name).join(", ");
        ApiError::not_found(format!("no kind of model is named `{name}`; there are {names}"))
    })
}

async fn list(state: AppState, folder: &str) -> Result<Vec<Entry>, ApiError> {
    let kind = kind(folder)?;
    let listing = blocking(move || state.environment.session.folders.list(kind)).await?;
    Ok(listing.map_err(ApiError::internal)?.entries)
}
