//! Files of the page, where no route answers a request.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};

use crate::error::ApiError;
use crate::state::AppState;

/// The file of the page that a request is for, where no route answers it.
pub async fn file(State(state): State<AppState>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if !matches!(*request.method(), Method::GET | Method::HEAD) || path.starts_with("/api/") {
        return nothing(&path);
    }
    let found = state.config.web.file(request).await;
    found.unwrap_or_else(|| nothing(&path))
}

fn nothing(path: &str) -> Response {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is nothing at `{path}`")).into_response()
}
