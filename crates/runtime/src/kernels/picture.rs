//! Pictures as each device has them: `[batch, channels, height, width]` to whoever calls. On the CPU they lie so in memory. On
//! accelerators channels are last there, as their convolutions and norms read and write them: what is done here keeps
//! them so, where Burn's own operators would make a copy in the other order.

use super::elementwise::add_all;
use crate::tensor::{Tensor, is_host};

/// The same values with channels last, `[batch, height, width, channels]`.
fn channels_last(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 2, 3, 1])
}

/// The other way.
fn channels_first(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 3, 1, 2])
}

/// An elementwise function of a picture, in Burn's operators.
pub fn each_pixel(x: Tensor<4>, map: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    if is_host(&x.device()) { map(x) } else { channels_first(map(channels_last(x))) }
}

/// What is added to a convolution's result.
#[derive(Clone, Debug)]
pub enum Addend {
    /// One number for each channel of each picture, `[batch, out]`.
    Channels(Tensor<2>),
    /// A picture of the result's size.
    Picture(Tensor<4>),
}

impl Addend {
    /// `y + bias + addend`, `bias` `[out]`.
    pub(super) fn add(y: Tensor<4>, bias: Option<Tensor<1>>, addend: Option<Self>) -> Tensor<4> {
        let along = |vectors: Tensor<2>| {
            let [rows, channels] = vectors.dims();
            vectors.reshape([rows, channels, 1, 1])
        };
        let bias = bias.map(|bias| along(bias.unsqueeze()));
        let addend = addend.map(|addend| match addend {
            Addend::Channels(vectors) => along(vectors),
            Addend::Picture(picture) => picture,
        });
        add_all(y, bias, addend)
    }
}

/// Pictures of one size beside each other: the channels of all, in order.
pub fn join_channels(pictures: Vec<Tensor<4>>) -> Tensor<4> {
    match pictures.first().is_none_or(|first| is_host(&first.device())) {
        true => Tensor::cat(pictures, 1),
        false => channels_first(Tensor::cat(pictures.into_iter().map(channels_last).collect(), 3)),
    }
}

/// The pixels of a picture as tokens, `[batch, height × width, channels]`.
pub fn tokens(x: Tensor<4>) -> Tensor<3> {
    let [batch, channels, height, width] = x.dims();
    match is_host(&x.device()) {
        true => x.reshape([batch, channels, height * width]).swap_dims(1, 2),
        false => channels_last(x).reshape([batch, height * width, channels]),
    }
}

/// Features of tokens `[batch, channels, height × width]` as a picture.
pub fn picture(features: Tensor<3>, height: usize, width: usize) -> Tensor<4> {
    let [batch, channels, _] = features.dims();
    match is_host(&features.device()) {
        true => features.reshape([batch, channels, height, width]),
        false => {
            let tokens = features.swap_dims(1, 2);
            channels_first(tokens.reshape([batch, height, width, channels]))
        }
    }
}
