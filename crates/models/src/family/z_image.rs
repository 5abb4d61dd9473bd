//! Z-Image, turbo and base: a transformer with Qwen3-4B and Flux's autoencoder.

use distorch_checkpoint::config::NextDitKind;
use distorch_checkpoint::family::TextEncoder;
use distorch_runtime::Scope;

use super::next_dit::{Model, NextDitFamily};
use crate::conditioning::ConditioningError;
use crate::text::TextConditioner;
use crate::z_image::text::ZImageText;

/// The family.
pub(super) const Z_IMAGE: NextDitFamily<ZImage> = NextDitFamily(ZImage);

pub(super) struct ZImage;

impl Model for ZImage {
    const KIND: NextDitKind = NextDitKind::ZImage;
    const ENCODERS: &'static [&'static str] = &["qwen3"];
    const SHIFT: f64 = 3.0;

    fn text(
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(ZImageText::load(scope, encoders)?))
    }
}
