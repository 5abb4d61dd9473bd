//! Latents as tokens: one for each square of pixels, whose channels are together.

use distorch_runtime::Tensor;

/// Rows and columns of patches that latents of this height and width are cut into.
pub(super) fn grid(height: usize, width: usize, side: usize) -> [usize; 2] {
    [height.div_ceil(side), width.div_ceil(side)]
}

/// `[batch, channels, height, width]` to `[batch, patches, side × side × channels]`, row by row. Sides that are no multiple
/// of a patch's are continued with their own beginning, as in ComfyUI.
pub(super) fn pack(x: Tensor<4>, side: usize) -> Tensor<3> {
    let x = whole(whole(x, 2, side), 3, side);
    let [batch, channels, height, width] = x.dims();
    let [rows, columns] = grid(height, width, side);
    let x = x.reshape([batch, channels, rows, side, columns, side]).permute([0, 2, 4, 3, 5, 1]);
    x.reshape([batch, rows * columns, side * side * channels])
}

/// One dimension, up to a whole number of patches.
fn whole(mut x: Tensor<4>, dim: usize, side: usize) -> Tensor<4> {
    let size = x.dims()[dim];
    while size > 0 && !x.dims()[dim].is_multiple_of(side) {
        let missing = side - x.dims()[dim] % side;
        let beginning = x.clone().narrow(dim, 0, missing.min(size));
        x = Tensor::cat(vec![x, beginning], dim);
    }
    x
}

/// The other way round, without what [`pack`] added.
pub(super) fn unpack(tokens: Tensor<3>, height: usize, width: usize, side: usize) -> Tensor<4> {
    let [batch, _, features] = tokens.dims();
    let [rows, columns] = grid(height, width, side);
    let channels = features / (side * side);
    tokens
        .reshape([batch, rows, columns, side, side, channels])
        .permute([0, 5, 1, 3, 2, 4])
        .reshape([batch, channels, rows * side, columns * side])
        .narrow(2, 0, height)
        .narrow(3, 0, width)
}
