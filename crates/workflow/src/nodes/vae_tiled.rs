//! Between large latents and pictures, tile by tile.

use distorch_models::vae_tiled::Tiling;

use super::vae::{decoded, encoded};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::Latent;

const OVERLAP: Input = Input::int("overlap", 64, 0, 4096)
    .advanced()
    .added_later()
    .step(32)
    .tooltip("How many pixels neighbouring tiles share, so that no seam shows.");
const TEMPORAL_SIZE: Input = Input::int("temporal_size", 64, 8, 4096)
    .advanced()
    .added_later()
    .step(4)
    .tooltip("Frames at a time with a VAE for videos. Pictures do not heed it.");
const TEMPORAL_OVERLAP: Input = Input::int("temporal_overlap", 8, 4, 4096)
    .advanced()
    .added_later()
    .step(4)
    .tooltip("Frames that are shared with a VAE for videos. Pictures do not heed it.");

const fn tile_size(step: i128) -> Input {
    Input::int("tile_size", 512, 64, 4096)
        .advanced()
        .added_later()
        .step(step)
        .tooltip("The side of a tile in pixels: smaller ones take less memory.")
}

/// Latents to pictures, tile by tile.
pub const DECODE_TILED: Node = Node {
    class: "VAEDecodeTiled",
    title: "VAE Decode (Tiled)",
    category: "model/latent",
    about: "Decodes latents tile by tile, which takes less memory.",
    inputs: &[
        Input::link("samples", Type::Latent).tooltip("The latents."),
        Input::link("vae", Type::Vae).tooltip("The VAE that decodes them."),
        tile_size(32),
        OVERLAP,
        TEMPORAL_SIZE,
        TEMPORAL_OVERLAP,
    ],
    outputs: &[Output::new(Type::Image).tooltip("The decoded pictures.")],
    forecast: Some(|ahead| Ok(decoded(ahead, ahead.inputs().count("tile_size").ok()))),
    run: |context, inputs| {
        let mut tiling = tiling(inputs)?;
        if tiling.tile < tiling.overlap * 4 {
            tiling.overlap = tiling.tile / 4;
        }
        let latent = inputs.latent("samples")?;
        let pictures = inputs.vae("vae")?.decode(context.run(), &latent.samples, Some(tiling))?;
        Ok(vec![Value::Image(pictures)])
    },
    ..Node::EMPTY
};

/// Pictures to latents, tile by tile.
pub const ENCODE_TILED: Node = Node {
    class: "VAEEncodeTiled",
    title: "VAE Encode (Tiled)",
    category: "model/latent",
    about: "Encodes pictures tile by tile, which takes less memory.",
    inputs: &[
        Input::link("pixels", Type::Image).tooltip("The pictures."),
        Input::link("vae", Type::Vae).tooltip("The VAE that encodes them."),
        tile_size(64),
        OVERLAP,
        TEMPORAL_SIZE,
        TEMPORAL_OVERLAP,
    ],
    outputs: &[Output::new(Type::Latent).tooltip("The latents.")],
    forecast: Some(|ahead| Ok(vec![encoded(ahead, ahead.inputs().count("tile_size").ok())])),
    run: |context, inputs| {
        let pictures = inputs.image("pixels")?;
        let samples = inputs.vae("vae")?.encode(context.run(), &pictures, Some(tiling(inputs)?))?;
        Ok(vec![Value::Latent(Latent::new(samples))])
    },
    ..Node::EMPTY
};

fn tiling(inputs: &Inputs) -> Result<Tiling, NodeError> {
    let overlap = inputs.count("overlap")?;
    Ok(Tiling { tile: inputs.count("tile_size")?, overlap })
}
