//! The zip archive that `torch.save` writes since PyTorch 1.6.
//!
//! Its entries, under one folder: `data.pkl`, `data/<key>` for each storage, `byteorder`, and some that
//! don't matter here.

use std::borrow::Cow;
use std::collections::HashMap;

use super::state_dict::{extract, storage_id};
use super::zip::{Directory, Entry, Method};
use crate::file::contents::Contents;
use crate::file::error::{Problem, Quoted};
use crate::file::pickle::{self, Node, Pickle};
use crate::file::storage::{Storage, inflate};

/// The longest compressed pickle, inflated.
const MAX_INFLATED_PICKLE: u64 = 256 << 20;

/// Reads the archive that is the whole of `file`.
pub(crate) fn read_archive(file: &[u8]) -> Result<Contents, Problem> {
    let directory = Directory::read(file)?;
    let folder = find_folder(&directory)?;
    let record = record(file, &directory, &format!("{folder}data.pkl"))?;
    let record = record.ok_or_else(|| Problem::Zip("it has no data.pkl".into()))?;
    let big_endian = big_endian(file, &directory, folder)?;
    let pickle = pickle::read(&record)?;
    let (by_key, storages) = storages(&directory, folder, &pickle, big_endian)?;
    extract(&pickle, &by_key, storages, file.len() as u64)
}

/// The folder of `data.pkl`, with the slash; an error that says what an archive without it is.
fn find_folder<'a>(directory: &Directory<'a>) -> Result<&'a str, Problem> {
    let folder = |name: &'a str| {
        name.strip_suffix("data.pkl").filter(|folder| folder.is_empty() || folder.ends_with('/'))
    };
    let found = directory.names().find_map(folder);
    let has = |name: &str| directory.names().any(|entry| entry.ends_with(name));
    let (looks_like, way_out) = match found {
        Some(folder) if directory.get(&format!("{folder}constants.pkl")).is_none() => {
            return Ok(folder);
        }
        Some(_) => ("a TorchScript program", "save its state_dict, best as .safetensors"),
        None if has("/archive_format") => {
            ("a program that torch.export saved", "save its state_dict, best as .safetensors")
        }
        None if has(".npy") => ("NumPy arrays (.npz)", "get the .safetensors of the model"),
        None if has(".safetensors") || has(".ckpt") || has(".bin") || has(".pt") => {
            ("a zip archive with model files in it", "unpack it first")
        }
        None => ("a zip archive without data.pkl", "name a file that torch.save wrote"),
    };
    Err(Problem::NotACheckpoint { looks_like: looks_like.into(), way_out })
}

/// The bytes of a small entry, if it is there.
fn record<'a>(
    file: &'a [u8],
    directory: &Directory<'a>,
    name: &str,
) -> Result<Option<Cow<'a, [u8]>>, Problem> {
    let Some(entry) = directory.get(name) else { return Ok(None) };
    let storage = storage(directory, name, entry, false)?;
    let bytes = file.get(storage.span).unwrap_or_default();
    match storage.deflated {
        None => Ok(Some(Cow::Borrowed(bytes))),
        Some(_) if storage.bytes > MAX_INFLATED_PICKLE => {
            let bytes = storage.bytes;
            Err(Problem::Zip(format!("entry {} inflates to {bytes} bytes", Quoted(name))))
        }
        Some(crc) => inflate(bytes, storage.bytes, crc).map(|bytes| Some(Cow::Owned(bytes))),
    }
}

fn big_endian(file: &[u8], directory: &Directory<'_>, folder: &str) -> Result<bool, Problem> {
    match record(file, directory, &format!("{folder}byteorder"))?.as_deref() {
        None | Some(b"little") => Ok(false),
        Some(b"big") => Ok(true),
        Some(_) => Err(Problem::Zip("its byteorder is neither `little` nor `big`".into())),
    }
}

/// The storages that the pickle names, numbered by their keys.
fn storages(
    directory: &Directory<'_>,
    folder: &str,
    pickle: &Pickle<'_>,
    big_endian: bool,
) -> Result<(HashMap<String, usize>, Vec<Storage>), Problem> {
    let mut by_key = HashMap::new();
    let mut storages = Vec::new();
    for node in pickle.nodes() {
        let Node::Persistent(id) = node else { continue };
        let Some(id) = storage_id(pickle, *id) else { continue };
        if by_key.contains_key(id.key.as_ref()) {
            continue;
        }
        let name = format!("{folder}data/{}", id.key);
        // One that is missing is an error only if a tensor of the state dict needs it.
        let Some(entry) = directory.get(&name) else { continue };
        by_key.insert(id.key.into_owned(), storages.len());
        storages.push(storage(directory, &name, entry, big_endian)?);
    }
    Ok((by_key, storages))
}

fn storage(
    directory: &Directory<'_>,
    name: &str,
    entry: &Entry,
    big_endian: bool,
) -> Result<Storage, Problem> {
    let span = directory.span(name, entry)?;
    let deflated = match entry.method {
        Method::Stored if entry.compressed == entry.size => None,
        Method::Stored => {
            return Err(Problem::Zip(format!("entry {}: its two sizes differ", Quoted(name))));
        }
        Method::Deflated => Some(entry.crc),
        Method::Other(method) => {
            let name = Quoted(name);
            return Err(Problem::Zip(format!("entry {name}: compression {method} is not read")));
        }
    };
    Ok(Storage { span, bytes: entry.size, deflated, big_endian })
}
