//! Batches of latents.

use crate::forecast::{Extent, Known};
use crate::inputs::NodeError;
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::Latent;

const SAMPLES: Input = Input::link("samples", Type::Latent).tooltip("The latents.");

/// A batch several times.
pub const REPEAT_LATENT_BATCH: Node = Node {
    class: "RepeatLatentBatch",
    title: "Repeat Latent Batch",
    category: "model/latent/batch",
    about: "Repeats a batch of latents, each time with other noise.",
    inputs: &[SAMPLES, Input::int("amount", 1, 1, 64).tooltip("How many times.")],
    outputs: &[Output::new(Type::Latent).tooltip("The larger batch.")],
    forecast: Some(|ahead| {
        let repeated = ahead.extent("samples").and_then(|latent| {
            let batch = latent.batch.saturating_mul(ahead.inputs().count("amount").ok()?);
            Some(Extent { batch, ..latent })
        });
        Ok(vec![Known::latent(repeated)])
    }),
    run: |_, inputs| {
        let repeated = inputs.latent("samples")?.repeated(inputs.count("amount")?);
        Ok(vec![Value::Latent(repeated.map_err(|error| NodeError::input("amount", error))?)])
    },
    ..Node::EMPTY
};

/// A part of a batch.
pub const LATENT_FROM_BATCH: Node = Node {
    class: "LatentFromBatch",
    title: "Get Latent From Batch",
    category: "model/latent/batch",
    about: "Takes latents out of a batch. They keep the noise that they have in the whole batch, \
            so that sampling them again gives the same pictures.",
    inputs: &[
        SAMPLES,
        Input::int("batch_index", 0, -MAX_SIDE, MAX_SIDE)
            .tooltip("The first latent, counted from 0; -1 is the last, -2 the one before."),
        Input::int("length", 1, 1, 64).tooltip("How many latents."),
    ],
    outputs: &[Output::new(Type::Latent).tooltip("The latents that were taken.")],
    forecast: Some(|ahead| {
        let taken = ahead.extent("samples").and_then(|latent| {
            let batch = ahead.inputs().count("length").ok()?.min(latent.batch);
            Some(Extent { batch, ..latent })
        });
        Ok(vec![Known::latent(taken)])
    }),
    run: |_, inputs| {
        let (first, length) = (inputs.int("batch_index")?, inputs.count("length")?);
        Ok(vec![Value::Latent(part(&inputs.latent("samples")?, first, length))])
    },
    ..Node::EMPTY
};

/// The latents from `first` on, which counts from the end where it is negative. Where that is outside of
/// the batch, the nearest.
fn part(latent: &Latent, first: i128, length: usize) -> Latent {
    let batch = latent.samples.dims()[0];
    let first = if first < 0 { first.saturating_add(batch as i128) } else { first };
    let first = usize::try_from(first.max(0)).unwrap_or(usize::MAX).min(batch.saturating_sub(1));
    let length = length.min(batch - first);
    let places = first..first + length;
    let noise_mask = latent.noise_mask.as_ref().map(|mask| match mask.shape()[0] {
        1 => mask.clone(),
        _ => mask.select(places.clone()),
    });
    let batch_index = match &latent.batch_index {
        None => places.clone().collect(),
        Some(index) => index.iter().skip(first).take(length).copied().collect(),
    };
    let samples = latent.samples.clone().narrow(0, first, length);
    let downscale = latent.downscale;
    Latent { samples, noise_mask, batch_index: Some(batch_index), downscale }
}
