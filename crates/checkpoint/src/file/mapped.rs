//! A file in memory pages, with the file itself beside them.
//!
//! Looking at a page that is no longer in the file ends the process (`SIGBUS`) where the map is not
//! [guarded](super::guard). Weights are looked at in a [`View`](super::view::View) of a guarded map, or read from the
//! file through [`Mapped::read`], which comes back with an error.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::SystemTime;

use memmap2::Mmap;

use super::error::Problem;
use super::guard::Guard;

/// So many bytes are brought at a time.
#[cfg(target_os = "linux")]
const PIECE: usize = 1 << 20;

/// A mapped file.
pub(super) struct Mapped {
    /// Dropped before what it guards.
    guard: Option<Guard>,
    map: Mmap,
    file: File,
    version: Version,
}

/// What tells that a file is still the same.
#[derive(PartialEq, Eq)]
struct Version {
    len: u64,
    modified: Option<SystemTime>,
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self { len: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl Mapped {
    /// Maps the file at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, Problem> {
        // Asked first: opening a pipe would wait for its other end.
        let metadata = std::fs::metadata(path)?;
        if metadata.is_dir() {
            return Err(Problem::NotAFile("a directory"));
        }
        if !metadata.is_file() {
            return Err(Problem::NotAFile("a device or a pipe"));
        }
        let file = File::open(path)?;
        let version = Version::of(&file.metadata()?);
        // SAFETY: the map is only read, as plain bytes, every offset into it is checked against
        // its length, and the slices of it borrow from the `Checkpoint` that owns it. What no
        // program can rule out is that another one changes the file in place; `Checkpoint`
        // documents that.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { guard: Guard::over(&map), map, file, version })
    }

    /// The pages.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Takes the pages of these bytes out of this process's memory, as far as the system does that.
    pub(super) fn forget(&self, span: &Range<usize>) {
        #[cfg(unix)]
        {
            let span = span.start.min(self.map.len())..span.end.min(self.map.len());
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is shared with the file and only read, so a page that is let go
            // comes back with the same bytes; and the range lies in the map.
            let advised =
                unsafe { self.map.unchecked_advise_range(advice, span.start, span.len()) };
            // Advice that is not taken costs memory and nothing else.
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = span;
    }

    /// Brings these pages into the system's cache; false where they are not guarded and nothing may look at
    /// them.
    pub(super) fn prepare(&self, span: &Range<usize>) -> Result<bool, Problem> {
        self.check()?;
        if self.guard.is_none() || self.map.get(span.clone()).is_none_or(<[u8]>::is_empty) {
            return Ok(false);
        }
        self.bring(span)?;
        Ok(true)
    }

    /// Waits until these pages are in the system's cache. Those that are cost next to nothing, so
    /// that whoever computes meanwhile is not held up.
    #[cfg(target_os = "linux")]
    fn bring(&self, span: &Range<usize>) -> Result<(), Problem> {
        let mut through = Vec::new();
        for start in span.clone().step_by(PIECE) {
            let length = PIECE.min(span.end - start);
            if !self.is_cached(start, length) {
                // Read, not looked at: the system reads far ahead of who reads in order, and says what it
                // could not.
                through.resize(length, 0);
                read_exact_at(&self.file, start as u64, &mut through).map_err(ended)?;
            }
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn bring(&self, _: &Range<usize>) -> Result<(), Problem> {
        Ok(())
    }

    /// Whether the system's cache has all pages of a piece. Where the system doesn't tell, it says so of all.
    #[cfg(target_os = "linux")]
    fn is_cached(&self, start: usize, length: usize) -> bool {
        let Some(bytes) = self.map.get(start..start + length) else { return false };
        let page = super::guard::page_size();
        let before = bytes.as_ptr().addr() % page;
        let first = bytes.as_ptr().wrapping_sub(before).cast_mut();
        let mut cached = vec![0_u8; (before + length).div_ceil(page)];
        // SAFETY: the pages are mapped, and there is a byte for each.
        let asked = unsafe { libc::mincore(first.cast(), before + length, cached.as_mut_ptr()) };
        asked == 0 && cached.iter().all(|page| page & 1 == 1)
    }

    /// Whether all that was looked at was there.
    pub(super) fn check_looks(&self) -> Result<(), Problem> {
        if self.guard.as_ref().is_some_and(Guard::lost) {
            self.check_version()?;
            return Err(Problem::Io(io::Error::other("a part of it could not be read")));
        }
        Ok(())
    }

    /// Whether the file is the one that was opened, and all that was looked at was there.
    pub(super) fn check(&self) -> Result<(), Problem> {
        self.check_looks()?;
        self.check_version()
    }

    /// A part of the file, provided that it is the one that was opened; into memory that is not cleared
    /// first, which would take as long as reading it.
    #[cfg(unix)]
    pub(super) fn read(&self, start: u64, length: usize) -> Result<Vec<u8>, Problem> {
        self.check_version()?;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = start.saturating_add(bytes.len() as u64);
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(Problem::Changed),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Problem::Io(error.into())),
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// A part of the file, provided that it is the one that was opened.
    #[cfg(not(unix))]
    pub(super) fn read(&self, start: u64, length: usize) -> Result<Vec<u8>, Problem> {
        let mut bytes = vec![0; length];
        self.read_into(start, &mut bytes)?;
        Ok(bytes)
    }

    fn check_version(&self) -> Result<(), Problem> {
        match Version::of(&self.file.metadata()?) == self.version {
            true => Ok(()),
            false => Err(Problem::Changed),
        }
    }

    /// Copies from the file, provided that it is the one that was opened.
    pub(super) fn read_into(&self, start: u64, to: &mut [u8]) -> Result<(), Problem> {
        self.check_version()?;
        read_exact_at(&self.file, start, to).map_err(ended)
    }
}

/// A file that ends before it did is another.
fn ended(error: io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Problem::Changed,
        _ => Problem::Io(error),
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, start: u64, to: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, to, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut start: u64, mut to: &mut [u8]) -> io::Result<()> {
    while !to.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, to, start)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                start += read as u64;
                to = &mut to[read..];
            }
        }
    }
    Ok(())
}
