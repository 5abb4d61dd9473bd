//! The user's files: workflows above all.

use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::path::{Path as FilePath, PathBuf};
use std::time::UNIX_EPOCH;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, OpenApi};

use super::object_info::blocking;
use super::users;
use crate::error::ApiError;
use crate::request::{self, Path, Query};
use crate::safety::paths;
use crate::state::AppState;

/// Files that one listing has at most.
const MOST_FILES: usize = 100_000;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(list, list_all, read, write, remove, rename))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/userdata", get(list))
        .route("/v2/userdata", get(list_all))
        .route("/userdata/{file}", get(read).post(write).put(write).delete(remove))
        .route("/userdata/{file}/move/{dest}", axum::routing::post(rename))
}

/// What is to be listed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct Listing {
    /// The folder, below the user's.
    dir: String,
    /// `true` for what is in folders below it too.
    recurse: String,
    /// `true` for an object a file instead of its name.
    full_info: String,
    /// `true` for the parts of names.
    split: String,
}

impl Default for Listing {
    fn default() -> Self {
        let no = String::new;
        Self { dir: no(), recurse: no(), full_info: no(), split: no() }
    }
}

/// The files in a folder.
#[utoipa::path(get, path = "/userdata", params(Listing), responses(
    (status = 200, description = "Names, or objects"), (status = 400, description = "No folder is named"),
    (status = 403, description = "The folder is not the user's"), (status = 404, description = "There is no such folder")))]
async fn list(
    State(state): State<AppState>,
    Query(listing): Query<Listing>,
) -> Result<Json<Value>, ApiError> {
    if listing.dir.is_empty() {
        return Err(ApiError::bad_request("`dir` names no folder"));
    }
    let is_true = |text: &str| text.eq_ignore_ascii_case("true");
    let (recurse, full, split) =
        (is_true(&listing.recurse), is_true(&listing.full_info), is_true(&listing.split));
    blocking(move || {
        let folder = place(&state, &listing.dir, Wanted::Folder)?;
        if !folder.is_dir() {
            return Err(ApiError::not_found(format!("there is no folder `{}`", listing.dir)));
        }
        let files = walk(&folder, recurse).map_err(ApiError::internal)?;
        let files = files.into_iter().filter(|entry| !entry.metadata.is_dir());
        let files = files.map(|entry| match (full, split) {
            (true, _) => entry.info(),
            (false, true) => {
                let parts = std::iter::once(entry.name.as_str()).chain(entry.name.split('/'));
                json!(parts.collect::<Vec<_>>())
            }
            (false, false) => Value::String(entry.name),
        });
        Ok(Json(Value::Array(files.collect())))
    })
    .await?
}

/// A folder below the user's.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct Below {
    /// The folder; none for all of the user's.
    path: String,
}

/// All files and folders below a folder, folders first.
#[utoipa::path(get, path = "/v2/userdata", params(Below), responses(
    (status = 200, description = "An object each: name, path, type, size, modified"),
    (status = 400, description = "No folder of the user's"), (status = 404, description = "There is no such folder")))]
async fn list_all(
    State(state): State<AppState>,
    Query(below): Query<Below>,
) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let folder = inside(&state, &below.path, Wanted::Folder).map_err(ApiError::bad_request)?;
        match folder.metadata() {
            Err(_) if below.path.is_empty() => return Ok(Json(json!([]))),
            Err(_) => {
                return Err(ApiError::not_found(format!("there is no folder `{}`", below.path)));
            }
            Ok(found) if !found.is_dir() => {
                return Err(ApiError::bad_request(format!("`{}` is no folder", below.path)));
            }
            Ok(_) => {}
        }
        let root = users::folder(&state);
        let prefix = folder.strip_prefix(&root).map(slashes).unwrap_or_default();
        let mut entries = walk(&folder, true).map_err(ApiError::internal)?;
        let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
        entries.sort_by_key(|entry| (!entry.metadata.is_dir(), last(&entry.name).to_lowercase()));
        let entries = entries.iter().map(|entry| {
            let path = match prefix.as_str() {
                "" => entry.name.clone(),
                prefix => format!("{prefix}/{}", entry.name),
            };
            let name = last(&entry.name);
            match entry.metadata.is_dir() {
                true => json!({ "name": name, "path": path, "type": "directory" }),
                false => json!({
                    "name": name, "path": path, "type": "file", "size": entry.metadata.len(),
                    "modified": milliseconds(entry.metadata.modified()) as f64 / 1000.0,
                }),
            }
        });
        Ok(Json(Value::Array(entries.collect())))
    })
    .await?
}

/// A file. It is never shown in the page itself, whatever is in it.
#[utoipa::path(get, path = "/userdata/{file}", params(("file" = String, Path)),
    responses((status = 200, description = "Its bytes"), (status = 403), (status = 404)))]
async fn read(
    State(state): State<AppState>,
    Path(file): Path<String>,
) -> Result<Response, ApiError> {
    blocking(move || {
        let path = place(&state, &file, Wanted::File)?;
        // Browsers are told of styles of the user's own that are not there as of empty ones.
        let css = file == "user.css";
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(_) if css => Vec::new(),
            Err(_) => return Err(absent(&file)),
        };
        let kind = match path.extension().and_then(|ending| ending.to_str()) {
            _ if css => "text/css",
            Some("json") => "application/json",
            _ => "application/octet-stream",
        };
        let disposition = if css { "inline" } else { "attachment" };
        Ok(([(CONTENT_TYPE, kind), (CONTENT_DISPOSITION, disposition)], bytes).into_response())
    })
    .await?
}

