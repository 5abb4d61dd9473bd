//! Models that enlarge pictures: their loader, and what they do.

use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::folders::ModelKind;
use distorch_pipeline::models::Upscaler;

use super::file_state::file_state;
use super::forms::by_default;
use super::loading::{Files, all_ahead, lacks, models, one_file, place};
use crate::forecast::Known;
use crate::inputs::NodeError;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

const FILE: Files = Files {
    inputs: &["model_name"],
    find: |environment, inputs| {
        one_file(environment, inputs, ModelKind::UpscaleModels, "model_name")
    },
    components: &[ComponentKind::Upscaler],
};

/// A model that enlarges pictures.
pub const LOADER: Node = Node {
    class: "UpscaleModelLoader",
    title: "Load Upscale Model",
    category: "model/loaders",
    about: "Loads a model that enlarges pictures: ESRGAN's, a compact one of Real-ESRGAN's, or SPAN.",
    inputs: &[Input::found("model_name", |environment| {
        models(environment, ModelKind::UpscaleModels)
    })
    .tooltip("The name of the upscale model.")],
    outputs: &[Output::new(Type::UpscaleModel).tooltip("The model that enlarges pictures.")],
    fingerprint: Some(|environment, inputs| {
        let name = inputs.text("model_name").unwrap_or_default();
        file_state(environment, ModelKind::UpscaleModels, name)
    }),
    forecast: Some(|ahead| {
        let settings = by_default(ahead.environment(), ahead.inputs())?;
        all_ahead(ahead, &FILE, settings, false)
    }),
    run: |context, inputs| {
        let settings = by_default(context.environment(), inputs)?;
        let parts = place(context, inputs, &FILE, settings, false)?;
        let part = parts.get(ComponentKind::Upscaler).cloned().ok_or_else(|| {
            NodeError::input("model_name", lacks(&parts.file, ComponentKind::Upscaler))
        })?;
        Ok(vec![Value::UpscaleModel(Upscaler::new(part)?)])
    },
    ..Node::EMPTY
};

/// Pictures, enlarged by a model.
pub const UPSCALE: Node = Node {
    class: "ImageUpscaleWithModel",
    title: "Upscale Image (using Model)",
    category: "image/upscaling",
    about: "Enlarges pictures with a model, in tiles of 512 pixels; in smaller ones where memory is short.",
    inputs: &[
        Input::link("upscale_model", Type::UpscaleModel).tooltip("The model."),
        Input::link("image", Type::Image).tooltip("The pictures."),
    ],
    outputs: &[Output::new(Type::Image).tooltip("The enlarged pictures.")],
    forecast: Some(|ahead| {
        let pictures = ahead.extent("image");
        ahead.enlarges("upscale_model", pictures.map(|pictures| Upscaler::piece(pictures.size())));
        let scale = ahead.source("upscale_model").and_then(|source| {
            source.file.model.upscaler.as_ref().map(|upscaler| upscaler.scale())
        });
        let enlarged = pictures.zip(scale).map(|(pictures, scale)| {
            pictures.sized(pictures.size().map(|side| side.saturating_mul(scale)))
        });
        Ok(vec![Known::image(enlarged)])
    }),
    run: |context, inputs| {
        let (model, pictures) = (inputs.upscale_model("upscale_model")?, inputs.image("image")?);
        Ok(vec![Value::Image(model.enlarge(context.run(), &pictures)?)])
    },
    ..Node::EMPTY
};
