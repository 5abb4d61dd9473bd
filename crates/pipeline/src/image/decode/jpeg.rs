//! JPEG: planes from a decoder, colours as ComfyUI's library for videos makes them.

use std::io::{BufRead, Seek, SeekFrom};

use rusty_jpeg::decode::{Decoder, Error, PlanarComponent};

use super::frames::{Frames, Loaded, Scale, Turn, check_memory, check_size};
use super::problem::Problem;
use crate::image::exif::Exif;
use crate::image::jpeg_file::Header;

pub(super) fn decode<R: BufRead + Seek>(reader: &mut R, most: u64) -> Result<Loaded, Problem> {
    let header = Header::read(reader)?.ok_or_else(|| Problem::broken("JPEG", "it has no frame"))?;
    let size = header.size.map(usize::from);
    check_size(size, 1, most)?;
    // Planes of whole blocks, and what a progressive file collects for each of them.
    let block_pixels = size.iter().map(|side| side.next_multiple_of(32) as u64).product::<u64>();
    let each = if header.progressive { 3 } else { 1 };
    check_memory(block_pixels * header.components.len() as u64 * each, size)?;
    let turn = Turn::of(header.exif.as_deref().and_then(Exif::read).and_then(|e| e.orientation));
    reader.seek(SeekFrom::Start(0))?;
    let mut decoder = Decoder::new(&mut *reader);
    decoder.set_single_threaded(true);
    decoder.set_max_decoding_buffer_size(usize::MAX);
    let image = decoder.decode_planar().map_err(|error| match error {
        Error::Io(error) => Problem::Read(error),
        other => Problem::broken("JPEG", other),
    })?;
    if [image.width, image.height] != header.size {
        return Err(Problem::broken("JPEG", "it says two sizes"));
    }
    let planes: Vec<Plane<'_>> =
        image.components.iter().map(|component| Plane { component, size }).collect();
    let frames = |scale, has_alpha| Frames::new(most, size, turn, scale, has_alpha);
    let frames = match (planes.as_slice(), header.adobe) {
        ([grey], _) => {
            let mut frames = frames(Scale::Widened, false)?;
            frames.push(|x, y| {
                let grey = grey.nearest(x, y).into();
                [grey, grey, grey, 255]
            })?;
            frames
        }
        ([red, green, blue], adobe)
            if header.is_whole() && (adobe == Some(0) || header.ids() == *b"RGB") =>
        {
            let mut frames = frames(Scale::Widened, false)?;
            frames.push(|x, y| {
                let [red, green, blue] = [red, green, blue].map(|plane| plane.nearest(x, y).into());
                [red, green, blue, 255]
            })?;
            frames
        }
        ([luma, blue, red], _) => {
            let chroma = Chroma::of(&header);
            let mut frames = frames(chroma.scale(), false)?;
            frames.push(|x, y| with_alpha(chroma.colour([luma, blue, red], x, y), 255))?;
            frames
        }
        // The inks, each inverted. What comes of them has alpha, which is opaque.
        ([cyan, magenta, yellow, black], adobe) if adobe == Some(0) || header.ids() == *b"CMYK" => {
            let mut frames = frames(Scale::Widened, true)?;
            frames.push(|x, y| {
                let black = u32::from(black.nearest(x, y));
                let part = |plane: &Plane<'_>| {
                    ((u32::from(plane.nearest(x, y)) * black * 257) >> 16) as u16
                };
                [part(cyan), part(magenta), part(yellow), 255]
            })?;
            frames
        }
        // The same as brightness and colours, with black apart; other files have alpha in its place.
        ([luma, blue, red, fourth], adobe) => {
            let mut frames = frames(Scale::Widened, true)?;
            frames.push(|x, y| {
                let planes = [luma, blue, red, fourth];
                let [luma, blue, red, fourth] = planes.map(|plane| i32::from(plane.nearest(x, y)));
                let part = |value: i32| (value * fourth * 257) >> 16;
                let ([luma, blue, red], alpha) = match adobe {
                    Some(2) => ([part(255 - luma), part(128 - blue), part(128 - red)], 255),
                    _ => ([luma, blue - 128, red - 128], fourth as u16),
                };
                with_alpha(rounded(luma as f32, blue as f32, red as f32), alpha)
            })?;
            frames
        }
        _ => return Err(Problem::broken("JPEG", "of so many components none is made")),
    };
    frames.finish()
}

fn with_alpha([red, green, blue]: [u16; 3], alpha: u16) -> [u16; 4] {
    [red, green, blue, alpha]
}

/// A component at its own size.
struct Plane<'a> {
    component: &'a PlanarComponent,
    /// Of the picture.
    size: [usize; 2],
}

