//! PNG and animated PNG.

use std::io::{BufRead, Seek};

use png::{BitDepth, BlendOp, ColorType, Decoder, DecodingError, DisposeOp, Info, Limits, Reader};

use super::frames::{Frames, Loaded, Scale, Turn, buffer, check_size};
use super::problem::Problem;
use crate::image::exif::Exif;

/// Bytes that what stands beside the pixels may take.
const MOST_BYTES: usize = 64 << 20;

pub(super) fn decode<R: BufRead + Seek>(reader: &mut R, most: u64) -> Result<Loaded, Problem> {
    let mut decoder = Decoder::new_with_limits(reader, Limits { bytes: MOST_BYTES });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(wrong)?;
    let info = reader.info();
    let size = [info.width as usize, info.height as usize];
    check_size(size, 1, most)?;
    let exif = info.exif_metadata.as_deref().and_then(Exif::read);
    let turn = Turn::of(exif.and_then(|exif| exif.orientation));
    let pixels = Pixels::of(info);
    let mut frames = Frames::new(most, size, turn, pixels.scale(), pixels.has_alpha())?;
    let bytes = reader.output_buffer_size().ok_or(Problem::TooLarge {
        width: size[0] as u64,
        height: size[1] as u64,
        frames: 1,
        most,
    })?;
    let mut raw = buffer(bytes, size)?;
    match reader.info().animation_control {
        None => {
            reader.next_frame(&mut raw).map_err(wrong)?;
            frames.push(|x, y| pixels.at(&raw, pixels.row(size[0]), x, y))?;
        }
        Some(animation) => {
            animate(&mut reader, &pixels, animation.num_frames, &mut raw, |canvas| {
                frames.push(|x, y| canvas.get(y * size[0] + x).copied().unwrap_or_default())
            })?
        }
    }
    frames.finish()
}

fn wrong(error: DecodingError) -> Problem {
    match error {
        DecodingError::IoError(error) => Problem::Read(error),
        other => Problem::broken("PNG", other),
    }
}

/// How a file stores pixels.
struct Pixels {
    colour: ColorType,
    depth: BitDepth,
    palette: Vec<[u16; 4]>,
    /// The colour that is transparent; for grey the first number counts.
    transparent: Option<[u16; 3]>,
}

impl Pixels {
    fn of(info: &Info<'_>) -> Self {
        let (colour, depth) = (info.color_type, info.bit_depth);
        let extra = info.trns.as_deref().unwrap_or_default();
        let stored = info.palette.as_deref().unwrap_or_default();
        // Entries that are missing are black.
        let mut palette = vec![[0, 0, 0, 255]; 256];
        for (entry, stored) in palette.iter_mut().zip(stored.chunks_exact(3)) {
            entry.iter_mut().zip(stored).for_each(|(entry, stored)| *entry = u16::from(*stored));
        }
        if colour == ColorType::Indexed {
            for (entry, alpha) in palette.iter_mut().zip(extra) {
                entry[3] = u16::from(*alpha);
            }
        }
        Self { colour, depth, palette, transparent: transparent(colour, depth, extra) }
    }

    fn has_alpha(&self) -> bool {
        let stored =
            matches!(self.colour, ColorType::GrayscaleAlpha | ColorType::Rgba | ColorType::Indexed);
        stored || self.transparent.is_some()
    }

    fn scale(&self) -> Scale {
        match (self.colour, self.depth) {
            (_, BitDepth::Sixteen) => Scale::Sixteen,
            (ColorType::Grayscale, BitDepth::One) => Scale::Bit,
            (ColorType::Grayscale | ColorType::GrayscaleAlpha, _) => Scale::Widened,
            _ => Scale::Byte,
        }
    }

    /// The largest number: what is opaque.
    fn opaque(&self) -> u16 {
        match self.scale() {
            Scale::Sixteen => u16::MAX,
            Scale::Bit => 1,
            Scale::Byte | Scale::Widened | Scale::Packed => 255,
        }
    }

    /// Bytes of a row.
    fn row(&self, width: usize) -> usize {
        (width * self.colour.samples() * self.depth as usize).div_ceil(8)
    }

