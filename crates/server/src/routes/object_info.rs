//! The nodes as clients read them.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use distorch_workflow::{Environment, Registry, describe};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
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

/// The description of all nodes, kept as text for as long as the lists of files and devices in it are the same.
#[derive(Default)]
pub struct NodeTexts(Mutex<Option<Arc<NodeText>>>);

/// The description of all nodes as it is sent.
struct NodeText {
    /// What in it is the machine's.
    found: Vec<Vec<String>>,
    plain: Bytes,
    gzip: Bytes,
}

impl NodeTexts {
    fn text(
        &self,
        registry: &Registry,
        environment: &Environment,
    ) -> Result<Arc<NodeText>, ApiError> {
        let found = describe::found(registry, environment);
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(kept) = kept.filter(|kept| kept.found == found) {
            return Ok(kept);
        }
        let nodes = describe::object_info(registry, environment).into_iter();
        let nodes: Nodes =
            nodes.map(|(class, node)| (class.to_owned(), Described::of(node))).collect();
        let plain = serde_json::to_vec(&nodes).map_err(ApiError::internal)?;
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&plain).map_err(ApiError::internal)?;
        let gzip = packed.finish().map_err(ApiError::internal)?;
        let text = Arc::new(NodeText { found, plain: plain.into(), gzip: gzip.into() });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&text));
        Ok(text)
    }
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
