//! Telling a lack of memory from other failures, however deep it lies.

use std::error::Error;

use distorch_models::ModelError;
use distorch_models::conditioning::ConditioningError;
use distorch_runtime::WeightError;
use distorch_runtime::machine::{OutOfMemory, Remedy, Shortage};
use distorch_runtime::offload::LoadError;
use distorch_sampling::sampler::SampleError;

use super::fit::CannotFit;
use super::part::PartError;
use crate::error::PipelineError;

/// Work that came to its end with more memory than its device has.
#[derive(Debug, thiserror::Error)]
#[error("the last layer's result has no place: {0}")]
pub struct Overrun(pub Box<Shortage>);

/// A VAE ran out of memory, which tiles help against.
#[derive(Debug, thiserror::Error)]
#[error("{shortage} to convert the picture at once")]
pub struct TilesHelp {
    /// Which device, what it needs and what it has.
    pub shortage: OutOfMemory,
}

impl PipelineError {
    /// What would help, where memory was what was lacking.
    pub fn remedy(&self) -> Option<Remedy> {
        let Self::Failed(error) = self else { return None };
        if let Some(CannotFit { remedy, .. }) = error.downcast_ref() {
            return Some(remedy.clone());
        }
        if error.is::<TilesHelp>() {
            return Some(Remedy::Tiles);
        }
        shortage_in(self).map(|shortage| shortage.remedy.clone())
    }
}

/// The shortage behind a node's failure, if that is what it is.
pub fn shortage_in(error: &PipelineError) -> Option<&Shortage> {
    match error {
        PipelineError::Failed(error) => shortage_behind(&**error),
        PipelineError::Argument { .. } | PipelineError::Cancelled => None,
    }
}

/// Transparent errors do not show what they wrap as their source, so each is asked.
fn shortage_behind<'a>(error: &'a (dyn Error + Send + Sync + 'static)) -> Option<&'a Shortage> {
    fn weight(error: &WeightError) -> Option<&Shortage> {
        match error {
            WeightError::Memory { shortage, .. } => Some(shortage),
            _ => None,
        }
    }
    fn model(error: &ModelError) -> Option<&Shortage> {
        match error {
            ModelError::Weight(error) => weight(error),
            _ => None,
        }
    }
    fn load(error: &LoadError) -> Option<&Shortage> {
        match error {
            LoadError::Memory { shortage, .. } => Some(shortage),
            LoadError::Weight { error, .. } => weight(error),
            _ => None,
        }
    }
    if let Some(PipelineError::Failed(error)) = error.downcast_ref() {
        return shortage_behind(&**error);
    }
    if let Some(SampleError::Model { source, .. }) = error.downcast_ref() {
        return shortage_behind(&**source);
    }
    if let Some(Overrun(shortage)) = error.downcast_ref() {
        return Some(shortage);
    }
    if let Some(ConditioningError::Model(error)) = error.downcast_ref() {
        return model(error);
    }
    if let Some(PartError::Load { error, .. }) = error.downcast_ref() {
        return load(error);
    }
    error
        .downcast_ref()
        .and_then(load)
        .or_else(|| error.downcast_ref().and_then(model))
        .or_else(|| error.downcast_ref().and_then(weight))
}