    /// The numbers of a pixel in rows of so many bytes: red, green, blue, alpha.
    fn at(&self, raw: &[u8], row: usize, x: usize, y: usize) -> [u16; 4] {
        let channels = self.colour.samples();
        let bits = self.depth as usize;
        let row = row * y;
        let number = |channel: usize| {
            let place = x * channels + channel;
            let byte = |place: usize| u16::from(raw.get(row + place).copied().unwrap_or(0));
            match self.depth {
                BitDepth::Sixteen => (byte(2 * place) << 8) | byte(2 * place + 1),
                BitDepth::Eight => byte(place),
                _ => {
                    let shift = 8 - bits - place * bits % 8;
                    (byte(place * bits / 8) >> shift) & ((1 << bits) - 1)
                }
            }
        };
        // Two and four bits are widened to eight.
        let factor = match self.depth {
            BitDepth::Two if self.colour != ColorType::Indexed => 85,
            BitDepth::Four if self.colour != ColorType::Indexed => 17,
            _ => 1,
        };
        let number = |channel| number(channel) * factor;
        let opaque = self.opaque();
        let mut pixel = match self.colour {
            ColorType::Indexed => {
                return self.palette.get(usize::from(number(0))).copied().unwrap_or_default();
            }
            ColorType::Grayscale => [number(0), number(0), number(0), opaque],
            ColorType::GrayscaleAlpha => [number(0), number(0), number(0), number(1)],
            ColorType::Rgb => [number(0), number(1), number(2), opaque],
            ColorType::Rgba => [number(0), number(1), number(2), number(3)],
        };
        // Compared with the widened number, as ComfyUI's decoder does.
        if self.transparent.is_some_and(|colour| pixel.starts_with(&colour)) {
            pixel[3] = 0;
        }
        pixel
    }
}

/// The colour that a `tRNS` chunk makes transparent, in as many bits as the pixels have. For pixels of
/// one bit the chunk is left aside, as ComfyUI's decoder does.
fn transparent(colour: ColorType, depth: BitDepth, chunk: &[u8]) -> Option<[u16; 3]> {
    // The decoder leaves one byte of each number where that is enough.
    let number = |place: usize, count: usize| match chunk.len() == count {
        true => chunk.get(place).map(|byte| u16::from(*byte)),
        false => {
            let bytes = chunk.get(2 * place..2 * place + 2)?;
            Some(u16::from_be_bytes(bytes.try_into().ok()?))
        }
    };
    match colour {
        ColorType::Grayscale if depth != BitDepth::One => number(0, 1).map(|grey| [grey; 3]),
        ColorType::Rgb => Some([number(0, 3)?, number(1, 3)?, number(2, 3)?]),
        _ => None,
    }
}

/// Shows the frames of an animation, one after the other, on one canvas.
fn animate<R: BufRead + Seek>(
    reader: &mut Reader<R>,
    pixels: &Pixels,
    count: u32,
    raw: &mut [u8],
    mut show: impl FnMut(&[[u16; 4]]) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let info = reader.info();
    let size = [info.width as usize, info.height as usize];
    // A picture before the first frame is for programs that know no animations.
    if info.frame_control.is_none() {
        reader.next_frame(raw).map_err(wrong)?;
    }
    let mut canvas: Vec<[u16; 4]> = buffer(size[0] * size[1], size)?;
    let mut before: Vec<[u16; 4]> = Vec::new();
    let whole = pixels.row(size[0]);
    for place in 0..count {
        let line = reader.next_frame(raw).map_err(wrong)?.line_size;
        let Some(control) = reader.info().frame_control else { break };
        let [left, top, width, height] =
            [control.x_offset, control.y_offset, control.width, control.height]
                .map(|side| side as usize);
        if control.dispose_op == DisposeOp::Previous {
            before.clone_from(&canvas);
        }
        // Where rows come in several passes, they are laid out as those of the whole picture.
        let row = if reader.info().interlaced { whole } else { line };
        for y in 0..height {
            for x in 0..width {
                let Some(under) = canvas.get_mut((top + y) * size[0] + left + x) else { continue };
                let over = pixels.at(raw, row, x, y);
                *under = match control.blend_op {
                    BlendOp::Over if place > 0 && pixels.has_alpha() => {
                        blend(over, *under, pixels.opaque())
                    }
                    _ => over,
                };
            }
        }
        show(&canvas)?;
        match control.dispose_op {
            DisposeOp::None => {}
            DisposeOp::Previous => canvas.clone_from(&before),
            DisposeOp::Background => {
                for y in top..top + height {
                    let row = y * size[0] + left;
                    if let Some(row) = canvas.get_mut(row..row + width) {
                        row.fill([0; 4]);
                    }
                }
            }
        }
    }
    Ok(())
}

/// A pixel over another, rounded as ComfyUI's decoder rounds.
fn blend(over: [u16; 4], under: [u16; 4], opaque: u16) -> [u16; 4] {
    let [.., alpha] = over;
    if alpha == opaque {
        return over;
    }
    if alpha == 0 {
        return under;
    }
    let (most, alpha) = (u64::from(opaque), u64::from(alpha));
    let (u, v) = (alpha * most, (most - alpha) * u64::from(under[3]));
    let opacity = (u + v + most / 2) / most;
    let mix = |over: u16, under: u16| {
        ((u64::from(over) * u + u64::from(under) * v) / (most * opacity)).min(most) as u16
    };
    let ([red, green, blue, _], [under_red, under_green, under_blue, _]) = (over, under);
    [mix(red, under_red), mix(green, under_green), mix(blue, under_blue), opacity as u16]
}
