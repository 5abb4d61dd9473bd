//! Latents mixed, joined and put on each other.

use distorch_pipeline::Latent;
use distorch_pipeline::image::resize::{Method, centre_crop, resize, resize_mask};
use distorch_pipeline::image::{Mask, Pictures};
use distorch_runtime::Tensor;
use distorch_runtime::tensor::{DType, TensorData, cpu};

use crate::forecast::{Extent, Known, same};
use crate::inputs::NodeError;
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};

const FIRST: Input = Input::link("samples1", Type::Latent).tooltip("The latents.");
const SECOND: Input = Input::link("samples2", Type::Latent).tooltip("The other latents.");
const OUTPUT: &[Output] = &[Output::new(Type::Latent).tooltip("The latents.")];

/// Two latents mixed.
pub const BLEND: Node = Node {
    class: "LatentBlend",
    title: "Latent Blend",
    category: "experimental",
    about: "Mixes latents with others, which get their size.",
    inputs: &[
        FIRST,
        SECOND,
        Input::float("blend_factor", 0.5, 0.0, 1.0, 0.01).tooltip("How much of the first counts."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(same(ahead, "samples1"))),
    run: |_, inputs| {
        let (first, second) = (inputs.latent("samples1")?, inputs.latent("samples2")?);
        let factor = inputs.float("blend_factor")? as f32;
        let [batch, channels, rows, columns] = first.samples.dims();
        let other = sized(second.samples, [channels, rows, columns], Method::Bicubic)?;
        let count = other.dims()[0];
        let other = match count {
            _ if count == batch => other,
            1 => other.expand([batch, channels, rows, columns]),
            _ => {
                let problem = format!("{count} latents do not go with {batch}: give 1 or as many");
                return Err(NodeError::input("samples2", problem));
            }
        };
        let mixed = first.samples.clone() * factor + other * (1.0 - factor);
        Ok(vec![Value::Latent(first.with_samples(mixed))])
    },
    ..Node::EMPTY
};

/// Two batches in one.
pub const BATCH: Node = Node {
    class: "LatentBatch",
    title: "Batch Latents (DEPRECATED)",
    category: "model/latent/batch",
    about: "Joins two batches of latents. The second gets the size of the first.",
    inputs: &[FIRST, SECOND],
    outputs: OUTPUT,
    is_deprecated: true,
    forecast: Some(|ahead| {
        let joined = ahead.extent("samples1").and_then(|first| {
            let batch = first.batch.saturating_add(ahead.extent("samples2")?.batch);
            Some(Extent { batch, ..first })
        });
        Ok(vec![Known::latent(joined)])
    }),
    run: |_, inputs| {
        let (first, second) = (inputs.latent("samples1")?, inputs.latent("samples2")?);
        let [_, channels, rows, columns] = first.samples.dims();
        let index = |latent: &Latent| match &latent.batch_index {
            Some(index) => index.to_vec(),
            None => (0..latent.samples.dims()[0]).collect(),
        };
        let index: Vec<usize> = [index(&first), index(&second)].concat();
        let other = sized(second.samples, [channels, rows, columns], Method::Bilinear)?;
        let samples = Tensor::cat(vec![first.samples.clone(), other], 0);
        let joined = Latent { batch_index: Some(index.into()), ..first.with_samples(samples) };
        Ok(vec![Value::Latent(joined)])
    },
    ..Node::EMPTY
};

/// Latents with these channels at a size, their middle cut out first.
fn sized(
    samples: Tensor<4>,
    [channels, rows, columns]: [usize; 3],
    method: Method,
) -> Result<Tensor<4>, NodeError> {
    let [_, own, height, width] = samples.dims();
    if own != channels {
        let problem = format!("latents of {own} channels do not go with those of {channels}");
        return Err(NodeError::input("samples2", problem));
    }
    if [height, width] == [rows, columns] {
        return Ok(samples);
    }
    let pictures = Pictures::from_channels_first(samples).map_err(NodeError::failed)?;
    let cut = centre_crop(&pictures, [rows, columns]);
    let resized = resize(&cut, method, [rows, columns]).map_err(NodeError::failed)?;
    Ok(resized.channels_first())
}

/// Latents on others.
pub const COMPOSITE_MASKED: Node = Node {
    class: "LatentCompositeMasked",
    title: "Latent Composite Masked",
    category: "model/latent",
    about: "Puts latents on others at a place, where a mask is set.",
    inputs: &[
        Input::link("destination", Type::Latent).tooltip("The latents below."),
        Input::link("source", Type::Latent).tooltip("The latents that are put on them."),
        Input::int("x", 0, 0, MAX_SIDE).step(8).tooltip("Pixels from the left."),
        Input::int("y", 0, 0, MAX_SIDE).step(8).tooltip("Pixels from the top."),
        Input::boolean("resize_source", false).tooltip("Whether they get the size of those below."),
        Input::link("mask", Type::Mask)
            .optional()
            .tooltip("Where they are put; everywhere without one."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(same(ahead, "destination"))),
    run: |_, inputs| {
        let (below, above) = (inputs.latent("destination")?, inputs.latent("source")?);
        let place = [inputs.count("y")? / 8, inputs.count("x")? / 8];
        let mask = inputs.mask("mask").ok();
        let samples = composite(
            below.samples.clone(),
            above.samples,
            mask.as_ref(),
            place,
            inputs.boolean("resize_source")?,
        )?;
        Ok(vec![Value::Latent(below.with_samples(samples))])
    },
    ..Node::EMPTY
};

fn composite(
    below: Tensor<4>,
    above: Tensor<4>,
    mask: Option<&Mask>,
    [top, left]: [usize; 2],
    resized: bool,
) -> Result<Tensor<4>, NodeError> {
    let [batch, channels, rows, columns] = below.dims();
    let [count, own, height, width] = above.dims();
    if own != channels || count == 0 {
        let problem = format!("{count} latents of {own} channels do not go on those of {channels}");
        return Err(NodeError::input("source", problem));
    }
    let above = match resized && [height, width] != [rows, columns] {
        true => {
            let pictures = Pictures::from_channels_first(above).map_err(NodeError::failed)?;
            let resized = resize(&pictures, Method::Bilinear, [rows, columns]);
            resized.map_err(NodeError::failed)?.channels_first()
        }
        false => above,
    };
    if top >= rows || left >= columns {
        return Ok(below);
    }
    let [_, _, height, width] = above.dims();
    let above = above.repeat_dim(0, batch.div_ceil(count)).narrow(0, 0, batch);
    let share = match mask {
        None => Mask::from_fn([1, height, width], |_, _, _| 1.0),
        Some(mask) => resize_mask(mask, Method::Bilinear, [height, width])
            .map_err(|error| NodeError::input("mask", error))?,
    };
    let share = share.select(0..batch);
    let share = TensorData::new(share.values().to_vec(), [batch, 1, height, width]);
    let share = Tensor::<4>::from_data(share, (&cpu(), DType::F32));
    let (height, width) = (height.min(rows - top), width.min(columns - left));
    let cut = |tensor: Tensor<4>| tensor.narrow(2, 0, height).narrow(3, 0, width);
    let share = cut(share).expand([batch, channels, height, width]);
    let place = [0..batch, 0..channels, top..top + height, left..left + width];
    let old = below.clone().slice(place.clone());
    let mixed = cut(above) * share.clone() + old * (share.neg() + 1.0);
    Ok(below.slice_assign(place, mixed))
}
