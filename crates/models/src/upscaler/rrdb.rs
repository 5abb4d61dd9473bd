//! ESRGAN: residual-in-residual dense blocks, then doublings of the sides.

use distorch_checkpoint::config::RrdbConfig;
use distorch_runtime::{Scope, Tensor, kernels};

use super::{Network, leaky, unshuffle};
use crate::ModelError;
use crate::layers::Conv2d;
use crate::unet::nearest;

/// The slope below 0 of every rectifier.
const SLOPE: f64 = 0.2;

/// How much of a block's result is added to what it was given.
const SHARE: f64 = 0.2;

/// Dense blocks of a residual block.
const DENSE: usize = 3;

pub(super) struct Rrdb {
    config: RrdbConfig,
    first: Conv2d,
    blocks: Vec<Vec<Dense>>,
    body: Conv2d,
    doublings: Vec<Conv2d>,
    high: Conv2d,
    last: Conv2d,
}

impl Rrdb {
    pub fn load(scope: &Scope, config: &RrdbConfig) -> Result<Self, ModelError> {
        let conv = |name: &str| Conv2d::load(scope, name, 1, 1);
        let blocks = scope.at("body");
        let block = |place: usize| {
            let block = blocks.at(place);
            (1..=DENSE)
                .map(|place| Dense::load(&block.at(format!("rdb{place}")), config.plus))
                .collect::<Result<Vec<_>, ModelError>>()
        };
        Ok(Self {
            first: conv("conv_first")?,
            blocks: (0..config.blocks).map(block).collect::<Result<_, _>>()?,
            body: conv("conv_body")?,
            doublings: (1..=config.doublings)
                .map(|place| conv(&format!("conv_up{place}")))
                .collect::<Result<_, _>>()?,
            high: conv("conv_hr")?,
            last: conv("conv_last")?,
            config: config.clone(),
        })
    }
}

impl Network for Rrdb {
    fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let [_, _, height, width] = x.dims();
        let side = self.config.unshuffled;
        let x = match side {
            1 => x,
            side => unshuffle(mirrored(x, side), side),
        };
        let first = self.first.forward(x)?;
        let mut h = first.clone();
        for block in &self.blocks {
            let before = h.clone();
            for dense in block {
                h = dense.forward(h)?;
            }
            h = h * SHARE + before;
        }
        let mut h = self.body.forward(h)? + first;
        for doubling in &self.doublings {
            let [_, _, rows, columns] = h.dims();
            h = leaky(doubling.forward(nearest(h, [2 * rows, 2 * columns]))?, SLOPE);
        }
        let h = leaky(self.high.forward(h)?, SLOPE);
        let made = self.last.forward(h)?;
        let scale = self.config.scale();
        Ok(match side {
            1 => made,
            _ => made.narrow(2, 0, height * scale).narrow(3, 0, width * scale),
        })
    }
}

/// The picture with rows and columns from before its lower and right edges mirrored there, up to a multiple of
/// `multiple`. A side of one pixel has none before and is repeated.
fn mirrored(x: Tensor<4>, multiple: usize) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let along = |x: Tensor<4>, dim: usize, length: usize| {
        let missing = length.next_multiple_of(multiple) - length;
        let mut parts = vec![x.clone()];
        for place in 1..=missing {
            let from = (length - 1).saturating_sub(place);
            parts.push(x.clone().narrow(dim, from, 1));
        }
        if missing == 0 { x } else { Tensor::cat(parts, dim) }
    };
    along(along(x, 2, height), 3, width)
}

/// Convolutions, each of which sees what all before it made.
struct Dense {
    convolutions: [Conv2d; 4],
    last: Conv2d,
    /// ESRGAN+'s path beside the second.
    plus: Option<Conv2d>,
}

impl Dense {
    fn load(scope: &Scope, plus: bool) -> Result<Self, ModelError> {
        let conv = |name: &str| Conv2d::load(scope, name, 1, 1);
        Ok(Self {
            convolutions: [conv("conv1")?, conv("conv2")?, conv("conv3")?, conv("conv4")?],
            last: conv("conv5")?,
            plus: match plus {
                true => Some(Conv2d::load(scope, "conv1x1", 1, 0)?),
                false => None,
            },
        })
    }

    fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let mut seen = vec![x.clone()];
        let mut second: Option<Tensor<4>> = None;
        for (place, conv) in self.convolutions.iter().enumerate() {
            let mut made = leaky(conv.forward(kernels::join_channels(seen.clone()))?, SLOPE);
            if let (1, Some(plus)) = (place, &self.plus) {
                made = made + plus.forward(x.clone())?;
                second = Some(made.clone());
            }
            if let (3, Some(second)) = (place, &second) {
                made = made + second.clone();
            }
            seen.push(made);
        }
        Ok(self.last.forward(kernels::join_channels(seen))? * SHARE + x)
    }
}
