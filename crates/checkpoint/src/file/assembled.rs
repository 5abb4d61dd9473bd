//! Checkpoints whose tensors are those of other checkpoints: put side by side, stacked, or rounded to 8 bits.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use indexmap::IndexMap;

use super::error::Problem;
use super::tensor::{Part, Place};
use super::{Checkpoint, Format, OpenError, Source, TensorInfo};
use crate::cast::to_fp8;
use crate::decode::to_f32;
use crate::dtype::Dtype;

/// A tensor to be made of those of other checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// Its key.
    pub key: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What it is made of, stacked along the first dimension.
    pub pieces: Vec<Piece>,
    /// What its values are rounded to: [`Dtype::F8E4M3`] or [`Dtype::F8E5M2`]; `None` is as they are stored.
    pub dtype: Option<Dtype>,
}

/// A tensor of another checkpoint, or some of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which of the checkpoints, from 0.
    pub member: usize,
    /// The tensor's key there.
    pub key: String,
    /// The rows (of the first dimension) that are taken; `None` is all of them.
    pub rows: Option<Range<usize>>,
}

impl Piece {
    /// All of a tensor.
    pub fn whole(member: usize, key: &str) -> Self {
        Self { member, key: key.to_owned(), rows: None }
    }
}

impl Checkpoint {
    /// A checkpoint whose tensors are made of those of `members`, which stay open as long as it lives. Nothing is
    /// read now. `name` stands for its path.
    ///
    /// # Errors
    /// When a key comes twice, a member has no such tensor, or the pieces are not what the shape asks for.
    pub fn assemble(
        name: impl Into<PathBuf>,
        members: Vec<Arc<Checkpoint>>,
        metadata: IndexMap<String, String>,
        tensors: impl IntoIterator<Item = NewTensor>,
    ) -> Result<Checkpoint, OpenError> {
        let path = name.into();
        let mut all = IndexMap::new();
        for NewTensor { key, shape, pieces, dtype } in tensors {
            let parts: Result<Vec<_>, _> =
                pieces.iter().map(|piece| part(&members, piece)).collect();
            let parts = parts.map_err(|problem| problem.at(&path))?;
            let wrong = |reason: &str| Problem::tensor(&key, reason).at(&path);
            let stored =
                parts.first().map(|part| part.dtype).ok_or_else(|| wrong("it is empty"))?;
            let dtype = dtype.unwrap_or(stored);
            let rounded = matches!(dtype, Dtype::F8E4M3 | Dtype::F8E5M2);
            if parts.iter().any(|part| part.dtype != dtype && !(rounded && is_rounded(part.dtype)))
            {
                return Err(wrong("its pieces have other dtypes"));
            }
            let bytes = parts.iter().map(|part| part.bytes_as(dtype)).fold(0, u64::saturating_add);
            if dtype.encoding().bytes(&shape) != Some(bytes) {
                return Err(wrong("its pieces do not make its shape"));
            }
            let info = TensorInfo { dtype, shape, place: Place::Parts(parts.into()) };
            if all.insert(key.clone(), info).is_some() {
                return Err(Problem::tensor(&key, "it is there twice").at(&path));
            }
        }
        Ok(Checkpoint {
            path,
            format: Format::Parts,
            file: Source::Members(members),
            metadata,
            tensors: all,
            unread: IndexMap::new(),
            storages: Vec::new(),
        })
    }

    /// The same checkpoint with the values of all its floating-point tensors rounded to the nearest of an 8-bit
    /// dtype, as they are read. One whose matrices are in 8 bits already stays as it is: its scales belong to them.
    ///
    /// # Errors
    /// When `dtype` is no 8-bit float.
    pub fn rounded(self: &Arc<Self>, dtype: Dtype) -> Result<Arc<Checkpoint>, OpenError> {
        if self.tensors().any(|(_, info)| matches!(info.dtype, Dtype::F8E4M3 | Dtype::F8E5M2)) {
            return Ok(Arc::clone(self));
        }
        let tensors = self.tensors().map(|(key, info)| NewTensor {
            key: key.to_owned(),
            shape: info.shape.clone(),
            pieces: vec![Piece::whole(0, key)],
            dtype: is_rounded(info.dtype).then_some(dtype),
        });
        let tensors: Vec<NewTensor> = tensors.collect();
        let path = self.path().join(dtype.name());
        let metadata = self.metadata().clone();
        let mut rounded = Self::assemble(path, vec![Arc::clone(self)], metadata, tensors)?;
        rounded.unread.clone_from(self.unread());
        Ok(Arc::new(rounded))
    }

