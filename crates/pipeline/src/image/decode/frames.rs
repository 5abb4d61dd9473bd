//! The frames of a picture as values of 0 to 1.

use super::problem::Problem;
use crate::image::{Mask, Pictures};

/// Sides of the mask of a picture without transparency.
const NO_MASK: [usize; 2] = [64, 64];

/// What is in a picture file: one picture, or all frames of an animation.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The colours, `[frames, height, width, 3]`.
    pub colours: Pictures,
    /// 1 where nothing is to be seen, `[frames, height, width]`; `None` for a file without alpha.
    pub transparency: Option<Mask>,
}

impl Loaded {
    /// The transparency; where the file has none, zeros of 64×64 for each frame, as in ComfyUI.
    pub fn mask(&self) -> Mask {
        let [frames, ..] = self.colours.shape();
        let [height, width] = NO_MASK;
        let none = || Mask::from_fn([frames, height, width], |_, _, _| 0.0);
        self.transparency.clone().unwrap_or_else(none)
    }
}

/// How stored numbers become values of 0 to 1. Which way a format goes is told by what PyAV calls its
/// pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// `v / 255`: `rgb24`, `rgba`, `pal8`, `yuvj420p`, `yuvj422p`, `yuvj444p`.
    Byte,
    /// `v · 256 / 65535`: all other pixels of 8 bits, which pass through 16 bits.
    Widened,
    /// The same for colours, and `v / 255` for alpha: `bgra`, `argb`.
    Packed,
    /// `v / 65535`: 16 bits.
    Sixteen,
    /// 0 or 1: one bit.
    Bit,
}

impl Scale {
    /// The value of a colour's number.
    fn colour(self, stored: u16) -> f32 {
        let stored = f32::from(stored);
        match self {
            Scale::Byte => stored / 255.0,
            Scale::Widened | Scale::Packed => stored * 256.0 / 65535.0,
            Scale::Sixteen => stored / 65535.0,
            Scale::Bit => stored,
        }
    }

    /// The value of alpha's number.
    fn alpha(self, stored: u16) -> f32 {
        match self {
            Scale::Packed => Scale::Byte.colour(stored),
            other => other.colour(stored),
        }
    }
}

/// A quarter turn or two. Pictures are turned as ComfyUI turns them, which leaves out the mirroring of
/// EXIF's orientations 2, 4, 5 and 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    None,
    Half,
    /// Clockwise.
    Right,
    Left,
}

impl Turn {
    /// Of EXIF's tag.
    pub fn of(orientation: Option<u16>) -> Self {
        match orientation {
            Some(2 | 3) => Turn::Half,
            Some(5 | 6) => Turn::Right,
            Some(7 | 8) => Turn::Left,
            _ => Turn::None,
        }
    }

    /// Where the pixel `x`, `y` of the turned picture comes from.
    fn source(self, [x, y]: [usize; 2], [width, height]: [usize; 2]) -> [usize; 2] {
        match self {
            Turn::None => [x, y],
            Turn::Half => [width - 1 - x, height - 1 - y],
            Turn::Right => [y, height - 1 - x],
            Turn::Left => [width - 1 - y, x],
        }
    }
}

/// Frames of one size, as far as they are decoded.
pub(super) struct Frames {
    /// Pixels of all frames together.
    most: u64,
    size: [usize; 2],
    turn: Turn,
    scale: Scale,
    count: usize,
    colours: Vec<f32>,
    transparency: Option<Vec<f32>>,
}

impl Frames {
    /// No frames yet, of this width and height, and with at most so many pixels together.
    ///
    /// # Errors
    /// When one of them would be too large, or empty.
    pub fn new(
        most: u64,
        size: [usize; 2],
        turn: Turn,
        scale: Scale,
        has_alpha: bool,
    ) -> Result<Self, Problem> {
        check_size(size, 1, most)?;
        let transparency = has_alpha.then(Vec::new);
        Ok(Self { most, size, turn, scale, count: 0, colours: Vec::new(), transparency })
    }

    /// Adds a frame, whose stored numbers for red, green, blue and alpha `pixel(x, y)` returns.
    ///
    /// # Errors
    /// When the frames would be too large together.
    pub fn push(&mut self, pixel: impl Fn(usize, usize) -> [u16; 4]) -> Result<(), Problem> {
        let [width, height] = self.size;
        check_size(self.size, self.count + 1, self.most)?;
        let pixels = width * height;
        reserve(&mut self.colours, 3 * pixels, self.size)?;
        if let Some(transparency) = &mut self.transparency {
            reserve(transparency, pixels, self.size)?;
        }
        let [columns, rows] = self.turned();
        for y in 0..rows {
            for x in 0..columns {
                let [x, y] = self.turn.source([x, y], self.size);
                let [red, green, blue, alpha] = pixel(x, y);
                self.colours.extend([red, green, blue].map(|value| self.scale.colour(value)));
                if let Some(transparency) = &mut self.transparency {
                    transparency.push(1.0 - self.scale.alpha(alpha));
                }
            }
        }
        self.count += 1;
        Ok(())
    }

    /// All frames.
    ///
    /// # Errors
    /// When there is none.
    pub fn finish(self) -> Result<Loaded, Problem> {
        let [width, height] = self.turned();
        let transparency = match self.transparency {
            Some(values) => Some(Mask::new([self.count, height, width], values)),
            None => None,
        };
        match (Pictures::new([self.count, height, width, 3], self.colours), transparency) {
            (Some(colours), Some(Some(mask))) if self.count > 0 => {
                Ok(Loaded { colours, transparency: Some(mask) })
            }
            (Some(colours), None) if self.count > 0 => Ok(Loaded { colours, transparency: None }),
            _ => Err(Problem::Empty),
        }
    }

    /// Width and height when turned.
    fn turned(&self) -> [usize; 2] {
        let [width, height] = self.size;
        match self.turn {
            Turn::None | Turn::Half => [width, height],
            Turn::Right | Turn::Left => [height, width],
        }
    }
}

/// Checks that so many frames of this width and height are something, and not too much.
pub(super) fn check_size(
    [width, height]: [usize; 2],
    frames: usize,
    most: u64,
) -> Result<(), Problem> {
    let [width, height, frames] = [width, height, frames].map(|side| side as u64);
    if width == 0 || height == 0 {
        return Err(Problem::Empty);
    }
    let pixels = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(frames));
    match pixels.is_some_and(|pixels| pixels <= most) {
        true => Ok(()),
        false => Err(Problem::TooLarge { width, height, frames, most }),
    }
}

/// Room for so many more values.
pub(super) fn reserve<T>(
    values: &mut Vec<T>,
    more: usize,
    [width, height]: [usize; 2],
) -> Result<(), Problem> {
    values.try_reserve_exact(more).map_err(|_| Problem::Memory {
        width: width as u64,
        height: height as u64,
        bytes: (more * size_of::<T>()) as u64,
    })
}

/// A buffer of zeros.
pub(super) fn buffer<T: Clone + Default>(
    count: usize,
    size: [usize; 2],
) -> Result<Vec<T>, Problem> {
    let mut buffer = Vec::new();
    reserve(&mut buffer, count, size)?;
    buffer.resize(count, T::default());
    Ok(buffer)
}

/// Checks that a decoder that takes its own memory will get it.
pub(super) fn check_memory(bytes: u64, size: [usize; 2]) -> Result<(), Problem> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    reserve(&mut Vec::<u8>::new(), bytes, size)
}
