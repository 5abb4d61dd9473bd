//! Tokens: what texts are made of for a text encoder.

use std::sync::Arc;

/// One position of a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A row of the token table.
    Id(u32),
    /// A vector in place of a row: one of a textual inversion.
    Vector(Arc<[f32]>),
}

/// A token and how much it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedToken {
    /// The token.
    pub token: Token,
    /// The weight; 1 leaves the encoding as it is.
    pub weight: f64,
}

impl WeightedToken {
    /// A token that counts as it is.
    pub fn plain(id: u32) -> Self {
        Self { token: Token::Id(id), weight: 1.0 }
    }
}
