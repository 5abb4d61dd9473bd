//! The format that `torch.save` wrote before PyTorch 1.6.
//!
//! Five pickles follow each other (a magic number, a version, the writer's type sizes, the object,
//! the keys of its storages), then each storage in the keys' order: its number of elements as a
//! 64-bit integer, and these. All is little-endian, whatever the writer was.

use std::collections::HashMap;

use super::state_dict::{StorageId, extract, storage_id};
use crate::file::contents::Contents;
use crate::file::error::{Problem, Quoted};
use crate::file::pickle::{self, Node, Pickle, Value};
use crate::file::storage::Storage;

/// The only version of the format.
const VERSION: i64 = 1001;

/// Reads the legacy file that is the whole of `file`.
pub(crate) fn read_legacy(file: &[u8]) -> Result<Contents, Problem> {
    let magic = pickle::read_from(file, 0)?;
    let version = pickle::read_from(file, magic.end())?;
    if version.root() != Value::Int(VERSION) {
        return Err(bad(magic.end(), format!("the version is not {VERSION}")));
    }
    let sizes = pickle::read_from(file, version.end())?;
    let object = pickle::read_from(file, sizes.end())?;
    let keys = pickle::read_from(file, object.end())?;
    let (by_key, storages) = storages(file, &object, &keys)?;
    extract(&object, &by_key, storages, file.len() as u64)
}

/// Reads a file that is a pickle on its own, which can't hold tensors: their data would be
/// elsewhere.
pub(crate) fn read_bare(file: &[u8]) -> Result<Contents, Problem> {
    let pickle = pickle::read(file)?;
    extract(&pickle, &HashMap::new(), Vec::new(), file.len() as u64)
}

/// The storages behind the pickles, numbered by their keys.
fn storages(
    file: &[u8],
    object: &Pickle<'_>,
    keys: &Pickle<'_>,
) -> Result<(HashMap<String, usize>, Vec<Storage>), Problem> {
    let mut ids: HashMap<String, StorageId<'_>> = HashMap::new();
    for node in object.nodes() {
        let Node::Persistent(id) = node else { continue };
        let Some(id) = storage_id(object, *id) else { continue };
        // The first one decides in which elements the storage's size is counted.
        ids.entry(id.key.as_ref().to_owned()).or_insert(id);
    }
    let list = keys.sequence(keys.root());
    let list = list.ok_or_else(|| bad(object.end(), "the storages' keys are no list".into()))?;
    let mut by_key = HashMap::new();
    let mut storages = Vec::new();
    let mut at = keys.end();
    for key in list {
        let id = match *key {
            Value::Int(key) => ids.get(&key.to_string()),
            key => keys.text(key).and_then(|key| ids.get(key)),
        };
        let id = id.ok_or_else(|| bad(object.end(), "a storage's key is not in use".into()))?;
        let storage = storage(file, at, id)?;
        at = storage.span.end;
        if by_key.insert(id.key.as_ref().to_owned(), storages.len()).is_some() {
            let key = Quoted(&id.key);
            return Err(bad(object.end(), format!("the storage {key} is there twice")));
        }
        storages.push(storage);
    }
    Ok((by_key, storages))
}

/// The storage whose size is at this position.
fn storage(file: &[u8], at: usize, id: &StorageId<'_>) -> Result<Storage, Problem> {
    let actual = file.len() as u64;
    let bytes = id.bytes().ok_or_else(|| {
        bad(at, format!("the storage {} is announced with too many elements", Quoted(&id.key)))
    })?;
    let start = at + 8;
    let cut_short = || {
        let expected = (start as u64).saturating_add(bytes);
        Problem::CutShort { expected, actual }
    };
    let size = file.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(cut_short)?;
    let count = u64::from_le_bytes(*size);
    if count != id.count {
        return Err(bad(
            at,
            format!(
                "the storage {} has {count} elements, not the {} that are announced",
                Quoted(&id.key),
                id.count
            ),
        ));
    }
    let end = usize::try_from(bytes).ok().and_then(|bytes| start.checked_add(bytes));
    let end = end.filter(|&end| end <= file.len()).ok_or_else(cut_short)?;
    Ok(Storage { span: start..end, bytes, deflated: None, big_endian: false })
}

fn bad(offset: usize, reason: String) -> Problem {
    Problem::Pickle { offset: offset as u64, reason }
}
