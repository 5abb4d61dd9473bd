//! Latents as tokens: one for each 2×2 pixels.

use distorch_runtime::Tensor;

/// Latent pixels of a patch, along a side.
pub(super) const SIDE: usize = 2;

/// Latent pixels of a patch.
pub(crate) const AREA: usize = SIDE * SIDE;

/// Rows and columns of patches that latents of this height and width are cut into.
pub(crate) fn grid(height: usize, width: usize) -> [usize; 2] {
    [height.div_ceil(SIDE), width.div_ceil(SIDE)]
}

/// `[batch, channels, height, width]` to `[batch, patches, channels × 4]`, row by row; a patch has its first channel's
/// pixels first. An odd side goes on with its first row or column, as in ComfyUI.
pub(crate) fn pack(x: Tensor<4>) -> Tensor<3> {
    let x = even(even(x, 2), 3);
    let [batch, channels, height, width] = x.dims();
    let [rows, columns] = grid(height, width);
    x.reshape([batch, channels, rows, SIDE, columns, SIDE]).permute([0, 2, 4, 1, 3, 5]).reshape([
        batch,
        rows * columns,
        channels * AREA,
    ])
}

fn even(x: Tensor<4>, side: usize) -> Tensor<4> {
    if x.dims()[side].is_multiple_of(SIDE) {
        return x;
    }
    let first = x.clone().narrow(side, 0, 1);
    Tensor::cat(vec![x, first], side)
}

/// The other way round, without what [`pack`] added.
pub(crate) fn unpack(tokens: Tensor<3>, height: usize, width: usize) -> Tensor<4> {
    let [batch, _, features] = tokens.dims();
    let [rows, columns] = grid(height, width);
    let channels = features / AREA;
    tokens
        .reshape([batch, rows, columns, channels, SIDE, SIDE])
        .permute([0, 3, 1, 4, 2, 5])
        .reshape([batch, channels, rows * SIDE, columns * SIDE])
        .narrow(2, 0, height)
        .narrow(3, 0, width)
}

#[cfg(test)]
mod tests {
    use distorch_runtime::tensor::{TensorData, cpu};

    use super::*;

    /// Channels 0 and 1 of 3×3 pixels, numbered.
    #[test]
    fn odd_sides_go_on_with_their_first_pixels() {
        let numbers: Vec<f32> = (0..18_u8).map(f32::from).collect();
        let x = Tensor::<4>::from_data(TensorData::new(numbers.clone(), [1, 2, 3, 3]), &cpu());
        let tokens = pack(x);
        assert_eq!(tokens.dims(), [1, 4, 8]);
        let expected = [
            [0, 1, 3, 4, 9, 10, 12, 13],
            [2, 0, 5, 3, 11, 9, 14, 12],
            [6, 7, 0, 1, 15, 16, 9, 10],
            [8, 6, 2, 0, 17, 15, 11, 9],
        ];
        let expected: Vec<f32> = expected.into_iter().flatten().map(|n: u8| f32::from(n)).collect();
        assert_eq!(tokens.clone().into_data().to_vec::<f32>().unwrap(), expected);
        assert_eq!(unpack(tokens, 3, 3).into_data().to_vec::<f32>().unwrap(), numbers);
    }
}