/// How a file is written.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct Writing {
    /// `false` keeps a file that is there.
    overwrite: String,
    /// `true` for an object in the answer instead of the name.
    full_info: String,
}

impl Writing {
    fn check(&self, path: &FilePath, name: &str) -> Result<(), ApiError> {
        match self.overwrite == "false" && path.exists() {
            true => Err(ApiError::new(StatusCode::CONFLICT, format!("`{name}` is there already"))),
            false => Ok(()),
        }
    }

    fn answer(&self, root: &FilePath, path: &FilePath) -> Result<Json<Value>, ApiError> {
        let name = path.strip_prefix(root).map(slashes).unwrap_or_default();
        if !self.full_info.eq_ignore_ascii_case("true") {
            return Ok(Json(Value::String(name)));
        }
        let metadata = path.metadata().map_err(ApiError::internal)?;
        Ok(Json(Entry { name, metadata }.info()))
    }
}

/// Writes a file: the body is what is in it.
#[utoipa::path(post, path = "/userdata/{file}", params(("file" = String, Path), Writing),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "Its name, or an object"), (status = 400), (status = 403), (status = 409)))]
async fn write(
    State(state): State<AppState>,
    Path(file): Path<String>,
    Query(writing): Query<Writing>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let bytes: Bytes = request::body(request, &state).await?;
    blocking(move || {
        let path = place(&state, &file, Wanted::File)?;
        writing.check(&path, &file)?;
        replace(&path, &bytes).map_err(|error| {
            ApiError::bad_request(format!("`{file}` cannot be written: {error}"))
        })?;
        writing.answer(&users::folder(&state), &path)
    })
    .await?
}

/// Deletes a file.
#[utoipa::path(delete, path = "/userdata/{file}", params(("file" = String, Path)),
    responses((status = 204), (status = 403), (status = 404)))]
async fn remove(
    State(state): State<AppState>,
    Path(file): Path<String>,
) -> Result<StatusCode, ApiError> {
    blocking(move || {
        let path = place(&state, &file, Wanted::File)?;
        match path.is_file() {
            true => {
                fs::remove_file(&path).map_err(ApiError::internal).map(|()| StatusCode::NO_CONTENT)
            }
            false => Err(absent(&file)),
        }
    })
    .await?
}

/// Gives a file another name.
#[utoipa::path(post, path = "/userdata/{file}/move/{dest}", params(("file" = String, Path), ("dest" = String, Path), Writing),
    responses((status = 200, description = "Its new name, or an object"), (status = 403), (status = 404), (status = 409)))]
async fn rename(
    State(state): State<AppState>,
    Path((file, dest)): Path<(String, String)>,
    Query(writing): Query<Writing>,
) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let (from, to) = (place(&state, &file, Wanted::File)?, place(&state, &dest, Wanted::File)?);
        if !from.is_file() {
            return Err(absent(&file));
        }
        writing.check(&to, &dest)?;
        let moved =
            to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::rename(&from, &to));
        moved.map_err(|error| {
            ApiError::bad_request(format!("`{file}` cannot become `{dest}`: {error}"))
        })?;
        writing.answer(&users::folder(&state), &to)
    })
    .await?
}

fn absent(file: &str) -> ApiError {
    ApiError::not_found(format!("there is no file `{file}`"))
}

/// What a name is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    File,
    /// Also the user's folder itself.
    Folder,
}

/// Where a client's name leads below the user's folder.
fn place(state: &AppState, name: &str, wanted: Wanted) -> Result<PathBuf, ApiError> {
    inside(state, name, wanted).map_err(ApiError::forbidden)
}

/// As [`place`]; in words, why it leads nowhere there.
fn inside(state: &AppState, name: &str, wanted: Wanted) -> Result<PathBuf, String> {
    let relative = match wanted {
        Wanted::File => paths::relative(name),
        Wanted::Folder => paths::folder(name),
    };
    let root = users::folder(state);
    let path = root.join(relative.map_err(|error| format!("`{name}`: {error}"))?);
    match paths::would_be_inside(&root, &path) {
        true => Ok(path),
        false => Err(format!("`{name}` leads out of the user's folder")),
    }
}

/// A file or folder that was found.
struct Entry {
    /// Its name below the folder that was listed, with slashes.
    name: String,
    metadata: Metadata,
}

impl Entry {
    fn info(&self) -> Value {
        let created = self.metadata.created().or_else(|_| self.metadata.modified());
        json!({
            "path": self.name, "size": self.metadata.len(),
            "modified": milliseconds(self.metadata.modified()), "created": milliseconds(created),
        })
    }
}

/// What is in a folder, sorted by name; links are left out, and files whose names begin with a point, as a shell's `*` does.
fn walk(folder: &FilePath, recurse: bool) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let metadata = entry.metadata()?;
            if metadata.is_symlink() || name.starts_with('.') {
                continue;
            }
            let name = format!("{prefix}{name}");
            if metadata.is_dir() && recurse {
                folders.push((entry.path(), format!("{name}/")));
            }
            found.push(Entry { name, metadata });
            if found.len() >= MOST_FILES {
                return Err(io::Error::other(format!("there are more than {MOST_FILES} files")));
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Writes a file whole or not at all.
pub(super) fn replace(path: &FilePath, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error).map(drop)
}

fn slashes(path: &FilePath) -> String {
    let parts = path.iter().map(|part| part.to_string_lossy());
    parts.collect::<Vec<_>>().join("/")
}

fn milliseconds(time: io::Result<std::time::SystemTime>) -> u64 {
    let since = time.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
