//! What the official frontend asks beyond running prompts: extensions, templates, documentation of nodes.

use std::path::{Path as FilePath, PathBuf};

use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::object_info::blocking;
use crate::error::ApiError;
use crate::request::Path;
use crate::state::AppState;
use crate::web::{Frontend, Web, serve};

/// Extensions that one frontend has at most.
const MOST_EXTENSIONS: usize = 10_000;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(
    extensions,
    workflow_templates,
    global_subgraphs,
    global_subgraph,
    node_replacements,
    translations
))]
pub struct Api;

/// The routes that are there with and without `/api`.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/extensions", get(extensions))
        .route("/workflow_templates", get(workflow_templates))
        .route("/global_subgraphs", get(global_subgraphs))
        .route("/global_subgraphs/{id}", get(global_subgraph))
        .route("/node_replacements", get(node_replacements))
        .route("/i18n", get(translations))
}

/// The files that are there once.
pub fn files() -> Router<AppState> {
    Router::new()
        .route("/templates/{*path}", get(template))
        .route("/docs/{*path}", get(documentation))
}

/// The scripts that extend the frontend. Those of its own core it loads by itself.
#[utoipa::path(get, path = "/extensions", responses((status = 200, description = "Addresses of scripts")))]
async fn extensions(State(state): State<AppState>) -> Result<Json<Vec<String>>, ApiError> {
    let Web::Official(frontend) = &state.config.web else { return Ok(Json(Vec::new())) };
    let folder = frontend.root.join("extensions");
    blocking(move || {
        let mut found = Vec::new();
        scripts(&folder, "/extensions", &mut found);
        found.retain(|path| !path.starts_with("/extensions/core/"));
        found.sort();
        Json(found)
    })
    .await
}

/// Adds the scripts in a folder and those below it; a folder that cannot be read has none.
fn scripts(folder: &FilePath, address: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let address = format!("{address}/{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => scripts(&entry.path(), &address, found),
            Ok(kind)
                if kind.is_file() && name.ends_with(".js") && found.len() < MOST_EXTENSIONS =>
            {
                found.push(address);
            }
            _ => {}
        }
    }
}

/// The template workflows of packs of nodes, which are none here: those of the frontend are at `/templates`.
#[utoipa::path(get, path = "/workflow_templates", responses((status = 200, description = "Names by pack")))]
async fn workflow_templates() -> Json<Value> {
    Json(json!({}))
}

/// The subgraphs that packs of nodes bring, which are none here.
#[utoipa::path(get, path = "/global_subgraphs", responses((status = 200, description = "Subgraphs by id")))]
async fn global_subgraphs() -> Json<Value> {
    Json(json!({}))
}

/// One subgraph.
#[utoipa::path(get, path = "/global_subgraphs/{id}", params(("id" = String, Path)),
    responses((status = 404, description = "Always: there are none")))]
async fn global_subgraph(Path(id): Path<String>) -> ApiError {
    ApiError::not_found(format!("there is no subgraph `{id}`"))
}

/// The nodes that stand for others, which are none here: older names are read as they are.
#[utoipa::path(get, path = "/node_replacements", responses((status = 200, description = "Replacements by class")))]
async fn node_replacements() -> Json<Value> {
    Json(json!({}))
}

/// The translations that packs of nodes bring, which are none here.
#[utoipa::path(get, path = "/i18n", responses((status = 200, description = "Translations by language")))]
async fn translations() -> Json<Value> {
    Json(json!({}))
}

/// A template workflow, its thumbnail, or their index.
async fn template(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    file_below(
        "/templates",
        request,
        |frontend| {
            let own = frontend.root.join("templates");
            std::iter::once(own).chain(frontend.templates.iter().cloned()).collect()
        },
        &state,
    )
    .await
}

/// The documentation of a node.
async fn documentation(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, ApiError> {
    let folders = |frontend: &Frontend| frontend.docs.iter().cloned().collect();
    file_below("/docs", request, folders, &state).await
}

/// The file at the request's path, without `prefix`, in the first folder that has it.
async fn file_below(
    prefix: &str,
    request: Request,
    folders: impl FnOnce(&Frontend) -> Vec<PathBuf>,
    state: &AppState,
) -> Result<Response, ApiError> {
    let nothing = ApiError::not_found(format!("there is nothing at `{}`", request.uri().path()));
    let Web::Official(frontend) = &state.config.web else { return Err(nothing) };
    let (parts, _) = request.into_parts();
    let rest = parts.uri.path().strip_prefix(prefix).unwrap_or_default();
    let Ok(uri) = rest.parse::<http::Uri>() else { return Err(nothing) };
    for folder in folders(frontend) {
        let mut request = Request::new(axum::body::Body::empty());
        *request.method_mut() = parts.method.clone();
        *request.headers_mut() = parts.headers.clone();
        *request.uri_mut() = uri.clone();
        if let Some(response) = serve(&folder, request).await {
            return Ok(response);
        }
    }
    Err(nothing)
}
