//! Pictures that a model looks at while it makes another.

use distorch_models::network::ReferenceMethod;
use distorch_pipeline::Latent;
use distorch_pipeline::diffusion::conditioning::{ConcatPicture, Cond};

use super::conditioning::{CONDITIONING, OUTPUT, output};
use super::vae::encoded;
use crate::forecast::Known;
use crate::inputs::NodeError;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

/// A further picture for an editing model.
pub const REFERENCE_LATENT: Node = Node {
    class: "ReferenceLatent",
    title: "ReferenceLatent",
    category: "model/conditioning",
    about: "Gives an editing model, such as Flux Kontext, a picture to look at. One behind the other, \
            each adds a picture.",
    inputs: &[
        CONDITIONING,
        Input::link("latent", Type::Latent).optional().tooltip("The picture, encoded."),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let conditioning = inputs.conditioning("conditioning")?;
        if !inputs.has("latent") {
            return Ok(output(conditioning));
        }
        let samples = inputs.latent("latent")?.samples;
        let with = |cond: &Cond| {
            let mut cond = cond.clone();
            cond.reference_latents.push(samples.clone());
            cond
        };
        Ok(output(conditioning.map(with)))
    },
    ..Node::EMPTY
};

/// Where several references are.
pub const FLUX_KONTEXT_MULTI_REFERENCE_LATENT_METHOD: Node = Node {
    class: "FluxKontextMultiReferenceLatentMethod",
    title: "Edit Model Reference Method",
    category: "model/conditioning/flux",
    about: "Says where an editing model sees several reference pictures: side by side, each in a layer of its own, \
            or in a row behind the corner of the picture.",
    inputs: &[
        CONDITIONING,
        Input::choice(
            "reference_latents_method",
            &["offset", "index", "uxo/uno", "index_timestep_zero"],
        )
        .advanced()
        .tooltip(
            "`offset` is Flux Kontext's own, `index` gives each picture a number, `uxo/uno` is that of UNO's and \
             USO's LoRAs. `index_timestep_zero` is that of Qwen-Image-Edit 2511, which sees the pictures without noise.",
        ),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        const INPUT: &str = "reference_latents_method";
        let reference_method = match inputs.text(INPUT)? {
            "offset" => ReferenceMethod::Offset,
            "index" => ReferenceMethod::Index,
            "index_timestep_zero" => ReferenceMethod::IndexAtZero,
            name if name.contains("uxo") || name.contains("uso") => ReferenceMethod::Diagonal,
            name => {
                let problem = format!(
                    "`{name}` is no method: take `offset`, `index`, `uxo/uno` or `index_timestep_zero`"
                );
                return Err(NodeError::input(INPUT, problem));
            }
        };
        let conditioning = inputs.conditioning("conditioning")?;
        Ok(output(conditioning.map(|cond| Cond { reference_method, ..cond.clone() })))
    },
    ..Node::EMPTY
};

/// A picture for a model that reads one beside the latent.
pub const INSTRUCT_PIX_TO_PIX_CONDITIONING: Node = Node {
    class: "InstructPixToPixConditioning",
    title: "InstructPixToPixConditioning",
    category: "model/conditioning/instructpix2pix",
    about: "Gives a model that reads a picture beside the latent that picture: instruct-pix2pix the one to be edited, \
            Flux Canny and Depth the edges or the depth. The latents to start from are empty ones of its size.",
    inputs: &[
        Input::link("positive", Type::Conditioning).tooltip("What the picture should have."),
        Input::link("negative", Type::Conditioning).tooltip("What the picture should not have."),
        Input::link("vae", Type::Vae).tooltip("The VAE that encodes the picture."),
        Input::link("pixels", Type::Image).tooltip("The picture."),
    ],
    outputs: &[
        Output::new(Type::Conditioning).named("positive"),
        Output::new(Type::Conditioning).named("negative"),
        Output::new(Type::Latent).named("latent"),
    ],
    forecast: Some(|ahead| Ok(vec![Known::Nothing, Known::Nothing, encoded(ahead, None)])),
    run: |context, inputs| {
        let (vae, pixels) = (inputs.vae("vae")?, inputs.image("pixels")?);
        let latent = Latent::new(vae.encode(context.run(), &pixels, None)?);
        let empty = Latent::new(latent.samples.zeros_like());
        let picture = ConcatPicture { latent, mask: None };
        let told = |cond: &Cond| Cond { picture: Some(picture.clone()), ..cond.clone() };
        Ok(vec![
            Value::Conditioning(inputs.conditioning("positive")?.map(told)),
            Value::Conditioning(inputs.conditioning("negative")?.map(told)),
            Value::Latent(empty),
        ])
    },
    ..Node::EMPTY
};
