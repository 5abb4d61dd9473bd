//! SPAN: blocks whose result weights itself by how far it is from 0.

use distorch_checkpoint::config::SpanConfig;
use distorch_runtime::kernels::silu;
use distorch_runtime::tensor::ops;
use distorch_runtime::{Scope, Tensor};

use super::{Network, shuffle};
use crate::ModelError;
use crate::layers::Conv2d;

/// What is taken off the channels of a picture.
const MEAN: [f64; 3] = [0.4488, 0.4371, 0.4040];

/// What the rest is multiplied with.
const RANGE: f64 = 255.0;

/// Attention blocks.
const BLOCKS: usize = 6;

pub(super) struct Span {
    config: SpanConfig,
    first: Convolution,
    blocks: Vec<Block>,
    second: Convolution,
    joined: Conv2d,
    last: Conv2d,
}

impl Span {
    pub fn load(scope: &Scope, config: &SpanConfig) -> Result<Self, ModelError> {
        let block = |place: usize| Block::load(&scope.at(format!("block_{place}")));
        Ok(Self {
            first: Convolution::load(&scope.at("conv_1"))?,
            blocks: (1..=BLOCKS).map(block).collect::<Result<_, _>>()?,
            second: Convolution::load(&scope.at("conv_2"))?,
            joined: Conv2d::load(scope, "conv_cat", 1, 0)?,
            last: Conv2d::load(scope, "upsampler.0", 1, 1)?,
            config: config.clone(),
        })
    }

    /// The picture without its mean, a channel at a time.
    fn centred(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        if !self.config.centred {
            return Ok(x);
        }
        let channels = x.dims()[1];
        if channels != MEAN.len() {
            return Err(ModelError::Config {
                model: "SPAN upscaler",
                reason: format!(
                    "pictures of {channels} channels have no mean here, only those of 3"
                ),
            });
        }
        let channel =
            |(place, mean): (usize, &f64)| (x.clone().narrow(1, place, 1) - *mean) * RANGE;
        Ok(Tensor::cat(MEAN.iter().enumerate().map(channel).collect(), 1))
    }
}

impl Network for Span {
    fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let first = self.first.forward(self.centred(x)?)?;
        let mut h = first.clone();
        let (mut after_first, mut within_last) = (None, None);
        for block in &self.blocks {
            let (made, inner) = block.forward(h)?;
            after_first.get_or_insert_with(|| made.clone());
            within_last = Some(inner);
            h = made;
        }
        let mut parts = vec![first, self.second.forward(h)?];
        parts.extend(after_first);
        parts.extend(within_last);
        let joined = self.joined.forward(Tensor::cat(parts, 1))?;
        Ok(shuffle(self.last.forward(joined)?, self.config.scale))
    }
}

struct Block {
    convolutions: [Convolution; 3],
}

impl Block {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        let conv = |name: &str| Convolution::load(&scope.at(name));
        Ok(Self { convolutions: [conv("c1_r")?, conv("c2_r")?, conv("c3_r")?] })
    }

    /// The result, and what the first convolution made.
    fn forward(&self, x: Tensor<4>) -> Result<(Tensor<4>, Tensor<4>), ModelError> {
        let [first, second, third] = &self.convolutions;
        let inner = first.forward(x.clone())?;
        // The rectifier works in place, so that what is handed on is behind it.
        let inner = silu(inner);
        let h = silu(second.forward(inner.clone())?);
        let h = third.forward(h)?;
        let attention = ops::activation::sigmoid(h.clone()) - 0.5;
        Ok(((h + x) * attention, inner))
    }
}

/// A 1×1, a 3×3 and a 1×1 convolution in a row beside a 1×1. The edge is zeros before the first.
struct Convolution {
    skip: Conv2d,
    row: [Conv2d; 3],
}

impl Convolution {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        let conv = |name: &str| Conv2d::load(scope, name, 1, 0);
        Ok(Self { skip: conv("sk")?, row: [conv("conv.0")?, conv("conv.1")?, conv("conv.2")?] })
    }

    fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let mut h = x.clone().pad((1, 1, 1, 1), 0.0);
        for conv in &self.row {
            h = conv.forward(h)?;
        }
        Ok(h + self.skip.forward(x)?)
    }
}
