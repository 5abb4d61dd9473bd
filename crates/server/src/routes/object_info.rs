//! The nodes as clients read them.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use distorch_workflow::describe;
use serde_json::{Map, Value};
use utoipa::OpenApi;

use crate::error::ApiError;
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
async fn all(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let nodes = describe::object_info(&state.registry, &state.environment);
        let nodes = nodes.into_iter().map(|(class, node)| (class.to_owned(), complete(node)));
        Value::Object(nodes.collect())
    })
    .await
    .map(Json)
}

/// One node; an empty object where there is none of this class.
#[utoipa::path(get, path = "/object_info/{class}", params(("class" = String, Path)),
    responses((status = 200, description = "The node under its class")))]
async fn one(
    State(state): State<AppState>,
    Path(class): Path<String>,
) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let mut nodes = Map::new();
        if let Some(node) = state.registry.find(&class) {
            let described = complete(describe::describe(node, &state.environment));
            nodes.insert(node.class.to_owned(), described);
        }
        Value::Object(nodes)
    })
    .await
    .map(Json)
}

/// Adds what ComfyUI says of every node though it is the same for all of ours.
fn complete(mut node: Value) -> Value {
    if let Some(node) = node.as_object_mut() {
        node.insert("is_input_list".to_owned(), Value::Bool(false));
        node.insert("has_intermediate_output".to_owned(), Value::Bool(false));
        node.insert("search_aliases".to_owned(), Value::Array(Vec::new()));
    }
    node
}

/// Work that reads folders, on a thread for such.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)
}
