//! The routes: one file a topic, each with its handlers, a `routes` function and its part of the OpenAPI file.
//!
//! To add a topic, write a file with `pub fn routes() -> Router<AppState>` and a `#[derive(OpenApi)] struct Api`, and add
//! a line to `api` and to `openapi` below.

pub mod devices;
mod folders;
pub mod frontend;
pub mod gallery;
pub mod health;
pub mod history;
pub mod internal;
pub mod jobs;
pub mod metrics;
pub mod models;
pub mod object_info;
pub mod openai;
mod page;
mod picture;
pub mod plan;
pub mod prompt;
pub mod queue;
pub mod system;
pub mod upload;
pub mod userdata;
pub mod users;
pub mod view;

use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{Method, StatusCode};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use utoipa::OpenApi;

use crate::error::ApiError;
use crate::lingering;
use crate::safety;
use crate::socket;
use crate::state::AppState;

/// The routes that are there with and without `/api`.
fn api(state: &AppState) -> Router<AppState> {
    Router::new()
        .merge(devices::routes())
        .merge(frontend::routes())
        .merge(gallery::routes())
        .merge(history::routes())
        .merge(internal::routes())
        .merge(jobs::routes())
        .merge(models::routes())
        .merge(object_info::routes())
        .merge(plan::routes())
        .merge(prompt::routes())
        .merge(queue::routes())
        .merge(socket::routes())
        .merge(system::routes())
        .merge(upload::routes(state.config.limits.upload_bytes))
        .merge(userdata::routes())
        .merge(users::routes())
        .merge(view::routes())
}

/// The routes that are there once.
fn once() -> Router<AppState> {
    Router::new()
        .merge(frontend::files())
        .merge(health::routes())
        .merge(metrics::routes())
        .merge(openai::routes())
        .route("/openapi.json", get(openapi_file))
}

/// The description of all routes.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut file = Description::openapi();
    for part in [
        devices::Api::openapi(),
        frontend::Api::openapi(),
        gallery::Api::openapi(),
        health::Api::openapi(),
        history::Api::openapi(),
        internal::Api::openapi(),
        jobs::Api::openapi(),
        metrics::Api::openapi(),
        models::Api::openapi(),
        object_info::Api::openapi(),
        openai::Api::openapi(),
        plan::Api::openapi(),
        prompt::Api::openapi(),
        queue::Api::openapi(),
        system::Api::openapi(),
        upload::Api::openapi(),
        userdata::Api::openapi(),
        users::Api::openapi(),
        view::Api::openapi(),
    ] {
        file.merge(part);
    }
    // Handlers have short names, which are not the only ones of their kind.
    for (path, item) in &mut file.paths.paths {
        let operations = [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                operation.operation_id = Some(format!("{method} {path}"));
            }
        }
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
    let routes = Router::new().nest("/api", api(&state)).merge(api(&state)).merge(once());
    let routes = routes
        .fallback(page::file)
        .method_not_allowed_fallback(wrong_method)
        .layer(limit)
        .layer(CompressionLayer::new());
    safety::guard(routes, &state)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(axum::middleware::from_fn(counted))
        .layer(axum::middleware::from_fn(lingering::read_to_the_end))
        .with_state(state)
}

/// Counts requests by the status of their answers.
async fn counted(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    ::metrics::counter!("distorch_requests_total", "status" => status).increment(1);
    response
}

async fn wrong_method(method: Method, uri: http::Uri) -> ApiError {
    let text = format!("`{}` does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

/// A fault in a handler ends that request only.
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    ApiError::internal("a handler panicked").into_response()
}
