//! Where tokens are, as angles by which queries and keys turn (Su et al., <https://arxiv.org/abs/2104.09864>).
//!
//! A token has three ids: an index, which tells pictures apart, a row and a column. Text is at 0, 0, 0. Each id turns a
//! part of a head's features: of the published 128, the index 16, the row 56 and the column 56.

use distorch_runtime::kernels::Rotation;

use super::patches::{SIDE, grid};
use crate::ModelError;
use crate::network::ReferenceMethod;
use crate::rope;

/// The longest period.
const THETA: f64 = 10_000.0;

/// Index, row and column.
type Ids = [usize; 3];

/// Features of a head that each id turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axes([usize; 3]);

impl Axes {
    /// Those of a head with so many features. Row and column have 7/16 of them each, in whole pairs, and the index has
    /// the rest: 16, 56, 56 of the published 128. Files do not say it, and all published models have that width.
    ///
    /// # Errors
    /// When a head's features are no pairs.
    pub(crate) fn of(features: usize) -> Result<Self, ModelError> {
        if features < 2 || !features.is_multiple_of(2) {
            let reason = format!("heads of {features} features cannot turn in pairs");
            return Err(ModelError::Config { model: "Flux transformer", reason });
        }
        let place = 2 * (7 * features / 32);
        Ok(Self([features - 2 * place, place, place]))
    }

    /// As many of index, row and column.
    pub(crate) fn features(self) -> [usize; 3] {
        self.0
    }

    /// The angles of all tokens, `features / 2` each.
    pub(crate) fn rotation(self, ids: &[Ids]) -> Rotation {
        rope::rotation(self.0, THETA, ids)
    }
}

/// The ids of so many text tokens, of the patches of a latent of this height and width, and of those of the
/// references.
pub(crate) fn ids(
    text: usize,
    [height, width]: [usize; 2],
    references: &[[usize; 2]],
    method: ReferenceMethod,
) -> Vec<Ids> {
    let mut ids = vec![[0; 3]; text];
    push(&mut ids, [height, width], [0; 3]);
    // How far the references so far reach, in latent pixels.
    let [mut bottom, mut right] = [0, 0];
    for (at, &size) in references.iter().enumerate() {
        let first = match method {
            ReferenceMethod::Own | ReferenceMethod::Offset => {
                // Below those before, or to their right where that makes less of a strip.
                let beside = size[0] + bottom > size[1] + right;
                let first = if beside { [1, 0, right] } else { [1, bottom, 0] };
                bottom = bottom.max(first[1] + size[0]);
                right = right.max(first[2] + size[1]);
                first
            }
            ReferenceMethod::Index | ReferenceMethod::IndexAtZero => [at + 1, 0, 0],
            ReferenceMethod::Diagonal => {
                let [rows, columns] = grid(height, width);
                let first = [0, rows * SIDE + bottom, columns * SIDE + right];
                bottom += size[0];
                right += size[1];
                first
            }
        };
        push(&mut ids, size, first);
    }
    ids
}

/// The ids of a latent's patches, from an index and the latent pixel at their corner on.
fn push(ids: &mut Vec<Ids>, [height, width]: [usize; 2], [index, top, left]: Ids) {
    let [rows, columns] = grid(height, width);
    let [top, left] = grid(top, left);
    ids.extend(
        (0..rows).flat_map(|row| (0..columns).map(move |column| [index, top + row, left + column])),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_the_published_width_turn_16_56_56() {
        assert_eq!(Axes::of(128).unwrap(), Axes([16, 56, 56]));
        assert_eq!(Axes::of(64).unwrap(), Axes([8, 28, 28]));
        assert_eq!(Axes::of(16).unwrap(), Axes([4, 6, 6]));
        assert_eq!(Axes::of(2).unwrap(), Axes([2, 0, 0]));
        assert!(Axes::of(0).is_err() && Axes::of(33).is_err());
    }

    #[test]
    fn text_is_at_the_origin_and_patches_count_rows_and_columns() {
        let found = ids(2, [3, 4], &[], ReferenceMethod::Offset);
        let expected = [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]];
        assert_eq!(found, expected);
    }

    /// The corners of references, after ComfyUI's rules by hand.
    #[test]
    fn references_lie_beside_each_other() {
        let corners = |method, references: &[[usize; 2]]| {
            let ids = ids(0, [6, 4], references, method);
            let mut rest = ids.as_slice();
            rest = &rest[6..];
            references
                .iter()
                .map(|size| {
                    let [rows, columns] = grid(size[0], size[1]);
                    let (of, behind) = rest.split_at(rows * columns);
                    rest = behind;
                    assert_eq!(
                        of[of.len() - 1],
                        [of[0][0], of[0][1] + rows - 1, of[0][2] + columns - 1]
                    );
                    of[0]
                })
                .collect::<Vec<_>>()
        };
        // 8×4 at the corner. 4×4 next: 12 rows below, or 8 columns beside it: beside. 2×10: 10 rows below, 18 columns
        // beside: below.
        let references = [[8, 4], [4, 4], [2, 10]];
        let offset = corners(ReferenceMethod::Offset, &references);
        assert_eq!(offset, [[1, 0, 0], [1, 0, 2], [1, 4, 0]]);
        let index = corners(ReferenceMethod::Index, &references);
        assert_eq!(index, [[1, 0, 0], [2, 0, 0], [3, 0, 0]]);
        let diagonal = corners(ReferenceMethod::Diagonal, &references);
        assert_eq!(diagonal, [[0, 3, 2], [0, 7, 4], [0, 9, 6]]);
        // Odd sides: offsets are rounded up to whole patches.
        let odd = corners(ReferenceMethod::Offset, &[[5, 9], [5, 5]]);
        assert_eq!(odd, [[1, 0, 0], [1, 3, 0]]);
        assert_eq!(corners(ReferenceMethod::Diagonal, &[[5, 3], [2, 2]])[1], [0, 6, 4]);
    }
}