    /// The one part that a tensor is, as its member stores it.
    pub(super) fn only_part<'a>(
        &'a self,
        info: &'a TensorInfo,
    ) -> Option<(&'a Arc<Checkpoint>, &'a Part)> {
        let (Place::Parts(parts), Source::Members(members)) = (&info.place, &self.file) else {
            return None;
        };
        match &**parts {
            [part] if part.dtype == info.dtype => Some((members.get(part.member)?, part)),
            _ => None,
        }
    }

    /// Copies from the parts of a tensor, from the byte `start` of it on.
    pub(super) fn copy_parts(
        &self,
        parts: &[Part],
        dtype: Dtype,
        mut start: u64,
        mut to: &mut [u8],
    ) -> Result<(), Problem> {
        let Source::Members(members) = &self.file else { return Ok(()) };
        for part in parts {
            let length = part.bytes_as(dtype);
            let here = length.saturating_sub(start).min(to.len() as u64);
            let (now, rest) = to.split_at_mut(usize::try_from(here).unwrap_or(usize::MAX));
            if !now.is_empty() {
                let member = members.get(part.member);
                let member = member.ok_or_else(|| Problem::NoData(part.key.clone()))?;
                copy_part(member, part, dtype, start, now)?;
            }
            start = start.saturating_sub(length);
            to = rest;
        }
        Ok(())
    }

    /// [`release`](Checkpoint::release) of what a tensor is made of.
    pub(super) fn release_parts(&self, parts: &[Part]) {
        let Source::Members(members) = &self.file else { return };
        for part in parts {
            if let Some(member) = members.get(part.member) {
                member.release(&part.key);
            }
        }
    }
}

impl Part {
    /// Where a part starts in its tensor, which is the key's.
    pub(super) fn at(&self, start: u64) -> (&str, u64) {
        (&self.key, self.start.saturating_add(start))
    }
}

/// Whether values of a dtype are rounded to 8 bits.
fn is_rounded(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

fn part(members: &[Arc<Checkpoint>], piece: &Piece) -> Result<Part, Problem> {
    let Piece { member, key, rows } = piece;
    let missing = || Problem::NoSuchTensor(key.clone());
    let info = members.get(*member).and_then(|member| member.get(key)).ok_or_else(missing)?;
    let (bytes, dtype) = (info.bytes(), info.dtype);
    let height = info.shape.first().copied().unwrap_or(1).max(1);
    let (start, bytes) = match rows {
        None => (0, bytes),
        Some(rows) if rows.start <= rows.end && rows.end <= height => {
            // A row is a whole number of bytes, and all of them are no more than the tensor's.
            let row = bytes / height as u64;
            (row * rows.start as u64, row * (rows.end - rows.start) as u64)
        }
        Some(_) => return Err(Problem::tensor(key, format!("it has {height} rows"))),
    };
    Ok(Part { member: *member, key: key.clone(), start, bytes, dtype })
}

/// Copies bytes of a part, as `dtype` has them, from the byte `start` on.
fn copy_part(
    member: &Checkpoint,
    part: &Part,
    dtype: Dtype,
    start: u64,
    to: &mut [u8],
) -> Result<(), Problem> {
    if part.dtype == dtype {
        return member.copy(&part.key, part.start.saturating_add(start), to);
    }
    // One byte an element in `dtype`.
    let size = part.dtype.size();
    let from = part.start.saturating_add(start.saturating_mul(size as u64));
    let stored = member.copied(&part.key, from, to.len().saturating_mul(size))?;
    to.copy_from_slice(&to_fp8(&to_f32(&stored, part.dtype), dtype));
    Ok(())
}
