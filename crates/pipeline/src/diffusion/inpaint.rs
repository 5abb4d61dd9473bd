//! Pictures that are to be changed under a mask.

use distorch_runtime::tensor::cpu;

use crate::diffusion::region::fitted;
use crate::error::{Argument, PipelineError};
use crate::image::{Mask, Pictures};

/// A mask in the size and number of pictures.
///
/// # Errors
/// When it is empty.
pub fn fit(mask: &Mask, pixels: &Pictures) -> Result<Mask, PipelineError> {
    let [batch, height, width, _] = pixels.shape();
    let fitted = fitted(mask, [batch, 1, height, width], &cpu())
        .map_err(|error| PipelineError::argument(Argument::Mask, error))?;
    let fitted = Pictures::from_channels_first(fitted).map_err(PipelineError::failed)?;
    Ok(fitted.channel(0))
}

/// Pictures that are grey where the mask is set.
pub fn greyed(pixels: &Pictures, mask: &Mask) -> Pictures {
    const GREY: f32 = 0.5;
    let colours = pixels.colours();
    Pictures::from_fn(colours.shape(), |picture, y, x, channel| {
        let keep = 1.0 - mask.at(picture, y, x).round_ties_even();
        (colours.at(picture, y, x, channel) - GREY) * keep + GREY
    })
}

/// A mask cut to whole latent pixels, as much on either side: as pictures are when they are encoded.
pub fn cropped(mask: &Mask, side: usize) -> Mask {
    let [masks, height, width] = mask.shape();
    let (top, left) = (height % side / 2, width % side / 2);
    let shape = [masks, height / side * side, width / side * side];
    Mask::from_fn(shape, |picture, y, x| mask.at(picture, y + top, x + left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_is_grey_and_the_rest_as_it_was() {
        let pixels = Pictures::from_fn([2, 4, 4, 3], |picture, y, x, c| {
            (picture * 48 + y * 12 + x * 3 + c) as f32 / 96.0
        });
        let left = Mask::from_fn([1, 4, 4], |_, _, x| if x < 2 { 1.0 } else { 0.3 });
        let mask = fit(&left, &pixels).unwrap();
        assert_eq!(mask.shape(), [2, 4, 4]);
        let grey = greyed(&pixels, &mask);
        for picture in 0..2 {
            assert_eq!(grey.at(picture, 1, 1, 2), 0.5);
            let (found, given) = (grey.at(picture, 3, 2, 0), pixels.at(picture, 3, 2, 0));
            assert!((found - given).abs() < 1e-6);
        }
    }

    #[test]
    fn the_mask_is_cut_as_the_picture() {
        let mask = Mask::from_fn([1, 21, 16], |_, y, x| (y * 16 + x) as f32);
        let cut = cropped(&mask, 8);
        assert_eq!(cut.shape(), [1, 16, 16]);
        assert_eq!((cut.at(0, 0, 0), cut.at(0, 15, 15)), (32.0, 17.0 * 16.0 + 15.0));
    }
}
