//! What recognition looks at: keys, dtypes, shapes and metadata, and which keys are taken already.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;

use super::error::FamilyError;
use crate::decode::to_f32;
use crate::dtype::Dtype;
use crate::file::{Checkpoint, Unread};

/// The largest dimension that is believed. The largest real one is a vocabulary (256,384); the
/// bound keeps sums and products of dimensions far from overflow.
const LARGEST_DIMENSION: usize = 1 << 24;

/// One tensor as its file's header describes it.
#[derive(Clone, Copy)]
pub(super) struct Tensor<'a> {
    pub dtype: Dtype,
    pub shape: &'a [usize],
}

/// A file's tensors, each either taken by a component or still free.
pub(super) struct Inventory<'a> {
    checkpoint: &'a Checkpoint,
    tensors: IndexMap<&'a str, Tensor<'a>>,
    /// The length of each numbered list of modules, by its path.
    lists: HashMap<&'a str, usize>,
    taken: Vec<bool>,
}

impl<'a> Inventory<'a> {
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        let tensors: IndexMap<_, _> = checkpoint
            .tensors()
            .map(|(key, info)| (key, Tensor { dtype: info.dtype, shape: &info.shape }))
            .collect();
        let lists = list_lengths(tensors.keys().copied());
        let taken = vec![false; tensors.len()];
        Self { checkpoint, tensors, lists, taken }
    }

    pub fn get(&self, key: &str) -> Option<Tensor<'a>> {
        self.tensors.get(key).copied()
    }

    pub fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    /// The tensor of this key, where the file has it in a dtype that is not read.
    pub fn unread(&self, key: &str) -> Option<&'a Unread> {
        self.checkpoint.unread().get(key)
    }

    /// The keys of all tensors in dtypes that are not read, in file order.
    pub fn unread_keys(&self) -> impl Iterator<Item = &'a str> {
        self.checkpoint.unread().keys().map(String::as_str)
    }

    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.tensors.keys().copied()
    }

    /// The value of an entry of the file's metadata.
    pub fn metadata(&self, name: &str) -> Option<&'a str> {
        self.checkpoint.metadata().get(name).map(String::as_str)
    }

    /// The elements of a floating-point tensor (of at most 4 bytes an element), where the file
    /// holds its data.
    pub fn values(&self, key: &str) -> Option<Vec<f32>> {
        let dtype = self.get(key)?.dtype;
        if !dtype.is_float() || dtype == Dtype::F64 {
            return None;
        }
        let bytes = self.checkpoint.bytes(key).ok()?;
        Some(to_f32(&bytes, dtype))
    }

    /// A tensor's data, where the file holds it.
    pub fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        self.checkpoint.bytes(key).ok().map(Cow::into_owned)
    }

    /// Marks a key as used by a component.
    pub fn take(&mut self, key: &str) {
        if let Some(taken) = self.tensors.get_index_of(key).and_then(|at| self.taken.get_mut(at)) {
            *taken = true;
        }
    }

    /// The keys that no component uses, in file order.
    pub fn leftovers(&self) -> impl Iterator<Item = &'a str> {
        self.tensors.keys().zip(&self.taken).filter(|(_, taken)| !**taken).map(|(key, _)| *key)
    }
}

/// The tensors under one prefix of the inventory.
#[derive(Clone, Copy)]
pub(super) struct Scope<'s> {
    inventory: &'s Inventory<'s>,
    /// The prefix, with its final dot; empty for the whole file.
    pub prefix: &'s str,
}

impl<'s> Scope<'s> {
    pub fn new(inventory: &'s Inventory<'s>, prefix: &'s str) -> Self {
        Self { inventory, prefix }
    }

    fn get(&self, name: &str) -> Option<Tensor<'s>> {
        self.inventory.get(&format!("{}{name}", self.prefix))
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub fn rank(&self, name: &str) -> Option<usize> {
        self.get(name).map(|tensor| tensor.shape.len())
    }

    /// One dimension of a tensor that a configuration is read off.
    pub fn dim(&self, name: &str, axis: usize) -> Result<usize, FamilyError> {
        let key = format!("{}{name}", self.prefix);
        let Some(tensor) = self.inventory.get(&key) else {
            return Err(match self.inventory.unread(&key) {
                Some(unread) => FamilyError::unread("model", &key, unread),
                None => FamilyError::NoConfig { key },
            });
        };
        match tensor.shape.get(axis) {
            Some(&n) if (1..=LARGEST_DIMENSION).contains(&n) => Ok(n),
            _ => Err(FamilyError::OddShape { key, shape: tensor.shape.to_vec() }),
        }
    }

    /// The length of the numbered list of modules at a path: one more than the largest number.
    pub fn count(&self, list: &str) -> usize {
        let path = format!("{}{list}", self.prefix);
        self.inventory.lists.get(path.as_str()).copied().unwrap_or_default()
    }
}

/// The length of every `path.0.…`, `path.1.…`, …, so that a gap is noticed as a gap.
fn list_lengths<'k>(keys: impl Iterator<Item = &'k str>) -> HashMap<&'k str, usize> {
    let mut members: HashMap<&str, HashSet<usize>> = HashMap::new();
    for key in keys {
        for (dot, _) in key.match_indices('.') {
            let (path, rest) = (key.get(..dot), key.get(dot + 1..));
            let (Some(path), Some((number, _))) = (path, rest.and_then(|r| r.split_once('.')))
            else {
                continue;
            };
            if let Ok(number) = number.parse() {
                members.entry(path).or_default().insert(number);
            }
        }
    }
    let length = |numbers: HashSet<usize>| {
        let found = numbers.len();
        // A stray large number must not ask for that many modules.
        let real = numbers.into_iter().filter(|&n| n < 2 * found);
        real.max().map_or(0, |n| n + 1)
    };
    members.into_iter().map(|(path, numbers)| (path, length(numbers))).collect()
}
