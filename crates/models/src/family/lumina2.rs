//! Lumina-Image 2.0: a transformer with Gemma 2 2B and Flux's autoencoder.

use distorch_checkpoint::config::NextDitKind;
use distorch_checkpoint::family::TextEncoder;
use distorch_runtime::Scope;

use super::next_dit::{Model, NextDitFamily};
use crate::conditioning::ConditioningError;
use crate::lumina2::text::Lumina2Text;
use crate::text::TextConditioner;

/// The family.
pub(super) const LUMINA2: NextDitFamily<Lumina2> = NextDitFamily(Lumina2);

pub(super) struct Lumina2;

impl Model for Lumina2 {
    const KIND: NextDitKind = NextDitKind::Lumina2;
    const ENCODERS: &'static [&'static str] = &["gemma2"];
    const SHIFT: f64 = 6.0;

    fn text(
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(Lumina2Text::load(scope, encoders)?))
    }
}
