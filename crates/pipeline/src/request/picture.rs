//! What sampling starts from.

use super::kinds::TextToImage;
use crate::error::{Argument, PipelineError};
use crate::image::resize::{Method, centre_crop, resize};
use crate::image::{Mask, Pictures};

/// What sampling starts from.
pub(super) enum Start {
    /// Nothing: an empty latent.
    Nothing {
        /// How many.
        batch: usize,
        /// Rows and columns of the latent.
        cells: [usize; 2],
    },
    /// A picture.
    Picture(Picture),
}

/// Pictures to start from, of the size that was asked for.
pub(super) struct Picture {
    pub image: Pictures,
    /// Where it is to change, of any size.
    pub mask: Option<Mask>,
}

impl Start {
    /// How many pictures are made at once.
    pub(super) fn pictures(&self, request: &TextToImage) -> usize {
        match self {
            Start::Nothing { batch, .. } => *batch,
            Start::Picture(start) => {
                let times = usize::try_from(request.batch).unwrap_or(usize::MAX);
                start.image.shape()[0].saturating_mul(times)
            }
        }
    }
}

/// Brings pictures and their mask to a height and a width, each where it is asked for.
pub(super) fn brought_to(
    image: &Pictures,
    mask: Option<&Mask>,
    [height, width]: [Option<u32>; 2],
) -> Result<Picture, PipelineError> {
    let wrong = |problem: &str| PipelineError::argument(Argument::Image, problem);
    let [_, rows, columns, _] = image.shape();
    if image.values().is_empty() {
        return Err(wrong("there is no pixel in it"));
    }
    let wanted = |side: Option<u32>| side.and_then(|side| usize::try_from(side).ok());
    let size = match (wanted(height), wanted(width)) {
        (None, None) => None,
        (None, Some(width)) => Some([in_ratio(rows, width, columns), width]),
        (Some(height), None) => Some([height, in_ratio(columns, height, rows)]),
        (Some(height), Some(width)) => Some([height, width]),
    };
    let masks = mask.map(Mask::pictures);
    if masks.as_ref().is_some_and(|masks| masks.values().is_empty()) {
        return Err(PipelineError::argument(Argument::Mask, "there is no pixel in it"));
    }
    let Some(size) = size else {
        return Ok(Picture { image: image.clone(), mask: mask.cloned() });
    };
    let failed = |error| PipelineError::argument(Argument::Image, error);
    let resized = |pictures: &Pictures, method| {
        resize(&centre_crop(pictures, size), method, size).map_err(failed)
    };
    let mask = match masks {
        None => None,
        Some(masks) => {
            // Laid over the whole picture first, since the middle that is cut out is the picture's.
            let over = resize(&masks, Method::Bilinear, [rows, columns]).map_err(failed)?;
            Some(resized(&over, Method::Bilinear)?.channel(0))
        }
    };
    Ok(Picture { image: resized(image, Method::Lanczos)?, mask })
}

/// `side · other ÷ whole`, at least 1: the side that keeps the ratio.
fn in_ratio(side: usize, other: usize, whole: usize) -> usize {
    ((side as f64 * other as f64 / whole as f64).round_ties_even() as usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Pictures {
        Pictures::from_fn([1, 40, 80, 3], |_, _, x, _| if x < 40 { 0.0 } else { 1.0 })
    }

    #[test]
    fn one_side_keeps_the_ratio_and_none_the_size() {
        let size = |sides| brought_to(&image(), None, sides).unwrap().image.shape();
        assert_eq!(size([None, None]), [1, 40, 80, 3]);
        assert_eq!(size([None, Some(40)]), [1, 20, 40, 3]);
        assert_eq!(size([Some(80), None]), [1, 80, 160, 3]);
        assert_eq!(size([Some(24), Some(24)]), [1, 24, 24, 3]);
        let empty = Pictures::new([1, 0, 80, 3], Vec::new()).unwrap();
        assert!(brought_to(&empty, None, [Some(8), None]).is_err());
    }

    #[test]
    fn the_mask_is_cut_and_scaled_as_the_picture() {
        // The right half of the picture, of a mask of another size.
        let mask = Mask::from_fn([1, 4, 8], |_, _, x| if x < 4 { 0.0 } else { 1.0 });
        let made = brought_to(&image(), Some(&mask), [Some(40), Some(40)]).unwrap();
        let mask = made.mask.unwrap();
        assert_eq!(mask.shape(), [1, 40, 40]);
        for x in [0, 10, 30, 39] {
            assert_eq!(mask.at(0, 20, x), if x < 20 { 0.0 } else { 1.0 }, "{x}");
            assert_eq!(made.image.at(0, 20, x, 0), mask.at(0, 20, x), "{x}");
        }
    }
}
