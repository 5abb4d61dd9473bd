//! Latents of Flux.2's autoencoder: each 2×2 pixels are channels of one, which the means and variances of the training set
//! normalise.

use distorch_runtime::{DType, LayerHandle, Scope, Tensor};

use crate::ModelError;

/// Latent pixels that become one, along a side.
const SIDE: usize = 2;

/// What is added to variances.
const EPSILON: f64 = 1e-4;

/// How an autoencoder's latents are packed.
pub(crate) struct Packing {
    statistics: LayerHandle,
}

impl Packing {
    pub fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self { statistics: scope.layer("bn")? })
    }

    /// The means and the logarithms of the variances that an encoder makes, `[batch, channels, height, width]`, as
    /// `[batch, channels × 4, height / 2, width / 2]`, normalised. An odd side loses its last row or column.
    pub fn pack(
        &self,
        mean: Tensor<4>,
        log_variance: Tensor<4>,
    ) -> Result<[Tensor<4>; 2], ModelError> {
        let channels = mean.dims()[1] * SIDE * SIDE;
        let [average, variance] = self.statistics(channels)?;
        let mean = together(mean);
        let dtype = mean.dtype();
        let mean = (mean.cast(DType::F32) - average) / variance.clone().sqrt();
        let log_variance = together(log_variance);
        let narrower = log_variance.cast(DType::F32) - variance.log();
        Ok([mean.cast(dtype), narrower.cast(dtype)])
    }

    /// The other way round, for a decoder.
    pub fn unpack(&self, latent: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let [batch, channels, height, width] = latent.dims();
        let [average, variance] = self.statistics(channels)?;
        let dtype = latent.dtype();
        let latent = (latent.cast(DType::F32) * variance.sqrt() + average).cast(dtype);
        let single = channels / (SIDE * SIDE);
        let latent = latent.reshape([batch, single, SIDE, SIDE, height, width]);
        let latent = latent.permute([0, 1, 4, 2, 5, 3]);
        Ok(latent.reshape([batch, single, height * SIDE, width * SIDE]))
    }

    /// The means, and the variances with what is added to them, `[1, channels, 1, 1]` in f32.
    fn statistics(&self, channels: usize) -> Result<[Tensor<4>; 2], ModelError> {
        let params = self.statistics.fetch()?;
        let get = |name: &str| {
            let values: Tensor<1> = params.get(name)?;
            let [found] = values.dims();
            if found != channels {
                return Err(ModelError::Layer {
                    layer: params.layer().to_owned(),
                    expected: format!("statistics of {channels} channels"),
                    found: found.to_string(),
                });
            }
            Ok(values.cast(DType::F32).reshape([1, channels, 1, 1]))
        };
        Ok([get("running_mean")?, get("running_var")? + EPSILON])
    }
}

/// Each 2×2 pixels as channels of one; a channel's pixels are next to each other.
fn together(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let (rows, columns) = (height / SIDE, width / SIDE);
    let x = x.narrow(2, 0, rows * SIDE).narrow(3, 0, columns * SIDE);
    let x = x.reshape([batch, channels, rows, SIDE, columns, SIDE]).permute([0, 1, 3, 5, 2, 4]);
    x.reshape([batch, channels * SIDE * SIDE, rows, columns])
}
