//! The directory of a zip archive in memory.
//!
//! Format: <https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>. Entries that are stored
//! uncompressed are wanted as ranges of a memory map, and an archive that is cut short must be known as
//! such without a search through gigabytes; hence a directory reader of our own, and `flate2` for
//! what is compressed.

use std::ops::Range;

use indexmap::IndexMap;

use crate::file::error::{Problem, Quoted};

/// The most entries: a checkpoint has one for each storage.
const MAX_ENTRIES: u64 = 1_000_000;

const END: &[u8] = b"PK\x05\x06";
const END_SIZE: usize = 22;
const LONGEST_COMMENT: usize = 0xffff;
const LOCATOR64: &[u8] = b"PK\x06\x07";
const LOCATOR64_SIZE: usize = 20;
const END64: &[u8] = b"PK\x06\x06";
const CENTRAL: &[u8] = b"PK\x01\x02";
const CENTRAL_SIZE: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_SIZE: usize = 30;

/// How an entry is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Stored,
    Deflated,
    Other(u16),
}

/// One entry as the archive's directory has it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub method: Method,
    pub encrypted: bool,
    pub crc: u32,
    pub compressed: u64,
    pub size: u64,
    local_header: u64,
}

/// The archive's entries, by name, in the directory's order.
#[derive(Debug)]
pub(super) struct Directory<'a> {
    file: &'a [u8],
    entries: IndexMap<&'a str, Entry>,
}

