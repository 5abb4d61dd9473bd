//! The routes: one file a topic, each with its handlers, a `routes` function and its part of the OpenAPI file.
//!
//! To add a topic, write a file with `pub fn routes() -> Router<AppState>` and a `#[derive(OpenApi)] struct Api`, and add
//! a line to `api` and to `openapi` below.

pub mod health;
pub mod models;
pub mod object_info;
pub mod system;

use axum::extract::DefaultBodyLimit;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use http::{Method, StatusCode};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use utoipa::OpenApi;

use crate::error::ApiError;
use crate::safety;
use crate::socket;
use crate::state::AppState;

/// The routes that are there with and without `/api`.
fn api() -> Router<AppState> {
    Router::new()
        .merge(models::routes())
        .merge(object_info::routes())
        .merge(socket::routes())
        .merge(system::routes())
}

/// The routes that are there once.
fn once() -> Router<AppState> {
    Router::new().merge(health::routes()).route("/openapi.json", get(openapi_file))
}

/// The description of all routes.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut file = Description::openapi();
    for part in [
        health::Api::openapi(),
        models::Api::openapi(),
        object_info::Api::openapi(),
        system::Api::openapi(),
    ] {
        file.merge(part);
    }
    file
}

#[derive(OpenApi)]
#[openapi(info(
    title = "distorch",
    description = "ComfyUI's API. Each route is there under `/api` too."
))]
struct Description;

async fn openapi_file() -> impl IntoResponse {
    Json(openapi())
}

/// All routes with everything that stands before them: who may come in, limits, compression.
pub fn router(state: AppState) -> Router {
    let limit = DefaultBodyLimit::max(state.config.limits.body_bytes);
    let routes = Router::new().nest("/api", api()).merge(api()).merge(once());
    let routes = routes
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(limit)
        .layer(CompressionLayer::new());
    safety::guard(routes, &state).layer(CatchPanicLayer::custom(panicked)).with_state(state)
}

async fn nothing_here(uri: http::Uri) -> ApiError {
    ApiError::not_found(format!("there is nothing at `{}`", uri.path()))
}

async fn wrong_method(method: Method, uri: http::Uri) -> ApiError {
    let text = format!("`{}` does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

/// A fault in a handler ends that request only.
fn panicked(_: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    ApiError::internal("a handler panicked").into_response()
}
