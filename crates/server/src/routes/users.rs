//! Users and their settings. There is one user, as in ComfyUI without `--multi-user`.

use std::path::{Path as FilePath, PathBuf};
use std::sync::{Mutex, PoisonError};

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::object_info::blocking;
use crate::error::ApiError;
use crate::request::{JsonBody, Path};
use crate::state::AppState;

/// The file of the settings, with ComfyUI's name.
const SETTINGS: &str = "comfy.settings.json";

/// Held while settings change: two changes at once would each write the other's old value.
static CHANGES: Mutex<()> = Mutex::new(());

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(users, add_user, settings, change_settings, setting, change_setting))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/users", get(users).post(add_user))
        .route("/settings", get(settings).post(change_settings))
        .route("/settings/{id}", get(setting).post(change_setting))
}

/// The folder with the user's files.
pub(super) fn folder(state: &AppState) -> PathBuf {
    state.environment.session.folders.base_dir().join("user").join("default")
}

/// Where settings are kept.
#[utoipa::path(get, path = "/users", responses((status = 200, description = "`storage` and `migrated`")))]
async fn users(State(state): State<AppState>) -> Json<Value> {
    Json(json!({ "storage": "server", "migrated": folder(&state).is_dir() }))
}

/// There are no further users.
#[utoipa::path(post, path = "/users", request_body = Value,
    responses((status = 400, description = "Always: there is one user")))]
async fn add_user() -> ApiError {
    ApiError::bad_request("this server has one user, as ComfyUI without `--multi-user`")
}

/// All settings by name.
#[utoipa::path(get, path = "/settings", responses((status = 200, description = "Values by name")))]
async fn settings(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let settings = blocking(move || read(&folder(&state))).await??;
    Ok(Json(Value::Object(settings)))
}

/// One setting; null where it was never set.
#[utoipa::path(get, path = "/settings/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "Its value")))]
async fn setting(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let mut settings = blocking(move || read(&folder(&state))).await??;
    Ok(Json(settings.remove(&id).unwrap_or(Value::Null)))
}

/// Sets those that are named.
#[utoipa::path(post, path = "/settings", request_body = Value, responses((status = 200), (status = 400)))]
async fn change_settings(
    State(state): State<AppState>,
    JsonBody(changes): JsonBody<Map<String, Value>>,
) -> Result<StatusCode, ApiError> {
    blocking(move || change(&state, changes)).await??;
    Ok(StatusCode::OK)
}

/// Sets one.
#[utoipa::path(post, path = "/settings/{id}", params(("id" = String, Path)), request_body = Value,
    responses((status = 200), (status = 400)))]
async fn change_setting(
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonBody(value): JsonBody<Value>,
) -> Result<StatusCode, ApiError> {
    blocking(move || change(&state, Map::from_iter([(id, value)]))).await??;
    Ok(StatusCode::OK)
}

fn read(folder: &FilePath) -> Result<Map<String, Value>, ApiError> {
    let path = folder.join(SETTINGS);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            ApiError::internal(format!("`{}` is no JSON object: {error}", path.display()))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(error) => Err(ApiError::internal(format!("cannot read `{}`: {error}", path.display()))),
    }
}

fn change(state: &AppState, changes: Map<String, Value>) -> Result<(), ApiError> {
    let _alone = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder(state);
    let mut settings = read(&folder)?;
    settings.extend(changes);
    let bytes = serde_json::to_vec_pretty(&settings).map_err(ApiError::internal)?;
    super::userdata::replace(&folder.join(SETTINGS), &bytes).map_err(ApiError::internal)
}
