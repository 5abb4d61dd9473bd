//! Texts with pictures in them, as a language model reads them: tokens with their places.

use distorch_runtime::Tensor;

use super::rotation::Place;
use crate::ModelError;
use crate::prompt::token::Token;
use crate::token_table::TokenTable;
use crate::vision::EncodedPicture;

/// A part of a text.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Tokens.
    Words(Vec<Token>),
    /// A picture in the place of tokens.
    Picture(EncodedPicture),
}

/// Tokens' vectors and places.
pub(super) struct Embedded {
    /// `[texts, tokens, width]` in f32.
    pub vectors: Tensor<3>,
    /// Those of a text's tokens.
    pub places: Vec<Place>,
    /// What is added behind the first layers, from a token on.
    pub added: Vec<(usize, Vec<Tensor<3>>)>,
}

impl Embedded {
    /// Of texts of equally many tokens.
    pub fn of_texts(table: &TokenTable, texts: &[Vec<Token>]) -> Result<Self, ModelError> {
        let vectors = table.forward(texts)?;
        let places = (0..vectors.dims()[1]).map(|at| [at; 3]).collect();
        Ok(Self { vectors, places, added: Vec::new() })
    }

    /// Of one text with pictures. A picture's tokens have one time, and rows and columns from there on; the text goes on
    /// behind the longer of its sides.
    pub fn of_pieces(table: &TokenTable, pieces: Vec<Piece>) -> Result<Self, ModelError> {
        let words = |piece: &Piece| match piece {
            Piece::Words(tokens) => tokens.clone(),
            Piece::Picture(_) => Vec::new(),
        };
        let words = table.forward(&[pieces.iter().flat_map(words).collect()])?;
        let (width, mut taken, mut next) = (words.dims()[2], 0, 0);
        let (mut parts, mut places, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Words(tokens) => {
                    if !tokens.is_empty() {
                        parts.push(words.clone().narrow(1, taken, tokens.len()));
                    }
                    places.extend((next..next + tokens.len()).map(|at| [at; 3]));
                    (taken, next) = (taken + tokens.len(), next + tokens.len());
                }
                Piece::Picture(picture) => {
                    let [rows, columns] = picture.grid;
                    let expected = [1, rows * columns, width];
                    let found = picture.states.dims();
                    let all = std::iter::once(found).chain(picture.added.iter().map(Tensor::dims));
                    for found in all {
                        ModelError::expect(table.model(), "picture", &expected, &found)?;
                    }
                    if !picture.added.is_empty() {
                        added.push((places.len(), picture.added));
                    }
                    let cells = (0..rows).flat_map(|row| (0..columns).map(move |at| (row, at)));
                    places.extend(cells.map(|(row, at)| [next, next + row, next + at]));
                    next += rows.max(columns);
                    parts.push(picture.states);
                }
            }
        }
        table.check_length(places.len())?;
        Ok(Self { vectors: Tensor::cat(parts, 1), places, added })
    }
}
