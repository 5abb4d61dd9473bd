//! From the pickle to named tensors.

use std::borrow::Cow;
use std::collections::HashMap;

use indexmap::IndexMap;

use crate::dtype::Dtype;
use crate::file::contents::Contents;
use crate::file::error::{Problem, Size};
use crate::file::pickle::{Element, Global, Node, Object, Pickle, Value};
use crate::file::safetensors::MAX_RANK;
use crate::file::storage::{Storage, Strided};
use crate::file::tensor::{Place, TensorInfo};
use crate::file::unread::Unread;

/// How deep dicts of tensors may be nested.
const MAX_DEPTH: usize = 32;

/// The most items of dicts that are looked at: a pickle can name a dict many times over.
const MAX_ITEMS: usize = 4_000_000;

/// Bytes of all keys together: a pickle can name a long string many times over.
const MAX_KEY_BYTES: usize = 64 << 20;

/// Bytes of one value that is kept as metadata.
const MAX_METADATA_VALUE: usize = 64 << 10;

/// Values that are kept as metadata.
const MAX_METADATA: usize = 256;

/// Bytes of a storage's key: PyTorch writes a number.
const MAX_STORAGE_KEY: usize = 256;

/// How much larger than its file a tensor may be that repeats its elements (stride 0).
const MAX_REPEATED: u64 = 256 << 20;

/// What the pickle says of a storage.
pub(super) struct StorageId<'p> {
    pub key: Cow<'p, str>,
    pub element: Element,
    /// Number of elements.
    pub count: u64,
    /// The first element of the view that is meant, in files of before 0.4.
    view: Option<(u64, u64)>,
}

impl StorageId<'_> {
    /// Bytes of the whole storage.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.count.checked_mul(self.element.size() as u64)
    }
}

