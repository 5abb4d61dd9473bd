//! Whether what a model is told fits it, asked before its weights are loaded.

use crate::diffusion::conditioning::{Cond, Conditioning};
use crate::diffusion::guider::Guider;
use crate::error::{Argument, PipelineError};
use crate::models::Model;

/// The text encoders of these families give so many values for each token.
const WIDTHS: [(usize, &str); 5] = [
    (768, "SD 1.x"),
    (1024, "SD 2.x"),
    (2048, "SDXL"),
    (1280, "the SDXL refiner"),
    (4096, "SD3 or Flux"),
];

/// Checks the conditionings of a run on a latent of these sides (height, width).
///
/// # Errors
/// A conditioning of another family's text encoders, or an area outside the picture.
pub fn check(guider: &Guider, sides: [usize; 2]) -> Result<(), PipelineError> {
    let halves = [
        (Argument::Positive, Some(&guider.positive)),
        (Argument::Negative, guider.negative.as_ref()),
    ];
    for (input, conditioning) in halves {
        // Nobody asks for the negative one at a scale of 1.
        if input == Argument::Negative && guider.cfg == 1.0 {
            continue;
        }
        for cond in conditioning.map_or(&[][..], Conditioning::conds) {
            fits(&guider.model, cond).map_err(|problem| PipelineError::argument(input, problem))?;
            inside(cond, sides, guider.model.latent_format().downscale)
                .map_err(|problem| PipelineError::argument(input, problem))?;
        }
    }
    Ok(())
}

fn fits(model: &Model, cond: &Cond) -> Result<(), String> {
    let reads = model.reads();
    let [_, tokens, width] = cond.context.dims();
    let (name, label) = (model.name(), model.diffusion().label());
    if tokens == 0 {
        return Err("the conditioning has no tokens: encode a prompt".to_owned());
    }
    let wanted = reads.context_width;
    if width != wanted {
        return Err(format!(
            "the conditioning was made by {} ({width} values a token), but `{name}` is {label}, which \
             reads {wanted}: encode the prompt with its own text encoders, or those of a checkpoint of its \
             family",
            encoders_of(width),
        ));
    }
    match (reads.pooled_width, &cond.pooled) {
        (Some(wanted), Some(pooled)) if pooled.dims()[1] != wanted => Err(format!(
            "the conditioning's pooled output has {} values, but `{name}` is {label}, which reads \
             {wanted}: encode the prompt with the text encoders of a checkpoint of its family",
            pooled.dims()[1],
        )),
        _ => Ok(()),
    }
}

fn encoders_of(width: usize) -> String {
    match WIDTHS.iter().find(|(known, _)| *known == width) {
        Some((_, family)) => format!("the text encoders of {family}"),
        None => "other text encoders".to_owned(),
    }
}

/// An area outside the latent has nothing to count for.
fn inside(cond: &Cond, [rows, columns]: [usize; 2], downscale: usize) -> Result<(), String> {
    let by_mask = cond.mask.as_ref().is_some_and(|mask| mask.to_bounds);
    let Some(place) = cond.area.filter(|_| !by_mask) else { return Ok(()) };
    let area = place.area(rows, columns);
    if area.y < rows && area.x < columns {
        return Ok(());
    }
    let pixels = |length: usize| length.saturating_mul(downscale);
    let (x, y) = (pixels(area.x), pixels(area.y));
    Err(format!(
        "the conditioning's area begins at x {x}, y {y}, outside the picture of {}×{} pixels: \
         move it inside",
        pixels(columns),
        pixels(rows),
    ))
}
