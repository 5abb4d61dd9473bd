//! TIFF.

use std::io::{BufRead, Seek};

use image::codecs::tiff::TiffDecoder;
use image::{ColorType, ExtendedColorType, ImageDecoder, ImageError, Limits};

use super::frames::{Frames, Loaded, Scale, Turn, buffer, check_memory, check_size};
use super::problem::Problem;

pub(super) fn decode<R: BufRead + Seek>(reader: &mut R, most: u64) -> Result<Loaded, Problem> {
    let mut decoder = TiffDecoder::new(&mut *reader).map_err(wrong)?;
    let size = [decoder.dimensions().0, decoder.dimensions().1].map(|side| side as usize);
    check_size(size, 1, most)?;
    let (colour, stored) = (decoder.color_type(), decoder.original_color_type());
    let bytes = usize::from(colour.bytes_per_pixel()) * size[0] * size[1];
    // The decoder has all pixels twice.
    check_memory(2 * bytes as u64, size)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(2 * bytes as u64 + (64 << 20));
    decoder.set_limits(limits).map_err(wrong)?;
    let orientation = decoder.orientation().map_err(wrong)?.to_exif();
    let turn = Turn::of(Some(orientation.into()));
    let mut raw = buffer(bytes, size)?;
    decoder.read_image(&mut raw).map_err(wrong)?;
    let channels = usize::from(colour.channel_count());
    let width = usize::from(colour.bytes_per_pixel()) / channels.max(1);
    let scale = match (stored, colour, width) {
        (ExtendedColorType::L1, ..) | (_, _, 2) => Scale::Sixteen,
        (ExtendedColorType::Cmyk8, ..) | (_, ColorType::L8 | ColorType::La8, _) => Scale::Widened,
        (_, _, 1) => Scale::Byte,
        _ => Scale::Sixteen,
    };
    // Numbers of the scale; one bit and fractions become numbers of 16 bits.
    let number = |pixel: usize, channel: usize| {
        let place = (pixel * channels + channel) * width;
        let bytes = raw.get(place..place + width).unwrap_or_default();
        match *bytes {
            [byte] if stored == ExtendedColorType::L1 => u16::from(byte) * 257,
            [byte] => byte.into(),
            [low, high] => u16::from_ne_bytes([low, high]),
            [a, b, c, d] => (f32::from_ne_bytes([a, b, c, d]).clamp(0.0, 1.0) * 65535.0) as u16,
            _ => 0,
        }
    };
    let opaque = if scale == Scale::Sixteen { u16::MAX } else { 255 };
    let mut frames = Frames::new(most, size, turn, scale, colour.has_alpha())?;
    frames.push(|x, y| {
        let pixel = y * size[0] + x;
        let number = |channel| number(pixel, channel);
        match channels {
            1 => [number(0), number(0), number(0), opaque],
            2 => [number(0), number(0), number(0), number(1)],
            3 => [number(0), number(1), number(2), opaque],
            _ => [number(0), number(1), number(2), number(3)],
        }
    })?;
    frames.finish()
}

fn wrong(error: ImageError) -> Problem {
    match error {
        ImageError::IoError(error) => Problem::Read(error),
        other => Problem::broken("TIFF", other),
    }
}
