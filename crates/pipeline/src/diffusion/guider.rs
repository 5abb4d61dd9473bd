//! A model with what it is to follow.

use crate::diffusion::conditioning::Conditioning;
use crate::models::Model;

/// A model with what it is to follow.
#[derive(Clone, Debug)]
pub struct Guider {
    /// The model.
    pub model: Model,
    /// What to follow.
    pub positive: Conditioning,
    /// What to keep away from; without it there is no guidance.
    pub negative: Option<Conditioning>,
    /// How far to go from the negative guess towards the positive one and past it.
    pub cfg: f64,
}

impl Guider {
    /// A model that follows one conditioning as it is.
    pub fn basic(model: Model, positive: Conditioning) -> Self {
        Self { model, positive, negative: None, cfg: 1.0 }
    }

    /// Classifier-free guidance.
    pub fn cfg(model: Model, positive: Conditioning, negative: Conditioning, cfg: f64) -> Self {
        Self { model, positive, negative: Some(negative), cfg }
    }
}
