//! Pictures that clients send.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router};
use distorch_pipeline::image::embedded::Embedded;
use distorch_workflow::Environment;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use utoipa::OpenApi;

use super::folders::{Folder, Named, bad};
use super::object_info::blocking;
use super::picture;
use crate::error::ApiError;
use crate::safety::paths::{self, NameError};
use crate::state::AppState;

/// Bytes of a field that is no file.
const MOST_TEXT: usize = 64 << 10;

/// Bytes that a form takes beside its file.
const FORM: usize = 256 << 10;

/// Numbers that are tried for a name that is taken.
const MOST_NUMBERS: u32 = 100_000;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(image, mask))]
pub struct Api;

/// This topic's routes, which take larger bodies than others.
pub fn routes(upload_bytes: usize) -> Router<AppState> {
    Router::new()
        .route("/upload/image", post(image))
        .route("/upload/mask", post(mask))
        .layer(DefaultBodyLimit::max(upload_bytes.saturating_add(FORM)))
}

/// A form with a file.
struct Form {
    /// What was sent, under a name that nobody knows.
    file: NamedTempFile,
    name: String,
    subfolder: String,
    folder: Folder,
    overwrite: bool,
    original: Option<String>,
}

/// Saves a picture in the input folder, or where `type` and `subfolder` say. One of the same name is kept, unless
/// `overwrite` is `true`: the new one is numbered, or is none where both are the same.
#[utoipa::path(post, path = "/upload/image", request_body(content = Object, content_type = "multipart/form-data"),
    responses((status = 200, description = "`name`, `subfolder`, `type`"),
              (status = 400, description = "Not as expected"), (status = 413, description = "Too large")))]
async fn image(State(state): State<AppState>, form: Multipart) -> Result<Json<Value>, ApiError> {
    let form = read(form, state.config.limits.upload_bytes).await?;
    blocking(move || save(&state.environment, form, copy)).await?.map(Json)
}

/// Saves a picture that is there already (`original_ref`) with the alpha of the one that is sent.
#[utoipa::path(post, path = "/upload/mask", request_body(content = Object, content_type = "multipart/form-data"),
    responses((status = 200, description = "`name`, `subfolder`, `type`"),
              (status = 400, description = "Not as expected"), (status = 404, description = "There is no original"),
              (status = 413, description = "Too large")))]
async fn mask(State(state): State<AppState>, form: Multipart) -> Result<Json<Value>, ApiError> {
    let form = read(form, state.config.limits.upload_bytes).await?;
    let turn = state.pictures.acquire().await.map_err(ApiError::internal)?;
    let environment = std::sync::Arc::clone(&state.environment);
    let saved = blocking(move || {
        let (original, texts) = original(&environment, form.original.as_deref())?;
        save(&environment, form, move |sent, to| {
            picture::write_masked(&original, sent, &texts, to)
                .map_err(|error| ApiError::bad_request(error.to_string()))
        })
    });
    let saved = saved.await?;
    drop(turn);
    saved.map(Json)
}

/// Reads a form; its file goes to a temporary one.
async fn read(mut form: Multipart, limit: usize) -> Result<Form, ApiError> {
    let (mut file, mut name, mut folder) = (None, String::new(), Folder::Input);
    let (mut subfolder, mut overwrite, mut original) = (String::new(), false, None);
    while let Some(field) = form.next_field().await.map_err(unreadable)? {
        match field.name().unwrap_or_default() {
            "image" => {
                name = field.file_name().unwrap_or_default().to_owned();
                file = Some(receive(field, limit).await?);
            }
            "subfolder" => subfolder = text(field).await?,
            "type" => folder = Folder::named(&text(field).await?)?,
            "overwrite" => overwrite = matches!(text(field).await?.as_str(), "true" | "1"),
            "original_ref" => original = Some(text(field).await?),
            _ => drop(text(field).await?),
        }
    }
    let file = file.ok_or_else(|| ApiError::bad_request("the form has no file named `image`"))?;
    Ok(Form { file, name, subfolder, folder, overwrite, original })
}

async fn text(mut field: Field<'_>) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(unreadable)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MOST_TEXT {
            return Err(ApiError::bad_request("a field of the form is too long"));
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::bad_request("a field of the form is no text"))
}

