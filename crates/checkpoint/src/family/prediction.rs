//! What a diffusion model's output means: markers, metadata and, for SD 2.x, the weights.

use super::inventory::Inventory;
use super::model::{Family, Variant};
use crate::config::Prediction;

/// Shifts of a late normalisation that spread wider than this tell SD 2.x with v-prediction (768)
/// from the one that predicts the noise (512). Shapes tell nothing: they are the same.
const V_PREDICTION_SPREAD: f64 = 0.09;
const SPREAD_KEY: &str = "output_blocks.11.1.transformer_blocks.0.norm1.bias";

/// What was found out.
pub(super) struct Found {
    pub prediction: Prediction,
    pub zero_terminal_snr: bool,
    pub note: Option<String>,
}

/// Tells the prediction of a model whose tensors are under `prefix`.
pub(super) fn tell(
    inventory: &Inventory<'_>,
    prefix: &str,
    family: Family,
    variant: Variant,
) -> Found {
    let flow = family.is_flow();
    let marked = inventory.has("v_pred").then_some(Prediction::V);
    let (prediction, note) = if flow {
        (Prediction::Flow, None)
    } else if let Some(told) = marked.or_else(|| from_metadata(inventory)) {
        (told, None)
    } else if family == Family::Sd2 && variant == Variant::Base {
        from_weights(inventory, &format!("{prefix}{SPREAD_KEY}"))
    } else {
        (Prediction::Epsilon, None)
    };
    let zero_terminal_snr =
        !flow && (inventory.has("ztsnr") || is_true(inventory, "ss_zero_terminal_snr"));
    Found { prediction, zero_terminal_snr, note }
}

/// The entries of <https://github.com/Stability-AI/ModelSpec> and of kohya's trainers.
fn from_metadata(inventory: &Inventory<'_>) -> Option<Prediction> {
    let named = inventory.metadata("modelspec.prediction_type").and_then(from_name);
    let architecture = || match inventory.metadata("modelspec.architecture")? {
        "stable-diffusion-v2-768-v" => Some(Prediction::V),
        "stable-diffusion-v2-512" => Some(Prediction::Epsilon),
        _ => None,
    };
    let trained = || is_true(inventory, "ss_v_parameterization").then_some(Prediction::V);
    named.or_else(architecture).or_else(trained)
}

fn from_name(name: &str) -> Option<Prediction> {
    match name.trim().to_ascii_lowercase().replace(['-', ' '], "_").as_str() {
        "v" | "v_pred" | "vpred" | "v_prediction" | "velocity" => Some(Prediction::V),
        "epsilon" | "eps" | "noise" => Some(Prediction::Epsilon),
        "sample" | "x0" => Some(Prediction::X0),
        _ => None,
    }
}

fn is_true(inventory: &Inventory<'_>, name: &str) -> bool {
    inventory.metadata(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn from_weights(inventory: &Inventory<'_>, key: &str) -> (Prediction, Option<String>) {
    match inventory.values(key).as_deref().and_then(standard_deviation) {
        Some(spread) if spread > V_PREDICTION_SPREAD => (Prediction::V, None),
        Some(_) => (Prediction::Epsilon, None),
        None => {
            let note = format!(
                "whether this SD 2.x predicts the noise or v is told by the values of `{key}`, \
                 which are not there: taken to predict the noise"
            );
            (Prediction::Epsilon, Some(note))
        }
    }
}

fn standard_deviation(values: &[f32]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    variance.is_finite().then(|| variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_deviation_is_that_of_the_population() {
        assert_eq!(standard_deviation(&[1.0, 3.0]), Some(1.0));
        assert_eq!(standard_deviation(&[]), None);
        assert_eq!(standard_deviation(&[f32::NAN, 1.0]), None);
    }
}
