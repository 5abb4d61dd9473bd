//! GIF and its animations, composed as ComfyUI's library for videos composes them.

use std::io::{BufRead, Seek};

use gif::{ColorOutput, DecodeOptions, DecodingError, DisposalMethod, Frame, MemoryLimit};

use super::frames::{Frames, Loaded, Scale, Turn, buffer, check_size};
use super::problem::Problem;

type Pixel = [u8; 4];

/// What stands where nothing was drawn.
const TRANSPARENT: Pixel = [255, 255, 255, 0];

pub(super) fn decode<R: BufRead + Seek>(reader: &mut R, most: u64) -> Result<Loaded, Problem> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(
        std::num::NonZeroU64::new(most).unwrap_or(std::num::NonZeroU64::MIN),
    ));
    let mut decoder = options.read_info(reader).map_err(wrong)?;
    let size = [decoder.width(), decoder.height()].map(usize::from);
    check_size(size, 1, most)?;
    let global = palette(decoder.global_palette().unwrap_or_default());
    let background = decoder.bg_color().and_then(|place| global.get(place)).copied();
    let mut canvas = Canvas::new(size, background)?;
    let mut frames = Frames::new(most, size, Turn::None, Scale::Packed, true)?;
    while let Some(frame) = decoder.read_next_frame().map_err(wrong)? {
        let local = frame.palette.as_deref().map(palette);
        canvas.draw(frame, local.as_deref().unwrap_or(&global))?;
        frames.push(|x, y| canvas.at(x, y).map(u16::from))?;
    }
    frames.finish()
}

fn wrong(error: DecodingError) -> Problem {
    match error {
        DecodingError::Io(error) => Problem::Read(error),
        other => Problem::broken("GIF", other),
    }
}

fn palette(stored: &[u8]) -> Vec<Pixel> {
    let colour = |colour: &[u8]| match *colour {
        [red, green, blue] => [red, green, blue, 255],
        _ => TRANSPARENT,
    };
    stored.chunks_exact(3).map(colour).collect()
}

/// What is to be seen, and what becomes of it before the next frame.
struct Canvas {
    size: [usize; 2],
    pixels: Vec<Pixel>,
    background: Option<Pixel>,
    begun: bool,
    /// What happens to the last frame's place before the next frame.
    disposal: Disposal,
}

enum Disposal {
    Keep,
    /// Left, top, width, height, and what they are filled with.
    Fill([usize; 4], Pixel),
    Restore(Vec<Pixel>),
}

impl Canvas {
    fn new(size: [usize; 2], background: Option<Pixel>) -> Result<Self, Problem> {
        let pixels = buffer(size[0] * size[1], size)?;
        Ok(Self { size, pixels, background, begun: false, disposal: Disposal::Keep })
    }

    fn at(&self, x: usize, y: usize) -> Pixel {
        self.pixels.get(y * self.size[0] + x).copied().unwrap_or(TRANSPARENT)
    }

    fn draw(&mut self, frame: &Frame<'_>, colours: &[Pixel]) -> Result<(), Problem> {
        if !self.begun {
            self.begun = true;
            let under = self.background.filter(|_| frame.transparent.is_none());
            self.pixels.fill(under.unwrap_or(TRANSPARENT));
        }
        match std::mem::replace(&mut self.disposal, Disposal::Keep) {
            Disposal::Keep => {}
            Disposal::Fill(place, colour) => self.fill(place, colour),
            Disposal::Restore(pixels) => self.pixels = pixels,
        }
        let [left, top, width, height] =
            [frame.left, frame.top, frame.width, frame.height].map(usize::from);
        self.disposal = match frame.dispose {
            DisposalMethod::Any | DisposalMethod::Keep => Disposal::Keep,
            DisposalMethod::Background => {
                let under = self.background.filter(|_| frame.transparent.is_none());
                Disposal::Fill([left, top, width, height], under.unwrap_or(TRANSPARENT))
            }
            DisposalMethod::Previous => {
                let mut before = buffer(self.pixels.len(), self.size)?;
                before.copy_from_slice(&self.pixels);
                Disposal::Restore(before)
            }
        };
        let columns = self.size[0];
        for (row, indices) in frame.buffer.chunks_exact(width.max(1)).take(height).enumerate() {
            for (column, index) in indices.iter().enumerate() {
                if Some(*index) == frame.transparent || left + column >= columns {
                    continue;
                }
                let colour = colours.get(usize::from(*index)).copied();
                if let (Some(pixel), Some(colour)) =
                    (self.pixels.get_mut((top + row) * columns + left + column), colour)
                {
                    *pixel = colour;
                }
            }
        }
        Ok(())
    }

    fn fill(&mut self, [left, top, width, height]: [usize; 4], colour: Pixel) {
        let [columns, rows] = self.size;
        let (left, right) = (left.min(columns), (left + width).min(columns));
        for y in top.min(rows)..(top + height).min(rows) {
            if let Some(row) = self.pixels.get_mut(y * columns + left..y * columns + right) {
                row.fill(colour);
            }
        }
    }
}
