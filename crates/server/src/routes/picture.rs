//! A picture file in another form: other channels, another format.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;

use distorch_pipeline::image::Pictures;
use distorch_pipeline::image::decode::{self, LoadError, Loaded, Problem};
use distorch_pipeline::image::png_file::Picture8;
use distorch_pipeline::image::regular_file;
use thiserror::Error;

/// The most pixels of a picture that is decoded for a client: 8192×8192.
pub(super) const MOST_PIXELS: u64 = 1 << 26;

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Png,
    /// Of a quality from 1 to 100.
    Jpeg(u8),
    /// Without loss.
    WebP,
}

impl Encoding {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg(_) => "image/jpeg",
            Self::WebP => "image/webp",
        }
    }
}

/// The channels of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channels {
    /// As in the file.
    All,
    /// Without alpha.
    Colours,
    /// Black with the picture's alpha.
    Alpha,
}

/// The form that a picture is shown in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub encoding: Encoding,
    pub channels: Channels,
}

/// Why a picture cannot be shown so.
#[derive(Debug, Error)]
pub(super) enum PictureError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the picture cannot be written: {0}")]
    Write(#[from] std::io::Error),
    #[error("the picture and its mask differ in size: {0:?} and {1:?} pixels")]
    Sizes([usize; 2], [usize; 2]),
}

impl Shown {
    /// The file of the first frame of the picture at a path.
    pub fn of(self, path: &Path) -> Result<Vec<u8>, PictureError> {
        let picture = rgba(&load(path)?);
        let has_alpha = picture.bytes.iter().skip(3).step_by(4).any(|alpha| *alpha != u8::MAX);
        let picture = match self.channels {
            Channels::All if has_alpha => picture,
            Channels::All | Channels::Colours => without_alpha(&picture),
            Channels::Alpha => {
                let black = |pixel: &[u8]| [0, 0, 0, pixel.last().copied().unwrap_or(u8::MAX)];
                let bytes = picture.bytes.chunks_exact(4).flat_map(black).collect();
                Picture8 { bytes, ..picture }
            }
        };
        let mut file = Vec::new();
        match self.encoding {
            Encoding::Png => picture.write(&mut file, &[])?,
            Encoding::Jpeg(quality) => without_alpha(&picture).write_jpeg(&mut file, quality)?,
            Encoding::WebP => picture.write_webp(&mut file)?,
        }
        Ok(file)
    }
}

/// Reads a picture that a client may have made, within limits.
pub(super) fn load(path: &Path) -> Result<Loaded, PictureError> {
    let wrong = |problem: Problem| LoadError { path: path.to_owned(), problem };
    let file: File = regular_file::open(path).map_err(|error| wrong(error.into()))?;
    Ok(decode::decode(&mut BufReader::new(file), MOST_PIXELS).map_err(wrong)?)
}

/// The first frame with 8 bits a channel: red, green, blue, alpha.
fn rgba(loaded: &Loaded) -> Picture8 {
    let [_, height, width, _] = loaded.colours.shape();
    let pixels = height.saturating_mul(width);
    let colours = loaded.colours.values().chunks_exact(3).take(pixels);
    let hidden = loaded.transparency.as_ref().map(|mask| mask.values());
    let mut bytes = Vec::with_capacity(pixels.saturating_mul(4));
    for (place, colour) in colours.enumerate() {
        bytes.extend(colour.iter().map(|value| nearest(*value)));
        let hidden = hidden.and_then(|hidden| hidden.get(place)).copied().unwrap_or(0.0);
        bytes.push(nearest(1.0 - hidden));
    }
    Picture8 { width, height, channels: 4, bytes }
}

fn nearest(value: f32) -> u8 {
    (value * 255.0).round().clamp(0.0, 255.0) as u8
}

fn without_alpha(picture: &Picture8) -> Picture8 {
    let pixels = picture.bytes.chunks_exact(picture.channels.max(1));
    let bytes = pixels.flat_map(|pixel| pixel.iter().take(3).copied());
    Picture8 { channels: 3, bytes: bytes.collect(), ..picture.clone() }
}

/// Writes a picture with the alpha of another of the same size, as PNG with texts.
pub(super) fn write_masked(
    original: &Path,
    mask: &Path,
    texts: &[(String, String)],
    to: &mut dyn Write,
) -> Result<(), PictureError> {
    let size = |pictures: &Pictures| {
        let [_, height, width, _] = pictures.shape();
        [width, height]
    };
    let (original, mask) = (load(original)?, load(mask)?);
    let sizes = (size(&original.colours), size(&mask.colours));
    if sizes.0 != sizes.1 {
        return Err(PictureError::Sizes(sizes.0, sizes.1));
    }
    let (mut picture, mask) = (rgba(&original), rgba(&mask));
    let alphas = mask.bytes.iter().skip(3).step_by(4);
    for (pixel, alpha) in picture.bytes.chunks_exact_mut(4).zip(alphas) {
        if let Some(last) = pixel.last_mut() {
            *last = *alpha;
        }
    }
    picture.write(to, texts)?;
    Ok(())
}