async fn receive(mut field: Field<'_>, limit: usize) -> Result<NamedTempFile, ApiError> {
    let file = blocking(NamedTempFile::new).await?.map_err(ApiError::internal)?;
    let handle = file.reopen().map_err(ApiError::internal)?;
    let mut to = tokio::fs::File::from_std(handle);
    let mut length = 0_usize;
    while let Some(chunk) = field.chunk().await.map_err(unreadable)? {
        length = length.saturating_add(chunk.len());
        if length > limit {
            let text =
                "the file is larger than this server takes; `--max-upload-size` sets the limit";
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        to.write_all(&chunk).await.map_err(ApiError::internal)?;
    }
    to.flush().await.map_err(ApiError::internal)?;
    Ok(file)
}

fn unreadable(error: MultipartError) -> ApiError {
    ApiError::new(error.status(), format!("the form cannot be read: {}", error.body_text()))
}

/// A reference to a picture that is there.
#[derive(Deserialize)]
struct Reference {
    filename: String,
    #[serde(default)]
    subfolder: String,
    #[serde(default, rename = "type")]
    folder: Option<String>,
}

/// The picture that a form refers to, and the texts in it.
fn original(
    environment: &Environment,
    reference: Option<&str>,
) -> Result<(PathBuf, Vec<(String, String)>), ApiError> {
    let Reference { filename, subfolder, folder } =
        serde_json::from_str(reference.unwrap_or_default()).map_err(|error| {
            ApiError::bad_request(format!("`original_ref` is not as expected: {error}"))
        })?;
    let folder = Folder::named(folder.as_deref().unwrap_or("output"))?;
    let path = Named { name: &filename, subfolder: &subfolder, folder }.find(environment)?;
    let read = File::open(&path).and_then(|file| Embedded::read(&mut BufReader::new(file)));
    let Embedded { prompt, workflow } = read.ok().flatten().unwrap_or_default();
    let named = |name: &str, text: Option<String>| text.map(|text| (name.to_owned(), text));
    let texts = named("prompt", prompt).into_iter().chain(named("workflow", workflow));
    Ok((path, texts.collect()))
}

fn copy(sent: &Path, to: &mut dyn Write) -> Result<(), ApiError> {
    let mut file = File::open(sent).map_err(ApiError::internal)?;
    io::copy(&mut file, to).map_err(ApiError::internal)?;
    Ok(())
}

/// Saves what is made of the file of a form under its name, or the next that is free.
fn save(
    environment: &Environment,
    form: Form,
    write: impl FnOnce(&Path, &mut dyn Write) -> Result<(), ApiError>,
) -> Result<Value, ApiError> {
    let root = form.folder.path(environment);
    let below = paths::folder(&form.subfolder).map_err(bad)?;
    let named = paths::relative(&form.name).map_err(bad)?;
    let name = named.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| bad(NameError::Empty))?;
    // Names of folders that come with the name are below the one that was asked for.
    let parent = named.parent().unwrap_or(Path::new(""));
    let folder = root.join(&below).join(parent);
    if !paths::would_be_inside(&root, &folder) {
        return Err(bad(NameError::Outside));
    }
    std::fs::create_dir_all(&folder).map_err(ApiError::internal)?;
    let mut made = tempfile::Builder::new()
        .prefix(".upload-")
        .tempfile_in(&folder)
        .map_err(ApiError::internal)?;
    write(form.file.path(), made.as_file_mut())?;
    readable(made.as_file()).map_err(ApiError::internal)?;
    let saved = match form.overwrite {
        true => overwrite(made, &folder, name).map(|()| name.to_owned()),
        false => publish(made, &folder, name),
    };
    let saved = saved.map_err(|error| match error.kind() {
        io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
            ApiError::bad_request("a folder has this name")
        }
        _ => ApiError::internal(error),
    })?;
    let shown = parent.join(saved);
    let shown = shown.to_string_lossy().replace('\\', "/");
    Ok(json!({ "name": shown, "subfolder": form.subfolder, "type": form.folder.name() }))
}

/// Temporary files are their owner's; others are as the user's mask says.
#[cfg(unix)]
fn readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &File) -> io::Result<()> {
    Ok(())
}

fn overwrite(made: NamedTempFile, folder: &Path, name: &str) -> io::Result<()> {
    let path = folder.join(name);
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    made.persist(path).map(drop).map_err(|error| error.error)
}

/// Gives a file the first of `a.png`, `a (1).png`, … that is free; one that has the same contents counts as this.
fn publish(mut made: NamedTempFile, folder: &Path, name: &str) -> io::Result<String> {
    let (stem, ending) = match name.rfind('.') {
        None | Some(0) => (name, ""),
        Some(dot) => name.split_at(dot),
    };
    for number in 0..MOST_NUMBERS {
        let name = match number {
            0 => name.to_owned(),
            number => format!("{stem} ({number}){ending}"),
        };
        let path = folder.join(&name);
        if path.symlink_metadata().is_ok() {
            if path.is_file() && is_same(made.path(), &path)? {
                return Ok(name);
            }
            continue;
        }
        match made.persist_noclobber(&path) {
            Ok(_) => return Ok(name),
            Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => made = taken.file,
            Err(error) => return Err(error.error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Whether two files have the same contents.
fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.seek(io::SeekFrom::End(0))? != other.seek(io::SeekFrom::End(0))? {
        return Ok(false);
    }
    one.rewind()?;
    other.rewind()?;
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    let (mut first, mut second) = ([0; 8192], [0; 8192]);
    loop {
        let read = one.read(&mut first)?;
        if read == 0 {
            return Ok(true);
        }
        let (Some(first), Some(second)) = (first.get(..read), second.get_mut(..read)) else {
            return Ok(false);
        };
        other.read_exact(second)?;
        if first != second {
            return Ok(false);
        }
    }
}
