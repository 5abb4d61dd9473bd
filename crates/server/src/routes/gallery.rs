//! The pictures in the output folder with how they were made, and workflows in files of any form.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path as FilePath;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use distorch_pipeline::image::embedded::Embedded;
use distorch_workflow::graph::Prompt;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::object_info::blocking;
use crate::error::ApiError;
use crate::request::{self, Query};
use crate::safety::paths;
use crate::state::AppState;
use crate::summary::Summary;

/// Files that are looked at for a page of the gallery.
const MOST_FILES: usize = 200_000;
/// Folders below the output folder that are gone into.
const MOST_DEPTH: usize = 8;
/// Pictures that one answer has at most.
const MOST_PICTURES: usize = 500;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(
    paths(gallery, picture_workflow, workflow),
    components(schemas(Gallery, Picture, Opened))
)]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/distorch/gallery", get(gallery))
        .route("/distorch/gallery/workflow", get(picture_workflow))
        .route("/distorch/workflow", post(workflow))
}

/// Which pictures.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct Page {
    /// How many.
    limit: usize,
    /// How many newer ones are left out.
    offset: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: 48, offset: 0 }
    }
}

/// Pictures, the newest first.
#[derive(Serialize, ToSchema)]
struct Gallery {
    /// How many there are in all.
    total: usize,
    /// Those that were asked for.
    pictures: Vec<Picture>,
}

/// A picture in the output folder. The first three fields are what `/view` takes.
#[derive(Serialize, ToSchema)]
struct Picture {
    /// Its name.
    filename: String,
    /// The folder below the output folder.
    subfolder: String,
    /// Always `output`.
    r#type: &'static str,
    /// Bytes.
    size: u64,
    /// When it was saved, in milliseconds since 1970.
    modified: u64,
    /// How it was made, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
}

/// The pictures of the output folder, the newest first.
#[utoipa::path(get, path = "/distorch/gallery", params(Page), responses(
    (status = 200, body = Gallery), (status = 400, description = "Not as expected")))]
async fn gallery(
    State(state): State<AppState>,
    Query(page): Query<Page>,
) -> Result<Json<Gallery>, ApiError> {
    blocking(move || {
        let root = &state.environment.output_dir;
        let mut found = Vec::new();
        collect(root, "", 0, &mut found);
        // Those of one moment in the order of their numbers, the last first.
        found.sort_by(|a, b| {
            (b.modified, &b.subfolder, &b.name).cmp(&(a.modified, &a.subfolder, &a.name))
        });
        let total = found.len();
        let chosen = found.into_iter().skip(page.offset).take(page.limit.min(MOST_PICTURES));
        let pictures = chosen.map(|file| {
            let path = root.join(&file.subfolder).join(&file.name);
            let carried =
                File::open(&path).ok().and_then(|file| carried(&mut BufReader::new(file)).ok()?);
            let prompt = carried.and_then(|carried| read(&state, carried).ok());
            Picture {
                summary: prompt.map(|(prompt, _)| Summary::of(&prompt)),
                filename: file.name,
                subfolder: file.subfolder,
                r#type: "output",
                size: file.size,
                modified: file.modified,
            }
        });
        Ok(Json(Gallery { total, pictures: pictures.collect() }))
    })
    .await?
}

/// A file of the gallery.
struct Found {
    name: String,
    subfolder: String,
    size: u64,
    modified: u64,
}

/// Adds the pictures in a folder and those below it. Links are left out, and what cannot be read.
fn collect(folder: &FilePath, below: &str, depth: usize, found: &mut Vec<Found>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) else {
            continue;
        };
        if metadata.is_dir() && depth < MOST_DEPTH {
            let below = if below.is_empty() { name } else { format!("{below}/{name}") };
            collect(&entry.path(), &below, depth + 1, found);
        } else if metadata.is_file() && is_picture(&name) && found.len() < MOST_FILES {
            let modified = metadata.modified().map(milliseconds).unwrap_or_default();
            found.push(Found { name, subfolder: below.to_owned(), size: metadata.len(), modified });
        }
    }
}