/// Reads `("storage", class, key, location, count[, view])`; `None` for any other identifier.
pub(super) fn storage_id<'p, 'a>(pickle: &'p Pickle<'a>, id: Value<'a>) -> Option<StorageId<'p>> {
    let (class, key, count, view) = match *pickle.tuple(id)? {
        [kind, class, key, _location, count] if pickle.text(kind)? == "storage" => {
            (class, key, count, Value::None)
        }
        [kind, class, key, _location, count, view] if pickle.text(kind)? == "storage" => {
            (class, key, count, view)
        }
        _ => return None,
    };
    let Value::Global(Global::Storage(element)) = class else { return None };
    let key = match key {
        Value::Int(key) => Cow::Owned(key.to_string()),
        key => Cow::Borrowed(pickle.text(key).filter(|key| key.len() <= MAX_STORAGE_KEY)?),
    };
    let view = match view {
        Value::None => None,
        view => match *pickle.tuple(view)? {
            [_key, first, count] => Some((unsigned(first)?, unsigned(count)?)),
            _ => return None,
        },
    };
    Some(StorageId { key, element, count: unsigned(count)?, view })
}

fn unsigned(value: Value<'_>) -> Option<u64> {
    match value {
        Value::Int(value) => u64::try_from(value).ok(),
        _ => None,
    }
}

/// Finds the tensors in a pickle: those of `state_dict`, else of the only dict in it, else of the
/// top level. Dicts in it are entered, with a dot between the keys.
///
/// `storages` are numbered by key in `by_key`; `file_len` bounds what stride 0 can make of them.
pub(super) fn extract(
    pickle: &Pickle<'_>,
    by_key: &HashMap<String, usize>,
    storages: Vec<Storage>,
    file_len: u64,
) -> Result<Contents, Problem> {
    let root = pickle.mapping(pickle.root()).ok_or(Problem::NoTensors)?;
    let named = root.iter().rfind(|(key, _)| pickle.text(*key) == Some("state_dict"));
    let inner = match (named, root.as_slice()) {
        (Some((_, inner)), _) | (None, [(_, inner)]) => pickle.mapping(*inner),
        _ => None,
    };
    let metadata = metadata(pickle, &root);
    let mut extract = Extract {
        pickle,
        by_key,
        storages: &storages,
        file_len,
        items: MAX_ITEMS,
        key_bytes: MAX_KEY_BYTES,
        tensors: IndexMap::new(),
        unread: IndexMap::new(),
    };
    extract.enter(&inner.unwrap_or(root), "", 0)?;
    let Extract { tensors, unread, .. } = extract;
    Ok(Contents { metadata, tensors, unread, storages })
}

/// The simple values of the top level.
fn metadata(pickle: &Pickle<'_>, root: &[(Value<'_>, Value<'_>)]) -> IndexMap<String, String> {
    let simple = |(key, value): &(Value<'_>, Value<'_>)| {
        let key = pickle.text(*key).filter(|key| key.len() <= MAX_METADATA_VALUE)?;
        let value = match *value {
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            value => pickle.text(value).filter(|text| text.len() <= MAX_METADATA_VALUE)?.to_owned(),
        };
        Some((key.to_owned(), value))
    };
    root.iter().filter_map(simple).take(MAX_METADATA).collect()
}

struct Extract<'p, 'a> {
    pickle: &'p Pickle<'a>,
    by_key: &'p HashMap<String, usize>,
    storages: &'p [Storage],
    file_len: u64,
    /// Items that may still be looked at.
    items: usize,
    /// Bytes of keys that may still be made.
    key_bytes: usize,
    tensors: IndexMap<String, TensorInfo>,
    unread: IndexMap<String, Unread>,
}

/// A tensor, or why it is not read.
type Found<T> = Result<T, Unread>;

impl<'a> Extract<'_, 'a> {
    /// Adds the tensors of a dict.
    fn enter(
        &mut self,
        items: &[(Value<'a>, Value<'a>)],
        prefix: &str,
        depth: usize,
    ) -> Result<(), Problem> {
        if depth > MAX_DEPTH {
            return Err(Problem::tensor(prefix, format!("dicts over {MAX_DEPTH} deep")));
        }
        self.items = self
            .items
            .checked_sub(items.len())
            .ok_or_else(|| Problem::tensor(prefix, format!("more than {MAX_ITEMS} items")))?;
        for (key, value) in items {
            let (Some(key), Value::Node(_)) = (self.pickle.text(*key), *value) else { continue };
            if let Some(object) = self.pickle.object(*value)
                && is_tensor(object.callee)
            {
                let key = self.key(prefix, key)?;
                // As in Python, the last of two equal keys stays.
                match self.tensor(&key, object)? {
                    Ok(info) => {
                        self.unread.shift_remove(&key);
                        self.tensors.insert(key, info);
                    }
                    Err(unread) => {
                        self.tensors.shift_remove(&key);
                        self.unread.insert(key, unread);
                    }
                }
            } else if let Some(inner) = self.pickle.mapping(*value) {
                let prefix = self.key(prefix, key)? + ".";
                self.enter(&inner, &prefix, depth + 1)?;
            }
        }
        Ok(())
    }

    fn key(&mut self, prefix: &str, key: &str) -> Result<String, Problem> {
        self.key_bytes = self.key_bytes.checked_sub(prefix.len() + key.len()).ok_or_else(|| {
            Problem::tensor(key, format!("the keys take over {}", Size(MAX_KEY_BYTES as u64)))
        })?;
        Ok(format!("{prefix}{key}"))
    }

    /// The tensor that a call would rebuild.
    fn tensor(&self, key: &str, call: &Object<'a>) -> Result<Found<TensorInfo>, Problem> {
        let (rebuild, args) = match self.unwrap(key, call)? {
            Ok(found) => found,
            Err(unread) => return Ok(Err(unread)),
        };
        let bad = |what: &str| Problem::tensor(key, format!("its pickle has {what}"));
        let [storage, first, shape, strides, rest @ ..] = args else {
            return Err(bad("too few arguments"));
        };
        let Some(Node::Persistent(id)) = self.pickle.node(*storage) else {
            return Err(bad("no storage"));
        };
        let storage = storage_id(self.pickle, *id).ok_or_else(|| bad("no valid storage"))?;
        let (element, attributes) = match rebuild {
            // The arguments behind the strides: requires_grad, hooks, (dtype,) attributes.
            Global::RebuildTensorV3 => match rest.get(2) {
                Some(Value::Global(Global::Dtype(element))) => (*element, rest.get(3)),
                _ => return Err(bad("no dtype")),
            },
            _ => (storage.element, rest.get(2)),
        };
        if attributes.is_some_and(|attributes| self.is_negated(*attributes)) {
            return Err(Problem::tensor(key, "it is a lazily negated view, which is not read"));
        }
        let dtype = match element {
            Element::Known(dtype) => dtype,
            Element::Untyped => return Err(bad("no dtype")),
            Element::Foreign(name, _) => return Ok(Err(Unread::new(name))),
        };
        let first = unsigned(*first).ok_or_else(|| bad("no valid offset"))?;
        let shape = self.sizes(*shape).ok_or_else(|| bad("no valid shape"))?;
        let strides = self.sizes(*strides).ok_or_else(|| bad("no valid strides"))?;
        let place = self.place(key, &storage, dtype, first, &shape, strides)?;
        Ok(Ok(TensorInfo { dtype, shape, place }))
    }

    /// Goes through wrappers, such as a parameter's, to the call that rebuilds the tensor itself.
    fn unwrap<'s>(
        &'s self,
        key: &str,
        call: &'s Object<'a>,
    ) -> Result<Found<(Global, &'s [Value<'a>])>, Problem> {
        let mut callee = call.callee;
        let mut args = self.pickle.tuple(call.args);
        for _ in 0..MAX_DEPTH {
            let Some(given) = args else { break };
            match (callee, given) {
                (Global::RebuildTensor | Global::RebuildTensorV3, _) => {
                    return Ok(Ok((callee, given)));
                }
                (Global::RebuildParameter, [inner, ..]) => {
                    let Some(inner) = self.pickle.object(*inner) else { break };
                    callee = inner.callee;
                    args = self.pickle.tuple(inner.args);
                }
                (Global::RebuildFromType, [Value::Global(inner), _class, inner_args, ..]) => {
                    callee = *inner;
                    args = self.pickle.tuple(*inner_args);
                }
                (Global::UnreadTensor(kind), _) => {
                    return Ok(Err(Unread::new(format!("a {kind} tensor"))));
                }
                _ => break,
            }
        }
        Err(Problem::tensor(key, "its pickle rebuilds no tensor"))
    }

    /// Whether a tensor's attributes say that its elements are to be negated.
    fn is_negated(&self, attributes: Value<'a>) -> bool {
        let items = self.pickle.mapping(attributes).unwrap_or_default();
        items.iter().any(|(key, value)| {
            *value == Value::Bool(true) && matches!(self.pickle.text(*key), Some("neg" | "conj"))
        })
    }

    fn sizes(&self, value: Value<'a>) -> Option<Vec<usize>> {
        let sizes = self.pickle.sequence(value).filter(|sizes| sizes.len() <= MAX_RANK)?;
        sizes.iter().map(|&size| usize::try_from(unsigned(size)?).ok()).collect()
    }

    /// Checks a view against its storage, and finds it in the file.
    fn place(
        &self,
        key: &str,
        id: &StorageId<'_>,
        dtype: Dtype,
        first: u64,
        shape: &[usize],
        strides: Vec<usize>,
    ) -> Result<Place, Problem> {
        let bad = |reason: &str| Problem::tensor(key, reason);
        if shape.len() != strides.len() {
            return Err(bad("its shape and strides differ in length"));
        }
        let bytes = dtype.encoding().bytes(shape).ok_or_else(|| bad("its shape is too large"))?;
        let index = self.by_key.get(id.key.as_ref()).copied();
        let Some((index, storage)) = index.and_then(|i| Some((i, self.storages.get(i)?))) else {
            return Err(Problem::tensor(key, format!("its storage `{}` is missing", id.key)));
        };
        if id.bytes().is_none_or(|announced| announced > storage.bytes) {
            return Err(bad("its storage has fewer bytes than announced"));
        }
        let (first, end) = view(id, first).ok_or_else(|| bad("it lies outside of its storage"))?;
        if bytes == 0 {
            return Ok(Place::Span(storage.span.start..storage.span.start));
        }
        let size = dtype.encoding().block_bytes;
        let inside = last_element(first, shape, &strides)
            .and_then(|last| last.checked_add(1)?.checked_mul(size))
            .is_some_and(|used| used <= end && used <= storage.bytes);
        if !inside {
            return Err(bad("it lies outside of its storage"));
        }
        if bytes > storage.bytes.max(self.file_len).max(MAX_REPEATED) {
            return Err(bad("it repeats its elements to far more than the file holds"));
        }
        // The storage is in memory or the file: its positions fit in a usize.
        let first = first as usize;
        let plain = storage.deflated.is_none() && (!storage.big_endian || size == 1);
        if plain && is_contiguous(shape, &strides) {
            let start = storage.span.start + first * dtype.size();
            return Ok(Place::Span(start..start + bytes as usize));
        }
        // The stride of a dimension of size 1 may be anything, and is never taken.
        let strides =
            shape.iter().zip(strides).map(|(&dim, stride)| if dim == 1 { 1 } else { stride });
        let strides = strides.collect();
        Ok(Place::Strided(Box::new(Strided { storage: index, first, strides })))
    }
}

fn is_tensor(callee: Global) -> bool {
    matches!(
        callee,
        Global::RebuildTensor
            | Global::RebuildTensorV3
            | Global::RebuildParameter
            | Global::RebuildFromType
            | Global::UnreadTensor(_)
    )
}

/// The first element of a tensor in its whole storage, and the bytes that it may reach to.
fn view(id: &StorageId<'_>, first: u64) -> Option<(u64, u64)> {
    let (start, end) = match id.view {
        None => (0, id.count),
        Some((start, count)) => (start, start.checked_add(count)?.min(id.count)),
    };
    Some((start.checked_add(first)?, end.checked_mul(id.element.size() as u64)?))
}

/// The number of the last element that a view without empty dimensions reaches.
fn last_element(first: u64, shape: &[usize], strides: &[usize]) -> Option<u64> {
    shape.iter().zip(strides).try_fold(first, |at, (&dim, &stride)| {
        at.checked_add((dim as u64 - 1).checked_mul(stride as u64)?)
    })
}

/// Whether the elements follow each other in row-major order. Strides of dimensions of size 1
/// don't matter.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&dim, &stride)| {
        let fits = dim == 1 || stride == expected;
        expected *= dim; // The product of the shape fits: it has bytes in its encoding.
        fits
    })
}
