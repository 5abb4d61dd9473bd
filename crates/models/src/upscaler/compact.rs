//! Real-ESRGAN's compact network: what convolutions in a row add to the picture with its pixels repeated.

use distorch_checkpoint::config::CompactConfig;
use distorch_runtime::{LayerHandle, Scope, Tensor};

use super::{Network, shuffle};
use crate::ModelError;
use crate::layers::Conv2d;
use crate::unet::nearest;

pub(super) struct Compact {
    config: CompactConfig,
    /// Each convolution with the slopes behind it.
    body: Vec<(Conv2d, Slopes)>,
    last: Conv2d,
}

impl Compact {
    pub fn load(scope: &Scope, config: &CompactConfig) -> Result<Self, ModelError> {
        let body = scope.at("body");
        let conv = |place: usize| Conv2d::load(&body, &place.to_string(), 1, 1);
        let pair = |place: usize| {
            let slopes = Slopes { handle: body.layer((2 * place + 1).to_string())? };
            Ok((conv(2 * place)?, slopes))
        };
        Ok(Self {
            body: (0..=config.convolutions).map(pair).collect::<Result<_, ModelError>>()?,
            last: conv(2 * config.convolutions + 2)?,
            config: config.clone(),
        })
    }
}

impl Network for Compact {
    fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let [_, _, height, width] = x.dims();
        let mut h = x.clone();
        for (conv, slopes) in &self.body {
            h = slopes.forward(conv.forward(h)?)?;
        }
        let scale = self.config.scale;
        let made = shuffle(self.last.forward(h)?, scale);
        if self.config.in_channels != self.config.out_channels {
            return Err(ModelError::Config {
                model: "compact upscaler",
                reason: format!(
                    "it adds {} channels to the {} of the picture",
                    self.config.out_channels, self.config.in_channels
                ),
            });
        }
        Ok(made + nearest(x, [height * scale, width * scale]))
    }
}

/// A leaky rectifier with a slope below 0 for each channel; `weight` `[channels]`.
struct Slopes {
    handle: LayerHandle,
}

impl Slopes {
    fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let params = self.handle.fetch()?;
        let slopes = params.weight::<1>()?;
        let ([channels], [_, found, _, _]) = (slopes.dims(), x.dims());
        if channels != found {
            return Err(ModelError::Layer {
                layer: params.layer().to_owned(),
                expected: format!("{channels} channels"),
                found: format!("{found}"),
            });
        }
        let slopes = slopes.cast(x.dtype()).reshape([1, channels, 1, 1]);
        Ok(x.clone().clamp_min(0.0) + x.clamp_max(0.0) * slopes)
    }
}
