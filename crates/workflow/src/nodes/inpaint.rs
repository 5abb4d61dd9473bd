//! What inpainting models are told of the picture that they fill in.

use distorch_runtime::tensor::cpu;

use super::vae::encoded;
use crate::forecast::Known;
use crate::inputs::NodeError;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::Latent;
use distorch_pipeline::diffusion::conditioning::{ConcatPicture, Cond};
use distorch_pipeline::diffusion::region::fitted;
use distorch_pipeline::image::{Mask, Pictures};

/// Conditioning and latent for an inpainting model.
pub const INPAINT_MODEL_CONDITIONING: Node = Node {
    class: "InpaintModelConditioning",
    title: "InpaintModelConditioning",
    category: "model/conditioning",
    about: "Tells an inpainting model what is around the part to be filled in, and makes the \
            latents to start from.",
    inputs: &[
        Input::link("positive", Type::Conditioning).tooltip("What the picture should have."),
        Input::link("negative", Type::Conditioning).tooltip("What the picture should not have."),
        Input::link("vae", Type::Vae).tooltip("The VAE that encodes the picture."),
        Input::link("pixels", Type::Image).tooltip("The picture."),
        Input::link("mask", Type::Mask).tooltip("1 where it is to be filled in."),
        Input::boolean("noise_mask", true).added_later().tooltip(
            "Whether the rest is kept as it is. Without, the model may change it a little, which \
             can look better.",
        ),
    ],
    outputs: &[
        Output::new(Type::Conditioning).named("positive"),
        Output::new(Type::Conditioning).named("negative"),
        Output::new(Type::Latent).named("latent"),
    ],
    forecast: Some(|ahead| Ok(vec![Known::Nothing, Known::Nothing, encoded(ahead, None)])),
    run: |context, inputs| {
        let (vae, pixels) = (inputs.vae("vae")?, inputs.image("pixels")?);
        let mask = mask_of(&pixels, &inputs.mask("mask")?)?;
        let grey = vae.encode(context.run(), &greyed(&pixels, &mask), None)?;
        let mask = cropped(&mask, vae.downscale());
        let mut latent = Latent::new(vae.encode(context.run(), &pixels, None)?);
        if inputs.boolean("noise_mask")? {
            latent.noise_mask = Some(mask.clone());
        }
        let picture = ConcatPicture { latent: Latent::new(grey), mask: Some(mask) };
        let told = |cond: &Cond| Cond { picture: Some(picture.clone()), ..cond.clone() };
        Ok(vec![
            Value::Conditioning(inputs.conditioning("positive")?.map(told)),
            Value::Conditioning(inputs.conditioning("negative")?.map(told)),
            Value::Latent(latent),
        ])
    },
    ..Node::EMPTY
};

/// A mask in the size and number of pictures.
fn mask_of(pixels: &Pictures, mask: &Mask) -> Result<Mask, NodeError> {
    let [batch, height, width, _] = pixels.shape();
    let fitted = fitted(mask, [batch, 1, height, width], &cpu())
        .map_err(|error| NodeError::input("mask", error))?;
    let values = fitted.into_data().into_vec().map_err(|error| {
        NodeError::failed(format!("the mask cannot be read from the device: {error:?}"))
    })?;
    Mask::new([batch, height, width], values)
        .ok_or_else(|| NodeError::input("mask", "it has another number of values than pixels"))
}

/// Pictures that are grey where the mask is set.
fn greyed(pixels: &Pictures, mask: &Mask) -> Pictures {
    const GREY: f32 = 0.5;
    let colours = pixels.colours();
    Pictures::from_fn(colours.shape(), |picture, y, x, channel| {
        let keep = 1.0 - mask.at(picture, y, x).round_ties_even();
        (colours.at(picture, y, x, channel) - GREY) * keep + GREY
    })
}

/// A mask cut to whole latent pixels, as much on either side: as pictures are when they are encoded.
fn cropped(mask: &Mask, side: usize) -> Mask {
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
        let mask = mask_of(&pixels, &left).unwrap();
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
