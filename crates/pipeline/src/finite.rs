//! NaN and infinity: which component gave them, and what to do.
//!
//! A picture with such values is saved as black, which tells nobody anything. So what a model gives is
//! looked at, and the run ends with the component's name and a remedy, or, where the environment allows
//! NaN, goes on with a warning.

use std::fmt;

use distorch_checkpoint::decode::to_f32;
use distorch_runtime::Tensor;
use distorch_runtime::tensor::{DType, cpu};
use thiserror::Error;

use crate::error::PipelineError;
use crate::models::part::{Part, in_words};
use crate::run::Run;

/// Bytes of a weight that are looked at together.
const CHUNK: u64 = 16 << 20;

/// A value that is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// Not a number: 0/0, or what came of another NaN.
    Nan,
    /// Larger than the dtype's largest number.
    Infinity,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Odd::Nan => "NaN",
            Odd::Infinity => "infinity",
        })
    }
}

/// Something gave values that are no numbers.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{found}, and no picture can be made of that: {remedy}; `--allow-nan` goes on regardless")]
pub struct NotFinite {
    /// What gave what where: `the VAE of sdxl.safetensors gave NaN`.
    pub found: String,
    /// What to do.
    pub remedy: String,
}

/// The first value of a list that is no number.
pub fn odd(values: &[f32]) -> Option<Odd> {
    // A sum of zeros is 0 where all are finite, and needs no branch for each.
    let zero = |part: &[f32]| part.iter().map(|value| value * 0.0).sum::<f32>() == 0.0;
    let part = values.chunks(1024).find(|part| !zero(part))?;
    let odd = part.iter().find(|value| !value.is_finite())?;
    Some(if odd.is_nan() { Odd::Nan } else { Odd::Infinity })
}

/// The first value of a tensor that is no number. Reads it from its device.
pub fn odd_in<const D: usize>(tensor: &Tensor<D>) -> Option<Odd> {
    let data = tensor.clone().cast(DType::F32).to_device(&cpu()).into_data();
    data.as_slice().ok().and_then(odd)
}

/// Ends the work where something is not finite, or warns of it where that is allowed.
///
/// # Errors
/// What [`NotFinite`] says, unless the environment allows NaN.
pub fn refuse(run: &Run<'_>, found: NotFinite) -> Result<(), PipelineError> {
    if run.session().allow_nan {
        run.warn(&format!("{}: {}", found.found, found.remedy));
        return Ok(());
    }
    Err(PipelineError::failed(found))
}

/// What a part of a model gave, where that is not finite; `place` says when: `at step 3 of 20`.
pub fn given_by(part: &Part, odd: Odd, place: &str) -> NotFinite {
    let (kind, file) = (in_words(part.kind()), &part.file().name);
    NotFinite { found: format!("the {kind} of {file} gave {odd} {place}"), remedy: remedy(part) }
}

/// What to do about a part that gives NaN.
fn remedy(part: &Part) -> String {
    if let Some((weight, odd)) = broken_weight(part) {
        return format!(
            "its weight `{weight}` holds {odd}, so the file is broken: get it anew, or take another"
        );
    }
    match part.dtype() {
        DType::F16 => {
            "f16 has too little range for it: compute in another dtype (`--dtype bf16` or \
                       `--dtype f32`), or a VAE by another file (VAELoader)"
        }
        DType::BF16 => "compute in another dtype (`--dtype f32`), or take less strength for LoRAs",
        _ => "take less strength for LoRAs and patches, or another file",
    }
    .to_owned()
}

/// The first weight of a part, as the file has it, that holds values that are no numbers.
fn broken_weight(part: &Part) -> Option<(String, Odd)> {
    let component = part.component().ok()?;
    let params = component.layers.iter().flat_map(|layer| &layer.params);
    params.filter(|param| param.dtype.is_float()).find_map(|param| {
        let checkpoint = &part.file().checkpoint;
        // The whole tensor, where a file has several layers in one.
        let (bytes, mut start) = (checkpoint.get(&param.key)?.bytes(), 0);
        while start < bytes {
            let length = usize::try_from(CHUNK.min(bytes - start)).ok()?;
            let piece = checkpoint.read(&param.key, start, length).ok()?;
            if let Some(odd) = odd(&to_f32(&piece, param.dtype)) {
                return Some((param.key.clone(), odd));
            }
            start += CHUNK;
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_found_anywhere() {
        let mut values = vec![1.0_f32; 5000];
        values[17] = f32::MAX;
        values[18] = -f32::MAX;
        assert_eq!(odd(&values), None);
        assert_eq!(odd(&[]), None);
        for place in [0, 1023, 1024, 4999] {
            for (value, expected) in [
                (f32::NAN, Odd::Nan),
                (f32::INFINITY, Odd::Infinity),
                (f32::NEG_INFINITY, Odd::Infinity),
            ] {
                let mut values = values.clone();
                values[place] = value;
                assert_eq!(odd(&values), Some(expected), "{value} at {place}");
            }
        }
    }
}
