//! The nodes as clients read them.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use distorch_workflow::describe;
use indexmap::IndexMap;
use serde::Serialize;
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
async fn all(State(state): State<AppState>) -> Result<Json<Nodes>, ApiError> {
    blocking(move || {
        let nodes = describe::object_info(&state.registry, &state.environment);
        nodes.into_iter().map(|(class, node)| (class.to_owned(), Described::of(node))).collect()
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

type Nodes = IndexMap<String, Described>;

/// A node with its inputs in their order, which clients draw them in.
#[derive(Serialize)]
struct Described {
    input: IndexMap<String, IndexMap<String, Value>>,
    /// What ComfyUI says of every node though it is the same for all of ours.
    is_input_list: bool,
    has_intermediate_output: bool,
    search_aliases: [&'static str; 0],
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Described {
    fn of(node: Value) -> Self {
        let mut rest = match node {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        let mut inputs = rest.remove("input").unwrap_or_default();
        let mut section = |name: &&str| {
            let order = rest.get("input_order")?[*name].as_array()?;
            let named = order.iter().filter_map(Value::as_str);
            let inputs = named.map(|input| (input.to_owned(), inputs[*name][input].take()));
            Some(((*name).to_owned(), inputs.collect()))
        };
        let input = ["required", "optional", "hidden"].iter().filter_map(&mut section).collect();
        let (is_input_list, has_intermediate_output) = (false, false);
        Self { input, is_input_list, has_intermediate_output, search_aliases: [], rest }
    }
}

/// Work that reads folders, on a thread for such.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)
}
