//! Whether the server is there.

use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use utoipa::OpenApi;

use crate::state::AppState;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(healthz))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new().route("/healthz", get(healthz))
}

/// Whether the server answers.
#[utoipa::path(get, path = "/healthz", responses((status = 200, description = "It does")))]
async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}
