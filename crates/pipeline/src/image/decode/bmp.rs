//! BMP.

use std::io::{BufRead, Read, Seek, SeekFrom};

use image::codecs::bmp::BmpDecoder;
use image::{ImageDecoder, ImageError};

use super::frames::{Frames, Loaded, Scale, Turn, buffer, check_size};
use super::problem::Problem;

pub(super) fn decode<R: BufRead + Seek>(reader: &mut R, most: u64) -> Result<Loaded, Problem> {
    let stored = Stored::read(reader)?;
    reader.seek(SeekFrom::Start(0))?;
    let decoder = BmpDecoder::new(&mut *reader).map_err(wrong)?;
    let size = [decoder.dimensions().0, decoder.dimensions().1].map(|side| side as usize);
    check_size(size, 1, most)?;
    let channels = usize::from(decoder.color_type().channel_count());
    let mut raw = buffer(size[0] * size[1] * channels, size)?;
    decoder.read_image(&mut raw).map_err(wrong)?;
    // What the decoder takes for padding is alpha in ComfyUI's, unless all of it is 0.
    let alpha = match stored.bits == 32 && !stored.masked && channels == 3 {
        true => fourth_bytes(reader, &stored, size)?,
        false => None,
    };
    let indexed = stored.bits <= 8;
    let scale = if indexed { Scale::Byte } else { Scale::Packed };
    let has_alpha = indexed || channels == 4 || alpha.is_some();
    let mut frames = Frames::new(most, size, Turn::None, scale, has_alpha)?;
    frames.push(|x, y| {
        let pixel = y * size[0] + x;
        let byte =
            |channel: usize| u16::from(raw.get(pixel * channels + channel).copied().unwrap_or(0));
        let opacity = match &alpha {
            Some(alpha) => u16::from(alpha.get(pixel).copied().unwrap_or(0)),
            None if channels == 4 => byte(3),
            None => 255,
        };
        [byte(0), byte(1), byte(2), opacity]
    })?;
    frames.finish()
}

fn wrong(error: ImageError) -> Problem {
    match error {
        ImageError::IoError(error) => Problem::Read(error),
        other => Problem::broken("BMP", other),
    }
}

/// What the headers say of pixels.
struct Stored {
    bits: u16,
    /// Whether the file says which bits are which colour.
    masked: bool,
    top_down: bool,
    /// Where they are.
    start: u32,
}

impl Stored {
    fn read<R: Read + Seek>(reader: &mut R) -> Result<Self, Problem> {
        let mut bytes = Vec::new();
        reader.take(34).read_to_end(&mut bytes)?;
        let long = |place: usize| {
            let bytes = bytes.get(place..place + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        // The first headers had numbers of 16 bits.
        let old = long(14) == 12;
        let bits = long(if old { 24 } else { 28 }) as u16;
        let masked = !old && long(30) != 0;
        Ok(Self { bits, masked, top_down: !old && long(22) as i32 <= 0, start: long(10) })
    }
}

/// The fourth byte of each pixel, from the top; `None` where all are 0.
fn fourth_bytes<R: Read + Seek>(
    reader: &mut R,
    stored: &Stored,
    size: [usize; 2],
) -> Result<Option<Vec<u8>>, Problem> {
    let [width, height] = size;
    let mut alpha: Vec<u8> = buffer(width * height, size)?;
    let mut row: Vec<u8> = buffer(4 * width, size)?;
    reader.seek(SeekFrom::Start(stored.start.into()))?;
    for y in 0..height {
        reader.read_exact(&mut row)?;
        let y = if stored.top_down { y } else { height - 1 - y };
        let into = alpha.iter_mut().skip(y * width);
        into.zip(row.iter().skip(3).step_by(4)).for_each(|(alpha, byte)| *alpha = *byte);
    }
    Ok(alpha.iter().any(|alpha| *alpha != 0).then_some(alpha))
}
