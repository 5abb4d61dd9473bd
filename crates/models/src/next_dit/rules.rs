//! What the models do that their sizes do not say, as their published configurations have it.

use distorch_checkpoint::config::NextDitKind;

/// What one of the models does.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Its name in errors.
    pub model: &'static str,
    /// What the time, from 0 (noise) to 1 (clean), is multiplied with before it is embedded.
    pub time_factor: f64,
    /// The layer of a block that makes scales and gates of the time.
    pub modulation: &'static str,
    /// Whether SiLU is before it.
    pub activates_time: bool,
    /// Tokens of picture and of text come in multiples of this, with learned ones behind where it is more than 1.
    pub multiple: usize,
    /// The longest period of the rotation.
    pub theta: f64,
    /// The part of a head that rows turn, and columns; the index turns the rest.
    pub place: (usize, usize),
}

/// The model's name in errors.
pub(crate) const fn name(kind: NextDitKind) -> &'static str {
    rules(kind).model
}

pub(super) const fn rules(kind: NextDitKind) -> Rules {
    match kind {
        NextDitKind::Lumina2 => Rules {
            model: "Lumina 2 transformer",
            time_factor: 1.0,
            modulation: "adaLN_modulation.1",
            activates_time: true,
            multiple: 1,
            theta: 10_000.0,
            place: (1, 3),
        },
        NextDitKind::ZImage => Rules {
            model: "Z-Image transformer",
            time_factor: 1000.0,
            modulation: "adaLN_modulation.0",
            activates_time: false,
            multiple: 32,
            theta: 256.0,
            place: (3, 8),
        },
    }
}
