//! Self-attention of the encoders' blocks.

use distorch_runtime::{Scope, Tensor};

use crate::ModelError;
use crate::attention::{self, Mask};
use crate::decoder::rotation::HalfRotation;
use crate::layers::Linear;

/// Windows of equally many patches, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub windows: usize,
    pub patches: usize,
}

/// The width of a head, of which half the pairs of features turn by the row and half by the column.
pub(super) fn head_width(width: usize, heads: usize) -> Result<usize, String> {
    match width.checked_div(heads) {
        Some(head) if head > 0 && head * heads == width && head.is_multiple_of(4) => Ok(head),
        _ => Err(format!(
            "a width of {width} does not divide into {heads} heads that turn by rows and columns"
        )),
    }
}

/// Attention whose queries, keys and values are one product.
pub(super) struct Attention {
    heads: usize,
    qkv: Linear,
    proj: Linear,
}

impl Attention {
    pub fn load(scope: &Scope, heads: usize) -> Result<Self, ModelError> {
        let (qkv, proj) = (Linear::load(scope, "qkv")?, Linear::load(scope, "proj")?);
        Ok(Self { heads, qkv, proj })
    }

    /// `[1, patches, width]`; a patch sees those of its window.
    pub fn forward(
        &self,
        h: Tensor<3>,
        rotation: &HalfRotation,
        runs: &[Run],
    ) -> Result<Tensor<3>, ModelError> {
        let [_, count, width] = h.dims();
        let head = width / self.heads.max(1);
        let qkv = self.qkv.tokens_to(h, 3 * width)?;
        let part = |at: usize| qkv.clone().narrow(2, at * width, width);
        let turned = |x: Tensor<3>| {
            let x = rotation.turn(x.reshape([1, count, self.heads, head]));
            x.reshape([1, count, width])
        };
        let (q, k, v) = (turned(part(0)), turned(part(1)), part(2));
        let precision = self.proj.precision();
        let attend = |q, k, v| attention::attention(q, k, v, self.heads, Mask::None, precision);
        let seen = match runs {
            [Run { windows: 1, .. }] => attend(q, k, v),
            runs => {
                let (mut start, mut seen) = (0, Vec::with_capacity(runs.len()));
                for &Run { windows, patches } in runs {
                    let all = windows * patches;
                    let of = |x: &Tensor<3>| {
                        x.clone().narrow(1, start, all).reshape([windows, patches, width])
                    };
                    seen.push(attend(of(&q), of(&k), of(&v)).reshape([1, all, width]));
                    start += all;
                }
                Tensor::cat(seen, 1)
            }
        };
        self.proj.tokens_to(seen, width)
    }
}