fn is_picture(name: &str) -> bool {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    matches!(ending.as_deref(), Some("png" | "jpg" | "jpeg" | "webp"))
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// Which picture.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Its name.
    filename: String,
    /// The folder below the output folder.
    #[serde(default)]
    subfolder: String,
    /// The folder: `output` as it is left out.
    #[serde(default)]
    r#type: String,
}

/// A workflow that was read.
#[derive(Serialize, ToSchema)]
struct Opened {
    /// In the format of the API: what `/prompt` takes.
    prompt: Value,
    /// As the editor has it, where the file says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow: Option<Value>,
    /// What it makes.
    summary: Summary,
    /// What was done to the file to read it.
    notes: Vec<String>,
}

/// The workflow that made a picture.
#[utoipa::path(get, path = "/distorch/gallery/workflow", params(Which), responses(
    (status = 200, body = Opened), (status = 400), (status = 404, description = "There is no such picture"),
    (status = 422, description = "The picture carries none that can be read")))]
async fn picture_workflow(
    State(state): State<AppState>,
    Query(which): Query<Which>,
) -> Result<Json<Opened>, ApiError> {
    blocking(move || {
        let root = match which.r#type.as_str() {
            "" | "output" => &state.environment.output_dir,
            "input" => &state.environment.input_dir,
            "temp" => &state.environment.temp_dir,
            other => {
                return Err(ApiError::bad_request(format!("there is no folder of type `{other}`")));
            }
        };
        let wrong = |error: paths::NameError| ApiError::bad_request(error.to_string());
        let below = paths::folder(&which.subfolder).map_err(wrong)?;
        let path = root.join(below).join(paths::relative(&which.filename).map_err(wrong)?);
        let absent = || ApiError::not_found(format!("there is no picture `{}`", which.filename));
        if !paths::is_inside(root, &path) || !path.is_file() {
            return Err(absent());
        }
        let file = File::open(&path).map_err(|_| absent())?;
        let carried = carried(&mut BufReader::new(file)).map_err(ApiError::internal)?;
        open(&state, carried.unwrap_or_default())
    })
    .await?
}

/// Reads a workflow: the API's format, the editor's, or a picture that carries either. The body is the file.
#[utoipa::path(post, path = "/distorch/workflow", request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Opened), (status = 422, description = "The file is no workflow and carries none")))]
async fn workflow(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<Opened>, ApiError> {
    let bytes = request::body(request, &state).await?;
    blocking(move || {
        let carried = carried(&mut Cursor::new(&bytes)).map_err(unreadable)?;
        let texts = match carried {
            Some(texts) => texts,
            None => vec![
                String::from_utf8(bytes.to_vec())
                    .map_err(|_| unreadable("it is neither a picture nor text"))?,
            ],
        };
        open(&state, texts)
    })
    .await?
}

/// The texts that a picture carries, the prompt first; `None` where the file is no picture.
fn carried<R: BufRead + Seek>(file: &mut R) -> std::io::Result<Option<Vec<String>>> {
    let found = Embedded::read(file)?;
    Ok(found.map(|Embedded { prompt, workflow }| prompt.into_iter().chain(workflow).collect()))
}

/// The first text that is a workflow, with what else was there.
fn read(state: &AppState, texts: Vec<String>) -> Result<(Prompt, Option<Value>), ApiError> {
    let mut problem = None;
    // In the editor's form there is more than in the prompt, for the editor.
    let editor = texts.iter().rev().find_map(|text| {
        let value: Value = serde_json::from_str(text).ok()?;
        value.get("nodes").is_some_and(Value::is_array).then_some(value)
    });
    for text in &texts {
        match Prompt::from_json(text, &state.registry) {
            Ok(prompt) => return Ok((prompt, editor)),
            Err(error) => problem = problem.or(Some(error.to_string())),
        }
    }
    Err(unreadable(
        problem
            .as_deref()
            .unwrap_or("this picture carries no workflow; those that SaveImage saves do"),
    ))
}

fn open(state: &AppState, texts: Vec<String>) -> Result<Json<Opened>, ApiError> {
    let (prompt, workflow) = read(state, texts)?;
    let summary = Summary::of(&prompt);
    Ok(Json(Opened { prompt: prompt.to_json(), workflow, summary, notes: prompt.notes }))
}

fn unreadable(problem: impl ToString) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, problem.to_string())
}
