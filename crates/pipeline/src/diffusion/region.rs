//! Where in a latent a conditioning counts, and how much.

use distorch_runtime::tensor::{DType, TensorData};
use distorch_runtime::{Device, Tensor};
use distorch_sampling::inpaint::{MaskError, latent_mask};

use crate::diffusion::conditioning::{Area, Cond};
use crate::image::Mask;

/// The most latent pixels over which a rectangle fades in at a side that is not the picture's. It is a
/// quarter of the rectangle's side where that is less, as in ComfyUI.
const FADE: usize = 8;

/// A rectangle of a latent with the weight of each pixel.
#[derive(Clone, Debug)]
pub struct Region {
    /// The rectangle.
    pub area: Area,
    /// Weights `[batch or 1, 1, height, width]` of the rectangle.
    pub weight: Tensor<4>,
    /// Whether it is the whole latent with equal weights.
    pub everything: bool,
    /// Whether the conditioning named a rectangle, be it the whole.
    pub named: bool,
}

impl Region {
    /// The region of a conditioning in a latent `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// When its mask cannot be brought to the latent's size.
    pub fn new(cond: &Cond, latent: [usize; 4], device: &Device) -> Result<Self, MaskError> {
        let [_, _, rows, columns] = latent;
        let whole = Area { height: rows, width: columns, y: 0, x: 0 };
        let mask = match &cond.mask {
            None => None,
            Some(mask) => Some(fitted(&mask.mask, latent, device)?),
        };
        let area = match (&cond.mask, cond.area) {
            (Some(mask), _) if mask.to_bounds => bounds(&mask.mask, whole),
            (_, Some(place)) => clip(place.area(rows, columns), whole),
            _ => whole,
        };
        let weight = match (mask, &cond.mask) {
            (Some(fitted), Some(mask)) => {
                let part = fitted.narrow(2, area.y, area.height).narrow(3, area.x, area.width);
                part * (mask.strength * cond.strength)
            }
            _ => {
                Tensor::from_data(
                    TensorData::new(faded(area, whole), [1, 1, area.height, area.width]),
                    (device, DType::F32),
                ) * cond.strength
            }
        };
        let named = cond.area.is_some() || cond.mask.as_ref().is_some_and(|mask| mask.to_bounds);
        Ok(Self { area, weight, everything: area == whole && cond.mask.is_none(), named })
    }

    /// The rectangle cut out of a latent.
    pub fn cut(&self, x: &Tensor<4>) -> Tensor<4> {
        let Area { height, width, y, x: column } = self.area;
        let [_, _, rows, columns] = x.dims();
        if (height, width) == (rows, columns) {
            return x.clone();
        }
        x.clone().narrow(2, y, height).narrow(3, column, width)
    }

    /// What lies in the rectangle put into a latent of zeros.
    pub fn spread(&self, part: Tensor<4>, [rows, columns]: [usize; 2]) -> Tensor<4> {
        let Area { height, width, y, x } = self.area;
        if (height, width) == (rows, columns) {
            return part;
        }
        // Left, right, top, bottom.
        part.pad((x, columns - x - width, y, rows - y - height), 0.0)
    }
}

/// A mask in the size of a latent: `[batch, 1, height, width]`.
pub fn fitted(mask: &Mask, latent: [usize; 4], device: &Device) -> Result<Tensor<4>, MaskError> {
    let [batch, _, rows, columns] = latent;
    latent_mask(mask.values(), mask.shape(), [batch, 1, rows, columns], device)
}

/// A rectangle kept inside the latent; one pixel at least.
fn clip(area: Area, whole: Area) -> Area {
    let (y, x) = (area.y.min(whole.height - 1), area.x.min(whole.width - 1));
    Area {
        height: area.height.clamp(1, whole.height - y),
        width: area.width.clamp(1, whole.width - x),
        y,
        x,
    }
}

