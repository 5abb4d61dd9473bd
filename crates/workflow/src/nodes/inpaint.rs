//! What inpainting models are told of the picture that they fill in.

use super::vae::encoded;
use crate::forecast::Known;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::Latent;
use distorch_pipeline::diffusion::conditioning::{ConcatPicture, Cond};
use distorch_pipeline::diffusion::inpaint;

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
        let mask = inpaint::fit(&inputs.mask("mask")?, &pixels)?;
        let grey = vae.encode(context.run(), &inpaint::greyed(&pixels, &mask), None)?;
        let mask = inpaint::cropped(&mask, vae.downscale());
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