impl Plane<'_> {
    fn at(&self, x: usize, y: usize) -> u8 {
        let PlanarComponent { data, stride, width, height, .. } = self.component;
        let (x, y) = (x.min(width.saturating_sub(1)), y.min(height.saturating_sub(1)));
        data.get(y * stride + x).copied().unwrap_or(0)
    }

    /// How many of the picture's pixels a sample is for.
    fn step(&self) -> [usize; 2] {
        let PlanarComponent { width, height, .. } = self.component;
        let [columns, rows] = self.size;
        [columns.div_ceil((*width).max(1)), rows.div_ceil((*height).max(1))]
    }

    /// The sample that a pixel of the picture is in.
    fn nearest(&self, x: usize, y: usize) -> u8 {
        let [across, down] = self.step();
        self.at(x / across.max(1), y / down.max(1))
    }

    /// A value between the samples around a pixel: of two columns where `across` says so, and of two
    /// rows. The planes are stretched to the whole picture, so that the last sample of an odd
    /// number is a little wider than half of it.
    fn between(&self, x: usize, y: usize, across: bool) -> f32 {
        let PlanarComponent { width, height, .. } = self.component;
        let [columns, rows] = self.size;
        let place = |at: usize, few: usize, many: usize| {
            let place = (at as f32 + 0.5) * few as f32 / many as f32 - 0.5;
            let low = place.floor();
            (low.max(0.0) as usize, (low + 1.0).max(0.0) as usize, place - low)
        };
        let (top, bottom, down) = place(y, *height, rows);
        let row = |row: usize| match across {
            true => {
                let (left, right, part) = place(x, *width, columns);
                f32::from(self.at(left, row)) * (1.0 - part) + f32::from(self.at(right, row)) * part
            }
            false => f32::from(self.at(x / self.step()[0].max(1), row)),
        };
        row(top) * (1.0 - down) + row(bottom) * down
    }
}

/// How colours are made of brightness and two planes of colour that may have fewer samples.
///
/// PyAV leaves this to libswscale, which has a quick way for pictures whose colour is halved and that
/// have an even number of rows, and a general one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chroma {
    /// Each sample is repeated; each product is rounded down.
    Repeated,
    /// Samples are interpolated from row to row and rounded.
    Rows,
    /// Samples are interpolated both ways.
    Smooth,
    /// As that, in numbers of 16 bits: what `yuvj420p`, `yuvj422p` and `yuvj444p` are not.
    Wide,
}

impl Chroma {
    fn of(header: &Header) -> Self {
        let [width, height] = header.size;
        match header.halved() {
            Some([false, false]) => Chroma::Smooth,
            Some([true, _]) if height % 2 == 0 => Chroma::Repeated,
            Some([true, _]) if width % 2 == 0 => Chroma::Rows,
            Some([true, _]) => Chroma::Smooth,
            _ => Chroma::Wide,
        }
    }

    fn scale(self) -> Scale {
        if self == Chroma::Wide { Scale::Widened } else { Scale::Byte }
    }

    fn colour(self, [luma, blue, red]: [&Plane<'_>; 3], x: usize, y: usize) -> [u16; 3] {
        let bright = luma.nearest(x, y);
        match self {
            Chroma::Repeated => {
                // BT.601 in 13 bits of fraction.
                let bright = i32::from(bright);
                let [u, v] = [blue, red].map(|plane| (i32::from(plane.nearest(x, y)) - 128) * 8);
                let part = |factor: i32, value: i32| (factor * value) >> 16;
                let green = bright + part(-2819, u) + part(-5850, v);
                [bright + part(11485, v), green, bright + part(14516, u)]
                    .map(|value| value.clamp(0, 255) as u16)
            }
            Chroma::Rows => {
                // Looked up in tables whose rounding these sums have.
                let bright = f32::from(bright);
                let [u, v] = [blue, red].map(|plane| plane.between(x, y, false).round() - 128.0);
                let green =
                    bright + (-0.344_136 * u + 0.9).floor() + (-0.714_136 * v + 0.6).floor();
                [bright + (1.402 * v + 0.5).floor(), green, bright + (1.772 * u + 0.8).floor()]
                    .map(|value| value.clamp(0.0, 255.0) as u16)
            }
            Chroma::Smooth | Chroma::Wide => {
                let [u, v] = [blue, red].map(|plane| plane.between(x, y, true) - 128.0);
                rounded(f32::from(bright), u, v)
            }
        }
    }
}

/// BT.601 for the full range of numbers.
fn rounded(bright: f32, u: f32, v: f32) -> [u16; 3] {
    [bright + 1.402 * v, bright - 0.344_136 * u - 0.714_136 * v, bright + 1.772 * u]
        .map(|value| (value + 0.5).clamp(0.0, 255.0) as u16)
}
