//! Where tokens are: an index, which tells pictures apart, a row and a column. Rows and columns count from a picture's
//! middle, text goes on behind its lower right corner with all three the same.

use crate::network::ReferenceMethod;

/// Index, row and column.
pub(super) type Place = [f64; 3];

/// The places of so many text tokens, of the patches of a latent with this grid, and of those of references with these.
pub(super) fn places(
    words: usize,
    grid: [usize; 2],
    references: &[[usize; 2]],
    method: ReferenceMethod,
) -> Vec<Place> {
    let start = grid[0].max(grid[1]) / 2;
    let mut places: Vec<Place> = (start..start + words).map(|at| [at as f64; 3]).collect();
    push(&mut places, grid, [0; 3]);
    // How far the references so far reach, in patches.
    let [mut bottom, mut right] = [0, 0];
    for (at, &size) in references.iter().enumerate() {
        let first = match method {
            ReferenceMethod::Own | ReferenceMethod::Index | ReferenceMethod::IndexAtZero => {
                [at + 1, 0, 0]
            }
            // ComfyUI knows no third way here.
            ReferenceMethod::Offset | ReferenceMethod::Diagonal => {
                let beside = size[0] + bottom > size[1] + right;
                let first = if beside { [1, 0, right] } else { [1, bottom, 0] };
                bottom = bottom.max(first[1] + size[0]);
                right = right.max(first[2] + size[1]);
                first
            }
        };
        push(&mut places, size, first);
    }
    places
}

/// The places of a grid of patches, from an index and an offset on.
fn push(places: &mut Vec<Place>, [rows, columns]: [usize; 2], [index, top, left]: [usize; 3]) {
    let along = |at: usize, first: usize, length: usize| (first + at) as f64 - (length / 2) as f64;
    places.extend((0..rows).flat_map(|row| {
        (0..columns)
            .map(move |column| [index as f64, along(row, top, rows), along(column, left, columns)])
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After ComfyUI's rules by hand.
    #[test]
    fn pictures_are_centred_and_text_follows() {
        let found = places(2, [3, 2], &[], ReferenceMethod::Own);
        let expected = [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]].into_iter().chain([
            [0.0, -1.0, -1.0],
            [0.0, -1.0, 0.0],
            [0.0, 0.0, -1.0],
            [0.0, 0.0, 0.0],
            [0.0, 1.0, -1.0],
            [0.0, 1.0, 0.0],
        ]);
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    #[test]
    fn references_have_an_index_each_or_lie_beside_each_other() {
        let corners = |method| {
            let found = places(0, [1, 1], &[[4, 2], [2, 2], [1, 5]], method);
            [found[1], found[9], found[13]]
        };
        let index = [[1.0, -2.0, -1.0], [2.0, -1.0, -1.0], [3.0, 0.0, -2.0]];
        assert_eq!(corners(ReferenceMethod::Own), index);
        assert_eq!(corners(ReferenceMethod::Index), index);
        // 2×2 next: 6 rows below, or 4 columns beside: beside. 1×5: 5 rows below, 9 columns beside: below.
        let offset = [[1.0, -2.0, -1.0], [1.0, -1.0, 1.0], [1.0, 4.0, -2.0]];
        assert_eq!(corners(ReferenceMethod::Offset), offset);
    }
}
