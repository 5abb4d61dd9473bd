//! Opening model files: what is in them, as views into a memory map, believing nothing.
//!
//! [`Checkpoint::open`] tells the format by content, reads and validates the part of the file that
//! describes the tensors, and leaves the data where it is. [`Checkpoint::bytes`] is a tensor's
//! data: a slice of the map wherever the file stores it contiguous and uncompressed.
//!
//! For embedders and fuzzers: [`Checkpoint::from_bytes`] opens what is already in memory,
//! [`safetensors::read_header`] reads a safetensors header alone, [`pickle::read`] a pickle.

mod assembled;
mod contents;
mod error;
mod guard;
mod mapped;
pub mod pickle;
pub mod safetensors;
mod sniff;
mod storage;
mod tensor;
mod text_file;
mod torch;
mod unread;
mod view;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;

pub use assembled::{NewTensor, Piece};
pub(crate) use error::Quoted;
pub use error::{OpenError, Problem};
pub use tensor::TensorInfo;
pub use unread::Unread;
pub use view::View;

use crate::dtype::Dtype;
use contents::Contents;
use mapped::Mapped;
use sniff::Kind;
use storage::Storage;
use tensor::Place;

/// How a checkpoint is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `.safetensors`.
    Safetensors,
    /// What `torch.save` writes since PyTorch 1.6: a zip archive around a pickle.
    TorchZip,
    /// What `torch.save` wrote before: pickles, then the storages.
    TorchLegacy,
    /// No file of its own: made by [`Checkpoint::from_parts`] or [`Checkpoint::assemble`].
    Parts,
}

impl Format {
    /// A short name: `safetensors`, `torch zip`, `torch legacy`, `parts`.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::TorchZip => "torch zip",
            Format::TorchLegacy => "torch legacy",
            Format::Parts => "parts",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An open checkpoint: its tensors' names, dtypes, shapes and data.
///
/// The file stays open and mapped as long as the checkpoint lives; share it in an
/// [`Arc`]. Replacing the file by a rename, as downloaders do, is fine at any time.
/// A file that is changed in place is told by [`read`](Checkpoint::read), and by
/// [`check`](Checkpoint::check) after a look at a [`view`](Checkpoint::view). Slices of
/// [`bytes`](Checkpoint::bytes) that are gone because it was cut short are zeros on Linux; elsewhere a look at
/// them ends the process, so what uses a file long after it was opened should read or view it.
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    file: Source,
    metadata: IndexMap<String, String>,
    tensors: IndexMap<String, TensorInfo>,
    unread: IndexMap<String, Unread>,
    /// What [`Place::Strided`] tensors are views of.
    storages: Vec<Storage>,
}

/// The file's bytes.
enum Source {
    Map(Arc<Mapped>),
    Memory(Vec<u8>),
    /// None: the tensors are those of other checkpoints.
    Members(Vec<Arc<Checkpoint>>),
}

impl Source {
    fn bytes(&self) -> &[u8] {
        match self {
            Source::Map(map) => map.bytes(),
            Source::Memory(bytes) => bytes,
            Source::Members(_) => &[],
        }
    }

    /// Copies the file's bytes from `start` on. No page of the map is touched.
    fn read_into(&self, start: usize, to: &mut [u8]) -> Result<(), Problem> {
        match self {
            Source::Map(map) => map.read_into(start as u64, to),
            Source::Memory(bytes) => {
                let from = bytes.get(start..).and_then(|bytes| bytes.get(..to.len()));
                to.copy_from_slice(from.ok_or(Problem::Changed)?);
                Ok(())
            }
            Source::Members(_) => Err(Problem::Changed),
        }
    }
}

