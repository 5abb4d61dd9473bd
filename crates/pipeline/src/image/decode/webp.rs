//! WebP and animated WebP.

use std::io::{BufRead, Seek};

use image_webp::{DecodingError, WebPDecoder};

use super::frames::{Frames, Loaded, Scale, Turn, buffer, check_memory, check_size};
use super::problem::Problem;
use crate::image::exif::Exif;

pub(super) fn decode<R: BufRead + Seek>(reader: &mut R, most: u64) -> Result<Loaded, Problem> {
    let mut decoder = WebPDecoder::new(&mut *reader).map_err(wrong)?;
    let size = [decoder.dimensions().0, decoder.dimensions().1].map(|side| side as usize);
    check_size(size, 1, most)?;
    let bytes = decoder.output_buffer_size().ok_or_else(|| Problem::broken("WebP", "its size"))?;
    // Beside the pixels the decoder has those of one frame in its own form.
    check_memory(2 * 4 * (size[0] * size[1]) as u64, size)?;
    decoder.set_memory_limit(8 * size[0] * size[1] + (64 << 20));
    let exif = decoder.exif_metadata().ok().flatten();
    let orientation = exif.and_then(|exif| Exif::read(&exif)).and_then(|exif| exif.orientation);
    let mut raw = buffer(bytes, size)?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let pixel = |raw: &[u8], x: usize, y: usize| {
        let place = (y * size[0] + x) * channels;
        let byte = |channel: usize| u16::from(raw.get(place + channel).copied().unwrap_or(0));
        [byte(0), byte(1), byte(2), if channels == 4 { byte(3) } else { 255 }]
    };
    if decoder.is_animated() {
        // ComfyUI reads these with Pillow, as it read all files before.
        let mut frames = Frames::new(most, size, Turn::None, Scale::Byte, channels == 4)?;
        for _ in 0..decoder.num_frames() {
            decoder.read_frame(&mut raw).map_err(wrong)?;
            frames.push(|x, y| pixel(&raw, x, y))?;
        }
        return frames.finish();
    }
    // Pixels without loss always come with alpha.
    let lossless = !decoder.is_lossy();
    let scale = if lossless { Scale::Packed } else { Scale::Widened };
    let has_alpha = channels == 4 || lossless;
    let mut frames = Frames::new(most, size, Turn::of(orientation), scale, has_alpha)?;
    decoder.read_image(&mut raw).map_err(wrong)?;
    frames.push(|x, y| pixel(&raw, x, y))?;
    frames.finish()
}

fn wrong(error: DecodingError) -> Problem {
    match error {
        DecodingError::IoError(error) => Problem::Read(error),
        other => Problem::broken("WebP", other),
    }
}
