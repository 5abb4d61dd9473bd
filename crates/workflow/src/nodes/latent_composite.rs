//! One latent on another.

use distorch_runtime::Tensor;
use distorch_runtime::tensor::{DType, TensorData, cpu};

use crate::forecast::same;
use crate::inputs::NodeError;
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};

/// Latents put on others.
pub const LATENT_COMPOSITE: Node = Node {
    class: "LatentComposite",
    title: "Latent Composite",
    category: "model/latent",
    about: "Puts latents on others at a place, with edges that fade if asked.",
    inputs: &[
        Input::link("samples_to", Type::Latent).tooltip("The latents below."),
        Input::link("samples_from", Type::Latent).tooltip("The latents that are put on them."),
        Input::int("x", 0, 0, MAX_SIDE).step(8).tooltip("Pixels from the left."),
        Input::int("y", 0, 0, MAX_SIDE).step(8).tooltip("Pixels from the top."),
        Input::int("feather", 0, 0, MAX_SIDE)
            .step(8)
            .tooltip("Pixels over which edges inside the picture fade."),
    ],
    outputs: &[Output::new(Type::Latent).tooltip("Both latents in one.")],
    forecast: Some(|ahead| Ok(same(ahead, "samples_to"))),
    run: |_, inputs| {
        let (below, above) = (inputs.latent("samples_to")?, inputs.latent("samples_from")?);
        let [x, y, feather] = ["x", "y", "feather"].map(|name| inputs.count(name).map(|n| n / 8));
        let samples = composite(below.samples.clone(), above.samples, [y?, x?], feather?)?;
        Ok(vec![Value::Latent(below.with_samples(samples))])
    },
    ..Node::EMPTY
};

/// `above` on `below` at `[y, x]`, cut where it reaches out.
fn composite(
    below: Tensor<4>,
    above: Tensor<4>,
    [y, x]: [usize; 2],
    feather: usize,
) -> Result<Tensor<4>, NodeError> {
    let [batch, channels, rows, columns] = below.dims();
    let [own, own_channels, height, width] = above.dims();
    if own_channels != channels || (own != batch && own != 1) {
        return Err(NodeError::input(
            "samples_from",
            format!(
                "{own} latents of {own_channels} channels do not go on {batch} of {channels}: the \
                 channels must be the same, and the number the same or 1"
            ),
        ));
    }
    if y >= rows || x >= columns {
        return Ok(below);
    }
    let (height, width) = (height.min(rows - y), width.min(columns - x));
    let piece = above.narrow(2, 0, height).narrow(3, 0, width);
    let piece = piece.expand([batch, channels, height, width]);
    let place = [0..batch, 0..channels, y..y + height, x..x + width];
    if feather == 0 {
        return Ok(below.slice_assign(place, piece));
    }
    let down = fades(height, feather, [y != 0, y + height < rows]);
    let across = fades(width, feather, [x != 0, x + width < columns]);
    let shares: Vec<f32> =
        down.iter().flat_map(|down| across.iter().map(move |across| down * across)).collect();
    let shares = TensorData::new(shares, [1, 1, height, width]);
    let share = Tensor::<4>::from_data(shares, (&cpu(), DType::F32))
        .expand([batch, channels, height, width]);
    let old = below.clone().slice(place.clone());
    let mixed = piece * share.clone() + old * (share.neg() + 1.0);
    Ok(below.slice_assign(place, mixed))
}

/// How much a line of the upper latent counts, pixel by pixel: less towards the ends that fade.
fn fades(length: usize, feather: usize, [start, end]: [bool; 2]) -> Vec<f32> {
    let share = |from_end: usize, fades: bool| match fades && from_end < feather {
        true => (from_end + 1) as f32 / feather as f32,
        false => 1.0,
    };
    (0..length).map(|place| share(place, start) * share(length - 1 - place, end)).collect()
}
