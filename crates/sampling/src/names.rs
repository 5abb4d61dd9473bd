//! Names that a user chooses from.

use std::fmt;

/// A name that no table has, with those nearest to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    /// What was to be named: `sampler` or `scheduler`.
    pub kind: &'static str,
    /// The name given.
    pub name: String,
    /// The known names that look like it, the nearest first.
    pub near: Vec<&'static str>,
    /// All known names.
    pub known: Vec<&'static str>,
}

impl UnknownName {
    /// How alike two names must be (Jaro–Winkler) for one to be offered for the other.
    const ALIKE: f64 = 0.8;

    pub(crate) fn new(
        kind: &'static str,
        name: &str,
        known: impl Iterator<Item = &'static str>,
    ) -> Self {
        let known: Vec<_> = known.collect();
        let mut alike: Vec<_> = known
            .iter()
            .map(|known| (strsim::jaro_winkler(&name.to_lowercase(), known), *known))
            .filter(|(alike, _)| *alike >= Self::ALIKE)
            .collect();
        alike.sort_by(|a, b| b.0.total_cmp(&a.0));
        let near = alike.into_iter().map(|(_, name)| name).take(3).collect();
        Self { kind, name: name.to_owned(), near, known }
    }
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} is named {:?}; ", self.kind, self.name)?;
        match self.near.as_slice() {
            [] => write!(f, "known: {}", self.known.join(", ")),
            near => write!(f, "near: {}", near.join(", ")),
        }
    }
}

impl std::error::Error for UnknownName {}
