//! The patches of pictures that a convolution multiplies its filters with, as a right operand:
//! columns are output pixels, the depth is channels and taps.

use std::arch::x86_64::*;

use rayon::prelude::*;

use super::Source;

/// Patches of `[batch, channels, height, width]`.
pub(in super::super) struct Patches<'a> {
    values: Values<'a>,
    /// For each step of the depth, where its values lie from those of the pixel on.
    offsets: Vec<isize>,
    /// For each step of the depth, the number of its tap.
    taps: Vec<u16>,
    /// The runs of pixels of each strip of sixteen.
    runs: Vec<Run>,
    /// For each run and tap, the lanes whose values are inside of the picture.
    masks: Vec<__mmask16>,
    /// Where the runs of each strip begin.
    strips: Vec<usize>,
}

enum Values<'a> {
    /// The pictures themselves.
    Theirs(&'a [f32]),
    /// A copy with zeros around, where each of the phases of the stride lies together.
    Padded(Vec<f32>),
}

/// Output pixels next to each other whose values lie next to each other too.
#[derive(Clone, Copy)]
pub(in super::super) struct Run {
    /// Where lane 0 would be, of a strip's first run in the pictures, of the others beside the first.
    base: isize,
}

/// The runs of one strip.
#[derive(Clone, Copy)]
pub(in super::super) struct Strip {
    /// Where lane 0 of the first run would be, at the start of the depth.
    values: *const f32,
    /// The masks of the first run, by tap; those of the others follow.
    masks: *const __mmask16,
    /// The other runs.
    more: *const [Run],
}

/// The shape of a convolution.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Shape {
    pub(in super::super) batch: usize,
    pub(in super::super) channels: usize,
    pub(in super::super) height: usize,
    pub(in super::super) width: usize,
    pub(in super::super) kernel: [usize; 2],
    pub(in super::super) stride: usize,
    pub(in super::super) padding: usize,
}

impl Shape {
    /// Height and width of the result.
    pub(in super::super) fn out(&self) -> [usize; 2] {
        let out = |side: usize, kernel: usize| {
            (side + 2 * self.padding).checked_sub(kernel).map_or(0, |rest| rest / self.stride + 1)
        };
        [out(self.height, self.kernel[0]), out(self.width, self.kernel[1])]
    }
}

impl<'a> Patches<'a> {
    /// The patches of pictures; `x` has all values of `shape`.
    pub(in super::super) fn new(x: &'a [f32], shape: Shape) -> Self {
        let Shape { batch, channels, height, width, kernel, stride, padding } = shape;
        assert_eq!(x.len(), batch * channels * height * width);
        let [out_height, out_width] = shape.out();
        // In steps of 1 the pictures serve as they are: what lies outside of them is masked. Else in
        // phase planes, rows and columns that are equal modulo the stride, with zeros around.
        let plain = stride == 1;
        let sides = match plain {
            true => [height, width],
            false => [height, width].map(|side| (side + 2 * padding).div_ceil(stride)),
        };
        let phase = sides[0] * sides[1];
        let plane = phase * stride * stride;
        let values = match plain {
            true => Values::Theirs(x),
            false => Values::Padded(padded(x, &shape, sides)),
        };
        let before = if plain { padding as isize } else { 0 };
        let tap_offset = |y: usize, x: usize| {
            let phase_at = (y % stride * stride + x % stride) * phase;
            let (down, right) = ((y / stride) as isize - before, (x / stride) as isize - before);
            phase_at as isize + down * sides[1] as isize + right
        };
        let taps = (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |x| (y, x)));
        let taps: Vec<_> = taps.map(|(y, x)| (y, x, tap_offset(y, x))).collect();
        let depth = (0..channels).flat_map(|channel| {
            let taps = taps.iter().enumerate();
            taps.map(move |(tap, of)| ((channel * plane) as isize + of.2, tap as u16))
        });
        let (offsets, tap_numbers) = depth.unzip();
        let pixels = out_height * out_width;
        let columns = batch * pixels;
        let (mut runs, mut masks) = (Vec::new(), Vec::new());
        let mut strips = Vec::with_capacity(columns.div_ceil(16) + 1);
        for first in (0..columns).step_by(16) {
            strips.push(runs.len());
            let (mut lane, mut first_base) = (0, 0);
            while lane < 16 && first + lane < columns {
                let (picture, pixel) = ((first + lane) / pixels, (first + lane) % pixels);
                let (y, x) = (pixel / out_width, pixel % out_width);
                let count = (out_width - x).min(16 - lane);
                let start = picture * channels * plane + y * sides[1] + x;
                let base = start as isize - lane as isize;
                for (down, right, _) in &taps {
                    let mut lanes = ((1_u32 << count) - 1) << lane;
                    if plain {
                        if y + down < padding || y + down >= padding + height {
                            lanes = 0;
                        }
                        // Lanes of pixels left and right of the picture.
                        let left = padding.saturating_sub(x + right).min(count);
                        let end = (padding + width).saturating_sub(x + right).min(count);
                        let inside = ((1_u32 << end) - 1) & !((1_u32 << left) - 1);
                        lanes &= inside << lane;
                    }
                    masks.push(lanes as u16);
                }
                runs.push(Run { base: base - first_base });
                if lane == 0 {
                    first_base = base;
                }
                lane += count;
            }
        }
        strips.push(runs.len());
        Self { values, offsets, taps: tap_numbers, runs, masks, strips }
    }

    /// Taps of a filter.
    fn taps_each(&self) -> usize {
        self.masks.len() / self.runs.len().max(1)
    }
}

