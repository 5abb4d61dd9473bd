//! The nodes as clients read them.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use distorch_workflow::describe;
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use utoipa::OpenApi;

use crate::error::ApiError;
use crate::node_texts::{Described, Nodes};
use crate::request::Path;
use crate::state::AppState;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(all, one))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new().route("/object_info", get(all)).route("/object_info/{class}", get(one))
}

/// All nodes by class, with their inputs and outputs. Lists of files are read afresh.
#[utoipa::path(get, path = "/object_info", responses((status = 200, description = "Nodes by class")))]
async fn all(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let nodes = blocking(move || state.nodes.text(&state.registry, &state.environment)).await??;
    let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let vary = (VARY, HeaderValue::from_static("accept-encoding"));
    Ok(match takes_gzip(&headers) {
        true => {
            let gzip = (CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            ([json, vary, gzip], nodes.gzip.clone()).into_response()
        }
        false => ([json, vary], nodes.plain.clone()).into_response(),
    })
}

/// Whether a client takes answers that are packed with gzip.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|coding| {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_ok_and(|weight| weight > 0.0)
    })
}

/// One node; an empty object where there is none of this class.
#[utoipa::path(get, path = "/object_info/{class}", params(("class" = String, Path)),
    responses((status = 200, description = "The node under its class")))]
async fn one(
    State(state): State<AppState>,
    Path(class): Path<String>,
) -> Result<Json<Nodes>, ApiError> {
    blocking(move || {
        let node = state.registry.find(&class);
        let described = node.map(|node| {
            let described = describe::describe(node, &state.environment);
            (node.class.to_owned(), Described::of(described))
        });
        described.into_iter().collect()
    })
    .await
    .map(Json)
}

/// Work that reads folders, on a thread for such.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)
}
