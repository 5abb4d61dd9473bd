//! Pictures from files: PNG, JPEG, WebP, GIF, BMP and TIFF, told apart by their content.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{
    AnimationDecoder, DynamicImage, Frames, ImageDecoder, ImageError, ImageFormat, ImageReader,
    Limits,
};
use thiserror::Error;

use super::{Mask, Pictures, TooLarge, room};

/// Endings of the names of files that can be read.
pub const ENDINGS: &[&str] =
    &["png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "tif", "tiff"];

/// The most bytes that one picture takes as it is stored, without compression.
const MOST_BYTES: u64 = 2 << 30;

/// The longest side that is read.
const LONGEST_SIDE: u32 = 65535;

/// Why a file is not read as a picture.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It cannot be opened or read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// It is no picture, or of a kind that is not read.
    #[error("`{}` is no picture that can be read: PNG, JPEG, WebP, GIF, BMP and TIFF can", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// It is broken, or too large.
    #[error("`{}`: {source}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ImageError,
    },
    /// Its frames are too large together.
    #[error("`{}`: {source}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How large they are.
        source: TooLarge,
    },
    /// It has no frame.
    #[error("`{}` has no picture in it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// What is in a picture file: one picture, or all frames of an animation.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Colours and alpha, `[frames, height, width, 4]`.
    pub rgba: Pictures,
    /// Whether the file has alpha; without it, all is 1.
    pub has_alpha: bool,
}

impl Loaded {
    /// The colours.
    pub fn colours(&self) -> Pictures {
        self.rgba.colours()
    }

    /// 1 where nothing is to be seen, 0 where alpha is 1.
    pub fn transparency(&self) -> Mask {
        self.rgba.channel(3).map(|alpha| 1.0 - alpha)
    }
}

/// Reads a picture file, turned as its EXIF data says. Of an animation, frames of another size than
/// the first are left out.
///
/// Values have the precision that the file stores, 16 bits too.
///
/// # Errors
/// When it cannot be read, or is no picture.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let read = |source| LoadError::Read { path: path.to_owned(), source };
    let decode = |source| match source {
        ImageError::IoError(source) => read(source),
        source => LoadError::Decode { path: path.to_owned(), source },
    };
    let file = BufReader::new(File::open(path).map_err(read)?);
    let mut reader = ImageReader::new(file).with_guessed_format().map_err(read)?;
    reader.limits(limits());
    let animation = match reader.format() {
        None => return Err(LoadError::Format { path: path.to_owned() }),
        Some(format) if !format.reading_enabled() => {
            return Err(LoadError::Format { path: path.to_owned() });
        }
        Some(format) => animation(format, path).map_err(decode)?,
    };
    match animation {
        Some((frames, orientation)) => animated(path, frames, orientation, decode),
        None => still(reader).map_err(decode).and_then(|image| one(path, image)),
    }
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    limits.max_alloc = Some(MOST_BYTES);
    limits
}

fn still(reader: ImageReader<BufReader<File>>) -> Result<DynamicImage, ImageError> {
    let mut decoder = reader.into_decoder()?;
    limits().reserve(decoder.total_bytes())?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// The frames of a file that has frames.
fn animation(
    format: ImageFormat,
    path: &Path,
) -> Result<Option<(Frames<'static>, Orientation)>, ImageError> {
    let file = || File::open(path).map(BufReader::new);
    Ok(match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(file()?)?;
            decoder.set_limits(limits())?;
            Some((decoder.into_frames(), Orientation::NoTransforms))
        }
        ImageFormat::Png => {
            let mut decoder = PngDecoder::with_limits(file()?, limits())?;
            let orientation = decoder.orientation()?;
            match decoder.is_apng()? {
                true => Some((decoder.apng()?.into_frames(), orientation)),
                false => None,
            }
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(file()?)?;
            decoder.set_limits(limits())?;
            let orientation = decoder.orientation()?;
            decoder.has_animation().then(|| (decoder.into_frames(), orientation))
        }
        _ => None,
    })
}

fn one(path: &Path, image: DynamicImage) -> Result<Loaded, LoadError> {
    let has_alpha = image.color().has_alpha();
    let (width, height) = (image.width() as usize, image.height() as usize);
    let shape = [1, height, width, 4];
    let too_large = |source| LoadError::TooLarge { path: path.to_owned(), source };
    room(shape).map_err(too_large)?;
    let mut values = image.into_rgba32f().into_raw();
    values.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
    let rgba = Pictures::new(shape, values).ok_or(TooLarge { shape }).map_err(too_large)?;
    Ok(Loaded { rgba, has_alpha })
}

fn animated(
    path: &Path,
    frames: Frames<'_>,
    orientation: Orientation,
    wrong: impl Fn(ImageError) -> LoadError,
) -> Result<Loaded, LoadError> {
    let mut shape = [0, 0, 0, 4];
    let mut bytes: Vec<u8> = Vec::new();
    for frame in frames {
        let mut image = DynamicImage::ImageRgba8(frame.map_err(&wrong)?.into_buffer());
        image.apply_orientation(orientation);
        let size = [image.height() as usize, image.width() as usize];
        if shape[0] == 0 {
            [shape[1], shape[2]] = size;
        }
        if size == [shape[1], shape[2]] {
            shape[0] += 1;
            room(shape).map_err(|source| LoadError::TooLarge { path: path.to_owned(), source })?;
            bytes.extend_from_slice(image.as_bytes());
        }
    }
    let values: Vec<f32> = bytes.iter().map(|byte| f32::from(*byte) / 255.0).collect();
    match Pictures::new(shape, values) {
        Some(rgba) if shape[0] > 0 => {
            // Frames come with alpha whether the file has it or not.
            let has_alpha = bytes.iter().skip(3).step_by(4).any(|alpha| *alpha < 255);
            Ok(Loaded { rgba, has_alpha })
        }
        _ => Err(LoadError::Empty { path: path.to_owned() }),
    }
}
