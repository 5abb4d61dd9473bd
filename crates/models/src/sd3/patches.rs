//! A latent as patches with their positions, and back.

use distorch_checkpoint::config::MmditConfig;
use distorch_runtime::{LayerHandle, Scope, Tensor};

use super::MODEL;
use crate::ModelError;
use crate::layers::Linear;

/// What makes tokens of a latent's patches.
pub(super) struct Patches {
    /// A convolution with a stride of its kernel's size: a linear map of each patch.
    proj: Linear,
    positions: LayerHandle,
    width: usize,
    /// Latent pixels of a patch, along a side.
    side: usize,
    /// Patches of the table, along a side.
    table: usize,
}

impl Patches {
    pub fn load(scope: &Scope, config: &MmditConfig) -> Result<Self, ModelError> {
        Ok(Self {
            proj: Linear::load(scope, "x_embedder.proj")?,
            positions: scope.layer("pos_embed")?,
            width: config.width,
            side: config.patch_size,
            table: config.pos_embed_max_size,
        })
    }

    /// `[batch, channels, height, width]` to `[batch, patches, width of the model]`, row by row. Sides that are no
    /// multiple of a patch's are continued with their own beginning.
    pub fn embed(&self, x: Tensor<4>) -> Result<Tensor<3>, ModelError> {
        let x = self.filled(self.filled(x, 2), 3);
        let [batch, channels, height, width] = x.dims();
        let (rows, columns, side) = (height / self.side, width / self.side, self.side);
        if rows > self.table || columns > self.table {
            let most = self.table * side;
            return Err(ModelError::Input {
                model: MODEL,
                input: "latent",
                expected: format!("at most {most}×{most} pixels, which have positions"),
                found: format!("{height}×{width}"),
            });
        }
        let x = x.reshape([batch, channels, rows, side, columns, side]);
        let x = x.permute([0, 2, 4, 1, 3, 5]);
        let x = x.reshape([batch, rows * columns, channels * side * side]);
        let x = self.proj.tokens_to(x, self.width)?;
        let positions = self.positions(rows, columns)?;
        Ok(x.clone() + positions.cast(x.dtype()))
    }

    /// One dimension, up to a whole number of patches.
    fn filled(&self, mut x: Tensor<4>, dim: usize) -> Tensor<4> {
        let size = x.dims()[dim];
        while !x.dims()[dim].is_multiple_of(self.side) {
            let missing = self.side - x.dims()[dim] % self.side;
            let beginning = x.clone().narrow(dim, 0, missing.min(size));
            x = Tensor::cat(vec![x, beginning], dim);
        }
        x
    }

    /// The middle of the table, `[1, rows × columns, width]`.
    fn positions(&self, rows: usize, columns: usize) -> Result<Tensor<3>, ModelError> {
        let params = self.positions.fetch()?;
        let table: Tensor<3> = params.get("pos_embed")?;
        let (side, width) = (self.table, self.width);
        let expected = [1, side * side, width];
        if table.dims() != expected {
            return Err(ModelError::Layer {
                layer: params.layer().to_owned(),
                expected: format!("the positions {expected:?}"),
                found: format!("{:?}", table.dims()),
            });
        }
        let middle = table.reshape([side, side, width]).narrow(0, (side - rows) / 2, rows).narrow(
            1,
            (side - columns) / 2,
            columns,
        );
        Ok(middle.reshape([1, rows * columns, width]))
    }

    /// Features of a token that becomes a patch of so many channels.
    pub fn features(&self, channels: usize) -> usize {
        self.side * self.side * channels
    }

    /// `[batch, patches, side × side × channels]` to the `[batch, channels, height, width]` that they cover.
    pub fn picture(&self, x: Tensor<3>, height: usize, width: usize) -> Tensor<4> {
        let [batch, _, features] = x.dims();
        let side = self.side;
        let channels = features / (side * side);
        let (rows, columns) = (height.div_ceil(side), width.div_ceil(side));
        let x = x.reshape([batch, rows, columns, side, side, channels]);
        let x = x.permute([0, 5, 1, 3, 2, 4]);
        let x = x.reshape([batch, channels, rows * side, columns * side]);
        x.narrow(2, 0, height).narrow(3, 0, width)
    }
}
