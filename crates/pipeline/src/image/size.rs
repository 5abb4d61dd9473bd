//! The size of a picture in a file, read off its first bytes.

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::Path;

use image::ImageDecoder;
use image::codecs::bmp::BmpDecoder;
use image::codecs::tiff::TiffDecoder;
use image_webp::WebPDecoder;

use super::decode::Format;
use super::jpeg_file::Header;
use super::regular_file;

/// Rows and columns of the picture in a file, or columns and rows where its EXIF data turn it: as many
/// pixels in either case. `None` where that is not known, also of an animation, whose number of frames
/// only its whole file tells.
pub fn of_still(path: &Path) -> Option<[usize; 2]> {
    let mut reader = BufReader::new(regular_file::open(path).ok()?);
    let format = Format::of(&super::decode::start(&mut reader).ok()?)?;
    let [width, height] = size(&mut reader, format)?.map(|side| usize::try_from(side).ok());
    Some([height?, width?])
}

/// Columns and rows.
fn size(reader: &mut BufReader<File>, format: Format) -> Option<[u64; 2]> {
    let wide = |(width, height): (u32, u32)| [width, height].map(u64::from);
    reader.seek(SeekFrom::Start(0)).ok()?;
    match format {
        Format::Png => {
            let mut decoder = png::Decoder::new(reader);
            let info = decoder.read_header_info().ok()?;
            let size = (info.width, info.height);
            let moves = decoder.read_info().ok()?.info().animation_control.is_some();
            (!moves).then_some(wide(size))
        }
        Format::Jpeg => Some(Header::read(reader).ok()??.size.map(u64::from)),
        Format::WebP => {
            let decoder = WebPDecoder::new(reader).ok()?;
            (!decoder.is_animated()).then(|| wide(decoder.dimensions()))
        }
        Format::Gif => None,
        Format::Bmp => Some(wide(BmpDecoder::new(reader).ok()?.dimensions())),
        Format::Tiff => Some(wide(TiffDecoder::new(reader).ok()?.dimensions())),
    }
}