/// The rectangle around a mask's values above 0, in the latent's pixels, over all its pictures.
fn bounds(mask: &Mask, whole: Area) -> Area {
    let [masks, height, width] = mask.shape();
    let set = |y: usize, x: usize| (0..masks).any(|mask_| mask.at(mask_, y, x) > 0.0);
    let rows: Vec<usize> = (0..height).filter(|&y| (0..width).any(|x| set(y, x))).collect();
    let columns: Vec<usize> = (0..width).filter(|&x| (0..height).any(|y| set(y, x))).collect();
    let (Some(&top), Some(&bottom), Some(&left), Some(&right)) =
        (rows.first(), rows.last(), columns.first(), columns.last())
    else {
        return whole;
    };
    let low = |place: usize, side: usize, to: usize| place * to / side;
    let high = |place: usize, side: usize, to: usize| ((place + 1) * to).div_ceil(side);
    let (y, x) = (low(top, height, whole.height), low(left, width, whole.width));
    let end = (high(bottom, height, whole.height), high(right, width, whole.width));
    clip(Area { height: end.0.saturating_sub(y), width: end.1.saturating_sub(x), y, x }, whole)
}

/// Weights of 1 that fade towards the sides that lie inside the picture.
fn faded(area: Area, whole: Area) -> Vec<f32> {
    let along = |start: usize, length: usize, side: usize| -> Vec<f32> {
        let fade = FADE.min(length / 4);
        let step = |from_edge: usize| match from_edge < fade {
            true => (from_edge + 1) as f32 / fade as f32,
            false => 1.0,
        };
        (0..length)
            .map(|place| {
                let before = if start > 0 { step(place) } else { 1.0 };
                let after = if start + length < side { step(length - 1 - place) } else { 1.0 };
                before * after
            })
            .collect()
    };
    let down = along(area.y, area.height, whole.height);
    let across = along(area.x, area.width, whole.width);
    down.iter().flat_map(|down| across.iter().map(move |across| down * across)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Area = Area { height: 32, width: 40, y: 0, x: 0 };

    #[test]
    fn a_rectangle_fades_where_it_meets_the_rest() {
        let area = Area { height: 32, width: 36, y: 0, x: 4 };
        let weights = faded(area, WHOLE);
        assert_eq!(weights.len(), 32 * 36);
        assert_eq!(&weights[..9], [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.0]);
        assert_eq!(weights[35], 1.0);
        assert!(faded(WHOLE, WHOLE).iter().all(|weight| *weight == 1.0));
    }

    /// Each axis by itself: over eight latent pixels, a quarter of the side, or not at all.
    #[test]
    fn short_rectangles_fade_over_a_quarter() {
        let row = |width: usize, x: usize| {
            let area = Area { height: 32, width, y: 0, x };
            faded(area, WHOLE)[..width].to_vec()
        };
        assert_eq!(row(3, 8), [1.0; 3]);
        assert_eq!(row(4, 8), [1.0; 4]);
        let weights = row(14, 8);
        let third = |k: usize| k as f32 / 3.0;
        assert_eq!(weights[..4], [third(1), third(2), 1.0, 1.0]);
        assert_eq!(weights[11..], [1.0, third(2), third(1)]);
        // At the picture's edge there is no fade.
        assert_eq!(row(14, 0)[..3], [1.0; 3]);
        assert_eq!(row(14, 26)[11..], [1.0; 3]);
        // One axis fades over 8, the other over 2.
        let area = Area { height: 8, width: 32, y: 4, x: 8 };
        let weights = faded(area, WHOLE);
        assert_eq!(weights[0], 0.5 * 0.125);
        assert_eq!(weights[2 * 32 + 8], 1.0);
    }

    #[test]
    fn a_rectangle_stays_inside() {
        let area = Area { height: 99, width: 99, y: 30, x: 50 };
        assert_eq!(clip(area, WHOLE), Area { height: 2, width: 1, y: 30, x: 39 });
    }

    #[test]
    fn bounds_of_a_mask_cover_it() {
        let mask = Mask::from_fn([1, 64, 80], |_, y, x| {
            f32::from(u8::from((20..30).contains(&y) && (4..9).contains(&x)))
        });
        assert_eq!(bounds(&mask, WHOLE), Area { height: 5, width: 3, y: 10, x: 2 });
        let empty = Mask::from_fn([1, 8, 8], |_, _, _| 0.0);
        assert_eq!(bounds(&empty, WHOLE), WHOLE);
    }
}
