//! Latents of which a part is to be made anew.

use super::vae::encoded;
use crate::forecast::same;
use crate::inputs::NodeError;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::Latent;
use distorch_pipeline::image::resize::{Method, resize_mask};
use distorch_pipeline::image::{Mask, Pictures};

const CATEGORY: &str = "model/latent";

/// Pictures to latents, grey where they are to be made anew.
pub const ENCODE_FOR_INPAINT: Node = Node {
    class: "VAEEncodeForInpaint",
    title: "VAE Encode (for Inpainting)",
    category: CATEGORY,
    about: "Encodes pictures with grey where the mask is, for models that fill in what is missing.",
    inputs: &[
        Input::link("pixels", Type::Image).tooltip("The pictures."),
        Input::link("vae", Type::Vae).tooltip("The VAE that encodes them."),
        Input::link("mask", Type::Mask).tooltip("1 where the picture is made anew."),
        Input::int("grow_mask_by", 6, 0, 64).added_later().tooltip(
            "Pixels that the part to be made anew is wider than the mask, so that it fits in.",
        ),
    ],
    outputs: &[Output::new(Type::Latent).tooltip("The latents, with their mask.")],
    forecast: Some(|ahead| Ok(vec![encoded(ahead, None)])),
    run: |context, inputs| {
        let vae = inputs.vae("vae")?;
        let (pictures, mask) = (inputs.image("pixels")?, inputs.mask("mask")?);
        let grow = inputs.count("grow_mask_by")?;
        let (pictures, mask) = masked(&pictures, &mask, grow, vae.downscale())?;
        let samples = vae.encode(context.run(), &pictures, None)?;
        Ok(vec![Value::Latent(Latent { noise_mask: Some(mask), ..Latent::new(samples) })])
    },
    ..Node::EMPTY
};

/// A mask for a sampler.
pub const SET_LATENT_NOISE_MASK: Node = Node {
    class: "SetLatentNoiseMask",
    title: "Set Latent Noise Mask",
    category: CATEGORY,
    about: "Tells a sampler which part of latents to change.",
    inputs: &[
        Input::link("samples", Type::Latent).tooltip("The latents."),
        Input::link("mask", Type::Mask).tooltip("1 where the latents are to change."),
    ],
    outputs: &[Output::new(Type::Latent).tooltip("The latents with the mask.")],
    forecast: Some(|ahead| Ok(same(ahead, "samples"))),
    run: |_, inputs| {
        let noise_mask = Some(inputs.mask("mask")?);
        Ok(vec![Value::Latent(Latent { noise_mask, ..inputs.latent("samples")? })])
    },
    ..Node::EMPTY
};

/// The pictures, cut in their middle to multiples of `side` and grey under the mask, and the mask
/// of their size, grown.
fn masked(
    pictures: &Pictures,
    mask: &Mask,
    grow: usize,
    side: usize,
) -> Result<(Pictures, Mask), NodeError> {
    let [batch, height, width, channels] = pictures.shape();
    if height < side || width < side {
        let problem =
            format!("a picture of {width}×{height} pixels is smaller than the VAE's {side}");
        return Err(NodeError::input("pixels", problem));
    }
    let wrong = |error| NodeError::input("mask", error);
    let mask = resize_mask(mask, Method::Bilinear, [height, width]).map_err(wrong)?;
    let start = [height, width].map(|length| length % side / 2);
    let size = [height, width].map(|length| length / side * side);
    let pictures = pictures.crop(start, size);
    let mask = mask.pictures().crop(start, size).channel(0);
    let hard = mask.map(f32::round_ties_even);
    let [masks, ..] = hard.shape();
    let grey = Pictures::from_fn([batch, size[0], size[1], channels], |picture, y, x, channel| {
        let value = pictures.at(picture, y, x, channel);
        match channel {
            0..3 => (value - 0.5) * (1.0 - hard.at(picture % masks, y, x)) + 0.5,
            _ => value,
        }
    });
    let grown = if grow == 0 { hard } else { grown(&hard, grow) };
    Ok((grey, grown))
}

/// 1 wherever a square of `by` pixels has one of 1: from `ceil((by - 1) / 2)` before a pixel on.
fn grown(mask: &Mask, by: usize) -> Mask {
    let [masks, height, width] = mask.shape();
    let before = (by - 1).div_ceil(2);
    // Sums of lines, then of columns: a square is a line of lines.
    let across = Mask::from_fn([masks, height, width], |mask_, y, x| {
        let line = x.saturating_sub(before)..(x + by - before).min(width);
        line.map(|x| mask.at(mask_, y, x)).sum()
    });
    Mask::from_fn([masks, height, width], |mask, y, x| {
        let column = y.saturating_sub(before)..(y + by - before).min(height);
        column.map(|y| across.at(mask, y, x)).sum::<f32>().clamp(0.0, 1.0).round_ties_even()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    /// Made by `tools/reference/make_workflow_files.py` with PyTorch.
    const FIXTURE: &str = include_str!("../../tests/fixtures/inpaint.json");

    fn numbers(json: &Json) -> Vec<f32> {
        json.as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as f32).collect()
    }

    #[test]
    fn masked_pixels_are_grey_and_the_mask_grows() {
        let fixture: Json = serde_json::from_str(FIXTURE).unwrap();
        let cases = fixture["inpaint"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let side = |name: &str| case[name].as_u64().unwrap() as usize;
            let shape = [1, side("height"), side("width"), 3];
            let pictures = Pictures::new(shape, numbers(&case["pixels"])).unwrap();
            let shape = serde_json::from_value(case["mask_shape"].clone()).unwrap();
            let mask = Mask::new(shape, numbers(&case["mask"])).unwrap();
            let (grey, grown) = masked(&pictures, &mask, side("grow"), 8).unwrap();
            let shape: [usize; 4] = serde_json::from_value(case["shape"].clone()).unwrap();
            assert_eq!(grey.shape(), shape);
            for (a, b) in grey.values().iter().zip(numbers(&case["grey"])) {
                assert!((a - b).abs() < 1e-6, "{a}, not {b}");
            }
            assert_eq!(grown.shape(), [1, shape[1], shape[2]]);
            assert_eq!(grown.values(), numbers(&case["grown"]));
        }
        let small = Pictures::from_fn([1, 7, 20, 3], |_, _, _, _| 0.0);
        let mask = Mask::from_fn([1, 1, 1], |_, _, _| 1.0);
        assert!(masked(&small, &mask, 6, 8).is_err());
    }
}