/// A copy with zeros around, phase by phase: `[batch, channels, stride, stride, sides]`.
fn padded(x: &[f32], shape: &Shape, sides: [usize; 2]) -> Vec<f32> {
    let Shape { height, width, stride, padding, .. } = *shape;
    let plane = sides[0] * sides[1] * stride * stride;
    let mut out = vec![0.0; shape.batch * shape.channels * plane];
    if plane == 0 || height * width == 0 {
        return out;
    }
    out.par_chunks_exact_mut(plane).zip(x.par_chunks_exact(height * width)).for_each(
        |(plane, picture)| {
            for (y, line) in picture.chunks_exact(width).enumerate() {
                let y = y + padding;
                let row = (y % stride * stride * sides[0] + y / stride) * sides[1];
                if stride == 1 {
                    plane[row + padding..][..width].copy_from_slice(line);
                    continue;
                }
                for (x, value) in line.iter().enumerate() {
                    let x = x + padding;
                    plane[row + x % stride * sides[0] * sides[1] + x / stride] = *value;
                }
            }
        },
    );
    out
}

impl Source for Patches<'_> {
    #[inline]
    fn along_depth(&self) -> bool {
        false
    }

    type Strip = Strip;

    #[inline]
    fn strip(&self, index: usize) -> Strip {
        let values = match &self.values {
            Values::Theirs(values) => values.as_ptr(),
            Values::Padded(values) => values.as_ptr(),
        };
        let strip = index / 16;
        let runs = &self.runs[self.strips[strip]..self.strips[strip + 1]];
        let masks = self.masks[self.strips[strip] * self.taps_each()..].as_ptr();
        match runs {
            [] => Strip { values, masks, more: &raw const *runs },
            [first, more @ ..] => {
                let values = values.wrapping_offset(first.base);
                Strip { values, masks, more: &raw const *more }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn load(&self, strip: Strip, _: usize, depth: usize, mask: __mmask16) -> __m512 {
        // SAFETY: the depth is one of the convolution's, the caller promises. The lanes of the masks
        // are values of the pictures; the others are not read. The runs and their masks are these
        // patches'.
        unsafe {
            let tap = usize::from(*self.taps.get_unchecked(depth));
            let values = strip.values.wrapping_offset(*self.offsets.get_unchecked(depth));
            let mut masks = strip.masks.add(tap);
            let mut lanes = _mm512_maskz_loadu_ps(*masks & mask, values);
            for run in &*strip.more {
                masks = masks.add(self.taps_each());
                let values = values.wrapping_offset(run.base);
                lanes = _mm512_mask_loadu_ps(lanes, *masks & mask, values);
            }
            lanes
        }
    }
}
