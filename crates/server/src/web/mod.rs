//! What browsers are shown: a page of our own, or ComfyUI's official frontend.

pub mod find;
mod official;
mod own;

pub use find::{Frontend, FrontendError};
pub(crate) use official::serve;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};

use crate::error::ApiError;
use crate::state::AppState;

/// What browsers are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Web {
    /// The page of our own.
    #[default]
    Own,
    /// ComfyUI's frontend, unpacked in a folder.
    Official(Frontend),
}

/// The file of the page that a request is for, where no route answers it.
pub async fn file(State(state): State<AppState>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if !matches!(*request.method(), Method::GET | Method::HEAD) || path.starts_with("/api/") {
        return nothing(&path);
    }
    let found = match &state.config.web {
        Web::Own => own::file(&request),
        Web::Official(frontend) => official::file(frontend, request).await,
    };
    found.unwrap_or_else(|| nothing(&path))
}

fn nothing(path: &str) -> Response {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is nothing at `{path}`")).into_response()
}