impl<'a> Directory<'a> {
    /// Reads the directory at the end of `file`.
    pub(super) fn read(file: &'a [u8]) -> Result<Directory<'a>, Problem> {
        let (mut rest, count) = central_directory(file)?;
        let mut entries = IndexMap::new();
        for _ in 0..count {
            let (name, entry, after) = central_header(rest)?;
            check_name(name)?;
            if entries.insert(name, entry).is_some() {
                return Err(bad(format!("entry {} is there twice", Quoted(name))));
            }
            rest = after;
        }
        Ok(Directory { file, entries })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Where the (perhaps compressed) bytes of an entry are.
    pub(super) fn span(&self, name: &str, entry: &Entry) -> Result<Range<usize>, Problem> {
        let lie = |what: &str| bad(format!("entry {}: {what}", Quoted(name)));
        if entry.encrypted {
            return Err(lie("it is encrypted"));
        }
        let start = usize::try_from(entry.local_header).unwrap_or(usize::MAX);
        let header = slice(self.file, start, LOCAL_SIZE)
            .filter(|header| header.starts_with(LOCAL))
            .ok_or_else(|| lie("it is not where the directory says"))?;
        let name_len = usize::from(u16_at(header, 26));
        let extra_len = usize::from(u16_at(header, 28));
        if slice(self.file, start + LOCAL_SIZE, name_len) != Some(name.as_bytes()) {
            return Err(lie("another one is where the directory says"));
        }
        let start = start + LOCAL_SIZE + name_len + extra_len;
        let length = usize::try_from(entry.compressed).ok();
        match length.and_then(|length| Some(start..start.checked_add(length)?)) {
            Some(span) if span.end <= self.file.len() => Ok(span),
            _ => Err(lie("it ends behind the end of the file")),
        }
    }
}

/// Names are never paths here, but an archive with such names was made to do harm.
fn check_name(name: &str) -> Result<(), Problem> {
    let climbs = name.split(['/', '\\']).any(|part| part == "..");
    if climbs || name.starts_with(['/', '\\']) || name.contains('\0') {
        return Err(bad(format!(
            "entry {} has a name that leads out of the archive, which torch.save never writes",
            Quoted(name)
        )));
    }
    Ok(())
}

/// The bytes of the central directory and the number of its entries.
fn central_directory(file: &[u8]) -> Result<(&[u8], u64), Problem> {
    let at = find_end(file).ok_or_else(|| {
        bad("it has no directory at its end, so it is cut short or damaged".to_owned())
    })?;
    let end = slice(file, at, END_SIZE).unwrap_or_default();
    let mut count = u64::from(u16_at(end, 10));
    let mut size = u64::from(u32_at(end, 12));
    let mut offset = u64::from(u32_at(end, 16));
    if count == 0xffff || size == 0xffff_ffff || offset == 0xffff_ffff {
        let end64 = find_end64(file, at)
            .ok_or_else(|| bad("its zip64 directory is not where it says".to_owned()))?;
        count = u64_at(end64, 32);
        size = u64_at(end64, 40);
        offset = u64_at(end64, 48);
    }
    if count > MAX_ENTRIES {
        return Err(bad(format!("it has {count} entries, over the limit of {MAX_ENTRIES}")));
    }
    let fits = offset.checked_add(size).is_some_and(|end| end <= at as u64);
    match slice(file, offset as usize, size as usize) {
        // In bounds of the file, so both fit in a usize.
        Some(directory) if fits => Ok((directory, count)),
        _ => Err(bad("its directory is not where it says".to_owned())),
    }
}

/// The last record of an archive. Its comment reaches to the end of the file.
fn find_end(file: &[u8]) -> Option<usize> {
    let last = file.len().checked_sub(END_SIZE)?;
    let first = last.saturating_sub(LONGEST_COMMENT);
    (first..=last).rev().find(|&at| {
        slice(file, at, END_SIZE).is_some_and(|end| {
            end.starts_with(END) && at + END_SIZE + usize::from(u16_at(end, 20)) == file.len()
        })
    })
}

fn find_end64(file: &[u8], end: usize) -> Option<&[u8]> {
    let locator = slice(file, end.checked_sub(LOCATOR64_SIZE)?, LOCATOR64_SIZE)?;
    let at = usize::try_from(u64_at(locator, 8)).ok()?;
    let end64 = slice(file, at, 56)?;
    (locator.starts_with(LOCATOR64) && end64.starts_with(END64)).then_some(end64)
}

/// The first entry of (the rest of) the central directory, and the rest behind it.
fn central_header(rest: &[u8]) -> Result<(&str, Entry, &[u8]), Problem> {
    let short = || bad("its directory ends too early".to_owned());
    let header = slice(rest, 0, CENTRAL_SIZE).ok_or_else(short)?;
    if !header.starts_with(CENTRAL) {
        return Err(bad("its directory is damaged".to_owned()));
    }
    let [name_len, extra_len, comment_len] = [28, 30, 32].map(|at| usize::from(u16_at(header, at)));
    let name = slice(rest, CENTRAL_SIZE, name_len).ok_or_else(short)?;
    let extra = slice(rest, CENTRAL_SIZE + name_len, extra_len).ok_or_else(short)?;
    let after = rest.get(CENTRAL_SIZE + name_len + extra_len + comment_len..).ok_or_else(short)?;
    let name =
        std::str::from_utf8(name).map_err(|_| bad("an entry's name is not UTF-8".to_owned()))?;
    let mut entry = Entry {
        method: match u16_at(header, 10) {
            0 => Method::Stored,
            8 => Method::Deflated,
            other => Method::Other(other),
        },
        encrypted: u16_at(header, 8) & 1 == 1,
        crc: u32_at(header, 16),
        compressed: u32_at(header, 20).into(),
        size: u32_at(header, 24).into(),
        local_header: u32_at(header, 42).into(),
    };
    widen(&mut entry, extra)
        .ok_or_else(|| bad(format!("entry {}: its zip64 sizes are missing", Quoted(name))))?;
    Ok((name, entry, after))
}

/// Takes the numbers that don't fit in 32 bits from the zip64 extra field, which has only these.
fn widen(entry: &mut Entry, extra: &[u8]) -> Option<()> {
    const SATURATED: u64 = 0xffff_ffff;
    let mut wide = zip64_field(extra).unwrap_or_default();
    for number in [&mut entry.size, &mut entry.compressed, &mut entry.local_header] {
        if *number == SATURATED {
            let (first, rest) = wide.split_first_chunk::<8>()?;
            *number = u64::from_le_bytes(*first);
            wide = rest;
        }
    }
    Some(())
}

fn zip64_field(mut extra: &[u8]) -> Option<&[u8]> {
    while extra.len() >= 4 {
        let (id, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        if id == 1 {
            return slice(extra, 4, length);
        }
        extra = extra.get(4 + length..)?;
    }
    None
}

fn slice(bytes: &[u8], start: usize, length: usize) -> Option<&[u8]> {
    bytes.get(start..)?.get(..length)
}

/// Little-endian numbers at places that the caller knows to be there; 0 elsewhere.
fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; N])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

fn bad(reason: String) -> Problem {
    Problem::Zip(reason)
}
