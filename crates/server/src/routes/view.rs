//! Pictures and other files, as they are or as a part of them, and what is written in model files.

use std::path::{Path as FilePath, PathBuf};

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use distorch_checkpoint::Checkpoint;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use indexmap::IndexMap;
use serde::Deserialize;
use tower::ServiceExt;
use tower_http::services::ServeFile;
use utoipa::OpenApi;

use super::folders::{self, Folder};
use super::models;
use super::object_info::blocking;
use super::picture::{Channels, Encoding, Shown};
use crate::error::ApiError;
use crate::request::{Path, Query};
use crate::state::AppState;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(view, metadata))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new().route("/view", get(view)).route("/view_metadata/{folder}", get(metadata))
}

/// The types of files that browsers show; others are saved. None of these runs anything.
const SHOWN: [(&str, &str); 18] = [
    ("png", "image/png"),
    ("apng", "image/apng"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("webp", "image/webp"),
    ("gif", "image/gif"),
    ("bmp", "image/bmp"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("avif", "image/avif"),
    ("mp4", "video/mp4"),
    ("webm", "video/webm"),
    ("mp3", "audio/mpeg"),
    ("flac", "audio/flac"),
    ("wav", "audio/wav"),
    ("ogg", "audio/ogg"),
    ("txt", "text/plain; charset=utf-8"),
    ("json", "application/json"),
];

/// The quality of previews that name none.
const QUALITY: u32 = 90;

/// The type of files that browsers save.
const SAVED: &str = "application/octet-stream";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    filename: Option<String>,
    subfolder: String,
    #[serde(rename = "type")]
    folder: Option<String>,
    preview: Option<String>,
    channel: Option<String>,
}

/// A file of the folders `output`, `input` or `temp` (`type`). With `preview`, a picture as JPEG, or as WebP without loss;
/// with `channel`, its colours (`rgb`) or its alpha (`a`) as PNG.
#[utoipa::path(get, path = "/view", params(
    ("filename" = String, Query), ("subfolder" = Option<String>, Query),
    ("type" = Option<String>, Query, description = "`output`, `input` or `temp`"),
    ("preview" = Option<String>, Query, description = "`jpeg;90` with a quality, else `webp`, which has no loss"),
    ("channel" = Option<String>, Query, description = "`rgba`, `rgb` or `a`")),
    responses((status = 200, description = "The file"), (status = 400, description = "Not as expected"),
              (status = 403, description = "Not in its folder"), (status = 404, description = "There is none")))]
async fn view(
    State(state): State<AppState>,
    Query(asked): Query<Asked>,
    request: Request,
) -> Result<Response, ApiError> {
    let name =
        asked.filename.clone().ok_or_else(|| ApiError::not_found("`filename` is not there"))?;
    let folder = Folder::named(asked.folder.as_deref().unwrap_or("output"))?;
    let subfolder = asked.subfolder.clone();
    let path = folders::find(&state, name, subfolder, folder).await?;
    let channel = asked.channel.as_deref();
    let shown = match (&asked.preview, channel) {
        (Some(preview), channel) => Some(previewed(preview, channel)),
        (None, Some("rgb")) => Some((Encoding::Png, Channels::Colours)),
        (None, Some("a")) => Some((Encoding::Png, Channels::Alpha)),
        (None, _) => None,
    };
    match shown {
        Some((encoding, channels)) => encoded(&state, path, Shown { encoding, channels }).await,
        None => file(&path, request).await,
    }
}

/// What `preview` asks for, which is a format, and a quality behind a semicolon. What is no JPEG is WebP, and so are pictures
/// of which the alpha is wanted, which JPEG does not have.
fn previewed(preview: &str, channel: Option<&str>) -> (Encoding, Channels) {
    let (format, rest) = preview.split_once(';').unwrap_or((preview, ""));
    let quality = rest.rsplit(';').next().and_then(|text| text.parse::<u32>().ok());
    let quality = quality.unwrap_or(QUALITY).clamp(1, 100) as u8;
    let wants_alpha = channel.is_some_and(|channel| channel.contains('a'));
    let channels = match channel {
        Some("rgb") => Channels::Colours,
        _ => Channels::All,
    };
    match format == "jpeg" && !wants_alpha {
        true => (Encoding::Jpeg(quality), channels),
        false => (Encoding::WebP, channels),
    }
}

/// A picture in another form.
async fn encoded(state: &AppState, path: PathBuf, shown: Shown) -> Result<Response, ApiError> {
    // Each takes memory for a whole picture.
    let turn = state.pictures.acquire().await.map_err(ApiError::internal)?;
    let name = path.clone();
    let bytes = blocking(move || shown.of(&path)).await?;
    drop(turn);
    let bytes = bytes.map_err(|error| ApiError::bad_request(error.to_string()))?;
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(shown.encoding.media_type()));
    headers.insert(CONTENT_DISPOSITION, disposition(&name, false));
    Ok(response)
}

/// A file as it is; parts of it where a client asks for a range.
async fn file(path: &FilePath, request: Request) -> Result<Response, ApiError> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let shown = SHOWN.iter().find(|(known, _)| known.eq_ignore_ascii_case(ending));
    let served = ServeFile::new(path).oneshot(request).await.map_err(ApiError::internal)?;
    let mut response = served.map(axum::body::Body::new);
    let headers = response.headers_mut();
    let media = shown.map_or(SAVED, |(_, media)| media);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CONTENT_DISPOSITION, disposition(path, shown.is_none()));
    Ok(response)
}

/// The name that a browser saves a file under, and whether it is to be saved rather than shown.
fn disposition(path: &FilePath, saved: bool) -> HeaderValue {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let quoted: String = name
        .chars()
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            c if c.is_control() => Vec::new(),
            c => vec![c],
        })
        .collect();
    let kind = if saved { "attachment; " } else { "" };
    let value = format!("{kind}filename=\"{quoted}\"");
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or(HeaderValue::from_static("attachment"))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AskedMetadata {
    filename: Option<String>,
}

/// What is written in the header of a safetensors file beside its tensors.
#[utoipa::path(get, path = "/view_metadata/{folder}",
    params(("folder" = String, Path), ("filename" = String, Query)),
    responses((status = 200, description = "Texts by name"), (status = 404, description = "There is none")))]
async fn metadata(
    State(state): State<AppState>,
    Path(folder): Path<String>,
    Query(asked): Query<AskedMetadata>,
) -> Result<Json<IndexMap<String, String>>, ApiError> {
    let kind = models::kind(&folder)?;
    let missing = || ApiError::not_found("there is no such file with metadata");
    let name = asked.filename.filter(|name| name.ends_with(".safetensors")).ok_or_else(missing)?;
    let read = blocking(move || {
        let path = state.environment.session.folders.resolve(kind, &name).ok()?;
        let file = Checkpoint::open(&path).ok()?;
        Some(file.metadata().clone()).filter(|metadata| !metadata.is_empty())
    });
    read.await?.map(Json).ok_or_else(missing)
}