impl Checkpoint {
    /// Opens a model file. The format is told by content; the extension only helps to word errors.
    ///
    /// No data is read and nothing in the file is run.
    ///
    /// # Errors
    /// An [`OpenError`] that names the file, what is wrong with it and the way out.
    pub fn open(path: &Path) -> Result<Checkpoint, OpenError> {
        let source = Mapped::open(path).map_err(|problem| problem.at(path))?;
        Checkpoint::load(path.to_owned(), Source::Map(Arc::new(source)))
    }

    /// Opens a model file that is already in memory; `name` stands for its path in errors.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Checkpoint, OpenError> {
        Checkpoint::load(name.into(), Source::Memory(bytes))
    }

    /// A checkpoint of keys, dtypes and shapes alone, for tests and tools that need no data:
    /// [`Checkpoint::bytes`] is an error for each of its tensors.
    ///
    /// # Errors
    /// A key that comes twice, or a shape too large to address.
    pub fn from_parts(
        name: impl Into<PathBuf>,
        metadata: IndexMap<String, String>,
        parts: impl IntoIterator<Item = (String, Dtype, Vec<usize>)>,
    ) -> Result<Checkpoint, OpenError> {
        let path = name.into();
        let mut tensors = IndexMap::new();
        for (key, dtype, shape) in parts {
            if dtype.encoding().bytes(&shape).is_none() {
                return Err(Problem::tensor(&key, "its shape is too large").at(path));
            }
            if tensors.contains_key(&key) {
                return Err(Problem::tensor(&key, "it is there twice").at(path));
            }
            tensors.insert(key, TensorInfo { dtype, shape, place: Place::Absent });
        }
        let file = Source::Memory(Vec::new());
        Ok(Checkpoint {
            path,
            format: Format::Parts,
            file,
            metadata,
            tensors,
            unread: IndexMap::new(),
            storages: Vec::new(),
        })
    }

    fn load(path: PathBuf, file: Source) -> Result<Checkpoint, OpenError> {
        let hint = path.extension().is_some_and(|extension| {
            extension.eq_ignore_ascii_case("safetensors") || extension.eq_ignore_ascii_case("sft")
        });
        let found = contents(file.bytes(), hint);
        if let Source::Map(map) = &file {
            // Zeros where pages were gone may look like anything.
            map.check_looks().map_err(|problem| problem.at(path.clone()))?;
        }
        match found {
            Ok((_, contents)) if contents.tensors.is_empty() => {
                let problem = match contents.unread.into_iter().next() {
                    None => Problem::NoTensors,
                    Some((key, unread)) => Problem::DtypeNotCarried { key, dtype: unread.dtype },
                };
                Err(problem.at(path))
            }
            Ok((format, Contents { metadata, tensors, unread, storages })) => {
                Ok(Checkpoint { path, format, file, metadata, tensors, unread, storages })
            }
            Err(problem) => Err(problem.at(path)),
        }
    }

    /// The path that was opened, or the name that was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the file is stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of the file, or of all files that an [assembled](Self::assemble) one is made of; 0 for one that is
    /// made of shapes alone.
    pub fn file_len(&self) -> u64 {
        match &self.file {
            Source::Members(members) => {
                members.iter().fold(0, |sum, member| sum.saturating_add(member.file_len()))
            }
            file => file.bytes().len() as u64,
        }
    }

    /// `__metadata__` of a safetensors file; the simple values next to the tensors
    /// (`global_step`, `epoch`, …) of a PyTorch file.
    pub fn metadata(&self) -> &IndexMap<String, String> {
        &self.metadata
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors, which only [`Checkpoint::from_parts`] can make.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The tensors and their keys, in the file's order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(key, info)| (key.as_str(), info))
    }

    /// The tensors of dtypes that are not read, by key in the file's order. They are not among
    /// [`tensors`](Self::tensors), and have no data here.
    pub fn unread(&self) -> &IndexMap<String, Unread> {
        &self.unread
    }

    /// The tensor with this key.
    pub fn get(&self, key: &str) -> Option<&TensorInfo> {
        self.tensors.get(key)
    }

    /// A key's position in the file's order; the number of tensors for a key that is not there.
    pub(crate) fn position(&self, key: &str) -> usize {
        self.tensors.get_index_of(key).unwrap_or(self.tensors.len())
    }

    /// A tensor's data: its elements in row-major order, little-endian, without gaps.
    ///
    /// Borrowed from the memory map where the file stores it so, else gathered anew at each call.
    /// A borrowed slice has the alignment that the file gives it, which may be none.
    ///
    /// # Errors
    /// There is no such tensor, or no data.
    pub fn bytes(&self, key: &str) -> Result<Cow<'_, [u8]>, OpenError> {
        self.data(key).map_err(|problem| problem.at(&self.path))
    }

    /// Says that a tensor's data is not needed for now: what of it the memory map holds in this
    /// process's memory is let go, and read from the file again where it is asked for again.
    ///
    /// Does nothing where the data is not mapped, and on systems without such advice.
    pub fn release(&self, key: &str) {
        match (&self.file, self.get(key).map(|info| &info.place)) {
            (Source::Map(map), Some(Place::Span(span))) => map.forget(span),
            (_, Some(Place::Parts(parts))) => self.release_parts(parts),
            _ => {}
        }
    }

    /// [`release`](Checkpoint::release) of all tensors.
    pub fn release_all(&self) {
        match &self.file {
            Source::Map(map) => map.forget(&(0..map.bytes().len())),
            Source::Members(members) => members.iter().for_each(|member| member.release_all()),
            Source::Memory(_) => {}
        }
    }

    /// Copies a part of a tensor's data, as [`bytes`](Checkpoint::bytes) has it, from the byte
    /// `start` on: as many bytes as `to` takes.
    ///
    /// The file is asked whether it is still the one that was opened, and read rather than looked
    /// at through its map: whatever happens to it, this ends in an error.
    ///
    /// # Errors
    /// There is no such tensor or no data, the part reaches out of it, or the file was changed.
    pub fn read_into(&self, key: &str, start: u64, to: &mut [u8]) -> Result<(), OpenError> {
        self.copy(key, start, to).map_err(|problem| problem.at(&self.path))
    }

    /// As [`read_into`](Self::read_into), so many bytes in memory of their own.
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into).
    pub fn read(&self, key: &str, start: u64, length: usize) -> Result<Vec<u8>, OpenError> {
        self.copied(key, start, length).map_err(|problem| problem.at(&self.path))
    }

    /// As [`read`](Self::read), but in the file's own pages, which are in memory when this returns.
    /// `None` where the file does not store the data in one piece, is in memory itself, or this
    /// system has no safe way to look at it: read it then.
    ///
    /// # Errors
    /// As [`read`](Self::read). What happens to the file later is told by [`check`](Self::check).
    pub fn view(&self, key: &str, start: u64, length: usize) -> Result<Option<View>, OpenError> {
        if let Some((member, part)) = self.get(key).and_then(|info| self.only_part(info)) {
            let (key, start) = part.at(start);
            return member.view(key, start, length);
        }
        let view = || {
            let (info, from) = self.part(key, start, length)?;
            let (Place::Span(span), Source::Map(map)) = (&info.place, &self.file) else {
                return Ok(None);
            };
            let start = span.start + from;
            View::of(map, start..start + length)
        };
        view().map_err(|problem: Problem| problem.at(&self.path))
    }

    /// Whether the file is still the one that was opened, and every [`view`](Self::view) showed what is in it.
    ///
    /// # Errors
    /// When it was changed in place, or a part that was looked at could not be read. Once that has
    /// happened it stays so.
    pub fn check(&self) -> Result<(), OpenError> {
        match &self.file {
            Source::Map(map) => map.check().map_err(|problem| problem.at(&self.path)),
            Source::Memory(_) => Ok(()),
            Source::Members(members) => members.iter().try_for_each(|member| member.check()),
        }
    }

    fn copied(&self, key: &str, start: u64, length: usize) -> Result<Vec<u8>, Problem> {
        let (info, from) = self.part(key, start, length)?;
        if let (Place::Span(span), Source::Map(map)) = (&info.place, &self.file) {
            return map.read((span.start + from) as u64, length);
        }
        let mut bytes = vec![0; length];
        self.copy(key, start, &mut bytes)?;
        Ok(bytes)
    }

    /// A tensor that has so many bytes from the byte `start` on, and that as an index.
    fn part(&self, key: &str, start: u64, length: usize) -> Result<(&TensorInfo, usize), Problem> {
        let info = self.get(key).ok_or_else(|| Problem::NoSuchTensor(key.to_owned()))?;
        let end = start.checked_add(length as u64).filter(|&end| end <= info.bytes());
        let outside = || Problem::tensor(key, format!("it has {} bytes", info.bytes()));
        end.ok_or_else(outside)?;
        Ok((info, usize::try_from(start).map_err(|_| outside())?))
    }

    fn copy(&self, key: &str, start: u64, to: &mut [u8]) -> Result<(), Problem> {
        let (info, start) = self.part(key, start, to.len())?;
        match &info.place {
            Place::Span(span) => self.file.read_into(span.start + start, to),
            Place::Strided(strided) => {
                let storage = self.storages.get(strided.storage);
                let storage = storage.ok_or_else(|| Problem::NoData(key.to_owned()))?;
                let mut stored = vec![0; storage.span.len()];
                self.file.read_into(storage.span.start, &mut stored)?;
                let data = storage.gather(&stored, info.dtype, &info.shape, strided)?;
                let data = data.get(start..start + to.len());
                to.copy_from_slice(data.ok_or_else(|| Problem::NoData(key.to_owned()))?);
                Ok(())
            }
            Place::Parts(parts) => self.copy_parts(parts, info.dtype, start as u64, to),
            Place::Absent => Err(Problem::NoData(key.to_owned())),
        }
    }

    fn data(&self, key: &str) -> Result<Cow<'_, [u8]>, Problem> {
        let info = self.get(key).ok_or_else(|| Problem::NoSuchTensor(key.to_owned()))?;
        match &info.place {
            Place::Span(span) => {
                let data = self.file.bytes().get(span.clone());
                data.map(Cow::Borrowed).ok_or_else(|| Problem::NoData(key.to_owned()))
            }
            Place::Strided(strided) => {
                let storage = self.storages.get(strided.storage);
                let storage = storage.ok_or_else(|| Problem::NoData(key.to_owned()))?;
                let stored = self.file.bytes().get(storage.span.clone()).unwrap_or_default();
                storage.gather(stored, info.dtype, &info.shape, strided).map(Cow::Owned)
            }
            Place::Parts(parts) => {
                let length = usize::try_from(info.bytes());
                let mut bytes = vec![0; length.map_err(|_| Problem::NoData(key.to_owned()))?];
                self.copy_parts(parts, info.dtype, 0, &mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
            Place::Absent => Err(Problem::NoData(key.to_owned())),
        }
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("path", &self.path)
            .field("format", &self.format)
            .field("file_len", &self.file_len())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

/// Reads what describes the tensors of a file.
fn contents(file: &[u8], hint: bool) -> Result<(Format, Contents), Problem> {
    Ok(match sniff::sniff(file, hint)? {
        Kind::Safetensors => {
            let safetensors::Header { metadata, tensors, unread } = safetensors::read_header(file)?;
            let storages = Vec::new();
            (Format::Safetensors, Contents { metadata, tensors, unread, storages })
        }
        Kind::TorchZip => (Format::TorchZip, torch::read_archive(file)?),
        Kind::TorchLegacy => (Format::TorchLegacy, torch::read_legacy(file)?),
        Kind::Pickle => (Format::TorchLegacy, torch::read_bare(file)?),
    })
}
