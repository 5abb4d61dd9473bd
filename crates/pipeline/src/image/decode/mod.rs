//! Pictures from files: PNG, JPEG, WebP, GIF, BMP and TIFF, told apart by their content.
//!
//! Values are those that ComfyUI's `LoadImage` has had since April 2026, when it began to decode by
//! PyAV: what a format stores becomes values of 0 to 1 in one of a few ways, see `Scale` in `frames`.
//!
//! A picture costs what it holds as it is stored and one copy as `f32`; how large either may be is
//! checked before it is there.

mod bmp;
mod frames;
mod gif;
mod jpeg;
mod png;
mod problem;
mod tiff;
mod webp;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

pub use self::frames::Loaded;
pub use self::problem::{LoadError, Problem};
use super::{Pictures, regular_file};

/// Endings of the names of files that can be read.
pub const ENDINGS: &[&str] =
    &["png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "tif", "tiff"];

/// The most pixels of a file, of all frames together: those of a picture of 16384×16384, which is
/// the largest that nodes make.
pub const MOST_PIXELS: u64 = 1 << 28;

/// What kind of picture a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the formats' names
pub enum Format {
    Png,
    Jpeg,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl Format {
    /// The format of a file that begins with these bytes, of which 12 are enough.
    pub fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Format::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Format::Jpeg),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Format::WebP),
            [b'G', b'I', b'F', b'8', ..] => Some(Format::Gif),
            [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => Some(Format::Tiff),
            [b'B', b'M', ..] => Some(Format::Bmp),
            _ => None,
        }
    }
}

/// Reads a picture file, turned as its EXIF data says.
///
/// # Errors
/// When it cannot be read, is no picture, or is too large.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let wrong = |problem| LoadError { path: path.to_owned(), problem };
    let file: File = regular_file::open(path).map_err(|error| wrong(error.into()))?;
    decode(&mut BufReader::new(file), MOST_PIXELS).map_err(wrong)
}

impl Pictures {
    /// The picture of a file, without its transparency: PNG, JPEG, WebP, GIF, BMP or TIFF. The frames of an animation
    /// are a batch.
    ///
    /// # Errors
    /// When the file is not there, is none of these, or is broken.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        Ok(load(path)?.colours)
    }
}

/// Decodes a picture of at most so many pixels in all frames together.
///
/// # Errors
/// When it is no picture, or too large.
pub fn decode<R: BufRead + Seek>(reader: &mut R, most: u64) -> Result<Loaded, Problem> {
    let format = Format::of(&start(reader)?).ok_or(Problem::Format)?;
    match format {
        Format::Png => png::decode(reader, most),
        Format::Jpeg => jpeg::decode(reader, most),
        Format::WebP => webp::decode(reader, most),
        Format::Gif => gif::decode(reader, most),
        Format::Bmp => bmp::decode(reader, most),
        Format::Tiff => tiff::decode(reader, most),
    }
}

/// The first bytes, which will be read again.
pub(super) fn start<R: Read + Seek>(reader: &mut R) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    reader.seek(SeekFrom::Start(0))?;
    reader.by_ref().take(12).read_to_end(&mut start)?;
    reader.seek(SeekFrom::Start(0))?;
    Ok(start)
}
