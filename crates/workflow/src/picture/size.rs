//! The size of a picture in a file, read off its first bytes.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ImageFormat, ImageReader};

/// Rows and columns of the picture in a file, or columns and rows where its EXIF data turn it: as many
/// pixels in either case. `None` where that is not known, also of an animation, whose number of frames
/// only its whole file tells.
pub fn of_still(path: &Path) -> Option<[usize; 2]> {
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let open = || File::open(path).ok().map(BufReader::new);
    let reader = ImageReader::new(open()?).with_guessed_format().ok()?;
    let moves = match reader.format()? {
        ImageFormat::Gif => true,
        ImageFormat::Png => PngDecoder::new(open()?).ok()?.is_apng().ok()?,
        ImageFormat::WebP => WebPDecoder::new(open()?).ok()?.has_animation(),
        _ => false,
    };
    let (width, height) = reader.into_dimensions().ok().filter(|_| !moves)?;
    Some([usize::try_from(height).ok()?, usize::try_from(width).ok()?])
}
