//! Several pictures that an editing model looks at, encoded for it.

use distorch_pipeline::Latent;
use distorch_pipeline::diffusion::conditioning::{Cond, Conditioning};
use distorch_pipeline::image::Pictures;
use distorch_pipeline::image::resize::{Method, resize};

use crate::context::Context;
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Growing, Input, Node, Output};
use crate::value::{Type, Value};

const IMAGES: Growing =
    Growing { name: "images", one: "image", named: false, least: 1, optional: true };

/// How many pictures there can be.
const MOST: usize = 100;

macro_rules! inputs {
    ($($number:literal)*) => {
        &[
            Input::link("positive", Type::Conditioning).tooltip("What the picture should have."),
            Input::link("negative", Type::Conditioning)
                .optional()
                .tooltip("What the picture should not have."),
            Input::link("vae", Type::Vae)
                .optional()
                .tooltip("The VAE that encodes the pictures; without it they are not looked at."),
            Input::choice("resolution", &["keep resolution", "resize"])
                .tooltip("Whether the pictures are encoded as large as they are."),
            Input::float("resolution.megapixels", 1.0, 0.01, 16.0, 0.01)
                .when("resolution", &["resize"])
                .tooltip("Millions of pixels, of 1024 × 1024, that each is brought to."),
            $(Input::link(concat!("images.image", $number), Type::Image).one_of(&IMAGES)),*
        ]
    };
}

/// Pictures for an editing model to look at.
pub const REFERENCE_MULTI_LATENT: Node = Node {
    class: "ReferenceMultiLatent",
    title: "Set Reference Multi Latent",
    category: "model/conditioning",
    about: "Gives an editing model several pictures to look at, each encoded in its own size or brought to a number of \
            pixels by averaging. The latents to start from are empty ones of the first one's size.",
    inputs: inputs![
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39
        40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76
        77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99
    ],
    outputs: &[
        Output::new(Type::Conditioning).named("positive"),
        Output::new(Type::Conditioning).named("negative"),
        Output::new(Type::Latent).named("empty_latent"),
    ],
    forecast: Some(|ahead| {
        for number in 0..MOST {
            let size = ahead.extent(&format!("images.image{number}")).map(|images| images.size());
            if size.is_some() {
                ahead.converts("vae", size, None);
            }
        }
        Ok(Vec::new())
    }),
    run: referenced,
    ..Node::EMPTY
};

fn referenced(context: &mut Context<'_>, inputs: &Inputs) -> Result<Vec<Value>, NodeError> {
    let positive = inputs.conditioning("positive")?;
    let negative = match inputs.has("negative") {
        true => inputs.conditioning("negative")?,
        false => positive.clone(),
    };
    let megapixels = match inputs.text("resolution")? {
        "resize" if inputs.has("resolution.megapixels") => {
            Some(inputs.float("resolution.megapixels")?)
        }
        "resize" => Some(1.0),
        _ => None,
    };
    let mut references = Vec::new();
    if inputs.has("vae") {
        let vae = inputs.vae("vae")?;
        for number in 0..MOST {
            let name = format!("images.image{number}");
            if !inputs.has(&name) {
                continue;
            }
            let mut pictures = inputs.image(&name)?;
            if let Some(megapixels) = megapixels {
                pictures = of_pixels(&pictures, megapixels, &name)?;
            }
            references.push(vae.encode(context.run(), &pictures, None)?);
        }
    }
    let empty = match (references.first(), inputs.has("vae")) {
        (Some(first), _) => Latent::new(first.zeros_like()),
        (None, has_vae) => {
            // Samplers bring the channels of empty latents to their model's.
            let (channels, downscale) = match has_vae {
                true => {
                    let vae = inputs.vae("vae")?;
                    (vae.latent_channels(), vae.downscale().max(1))
                }
                false => (4, 8),
            };
            let side = megapixels.map_or(1024.0, |pixels| (pixels * 1024.0 * 1024.0).sqrt());
            let side = (side as usize / downscale).max(1);
            Latent::empty(1, channels, [side, side])
        }
    };
    let with = |conditioning: Conditioning| {
        conditioning.map(|cond: &Cond| {
            let mut cond = cond.clone();
            cond.reference_latents.extend(references.iter().cloned());
            cond
        })
    };
    Ok(vec![
        Value::Conditioning(with(positive)),
        Value::Conditioning(with(negative)),
        Value::Latent(empty),
    ])
}

/// The pictures at so many pixels, in their ratio.
fn of_pixels(pictures: &Pictures, megapixels: f64, name: &str) -> Result<Pictures, NodeError> {
    let [_, rows, columns, _] = pictures.shape();
    if rows == 0 || columns == 0 {
        return Err(NodeError::input(name, "it has no pixels"));
    }
    let factor = (megapixels * 1024.0 * 1024.0 / (rows as f64 * columns as f64)).sqrt();
    let size =
        [rows, columns].map(|side| ((side as f64 * factor).round_ties_even() as usize).max(1));
    resize(pictures, Method::Area, size).map_err(NodeError::failed)
}
