//! What a family's latents look like.

use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Tensor};

use crate::latent_tables::{QWEN_IMAGE_21_RGB, QWEN_IMAGE_21_STATISTICS};

/// What a family's latents look like: how they come from an autoencoder's, and what colours they have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentFormat {
    /// Channels of a latent.
    pub channels: usize,
    /// Pixels of the picture to one of the latent, along a side.
    pub downscale: usize,
    /// What an autoencoder's latent is multiplied with for the model, after `shift` was taken off.
    pub scale: f64,
    /// What is taken off an autoencoder's latent before scaling.
    pub shift: f64,
    /// The mean and the standard deviation of each channel of an autoencoder's latents, by which they are normalised before
    /// they are scaled; empty where `scale` and `shift` are all there is.
    pub statistics: &'static [[f32; 2]],
    /// The red, green and blue from -1 to 1 that each channel of the scaled latent adds to a preview, channel by channel;
    /// empty where no such table is known.
    pub rgb_factors: &'static [[f32; 3]],
    /// What is added to each colour of a preview.
    pub rgb_bias: [f32; 3],
}

/// The colours of the channels of [`LatentFormat::WAN_21`], as ComfyUI's previews have them.
const WAN_21_RGB: &[[f32; 3]] = &[
    [-0.1299, -0.1692, 0.2932],
    [0.0671, 0.0406, 0.0442],
    [0.3568, 0.2548, 0.1747],
    [0.0372, 0.2344, 0.1420],
    [0.0313, 0.0189, -0.0328],
    [0.0296, -0.0956, -0.0665],
    [-0.3477, -0.4059, -0.2925],
    [0.0166, 0.1902, 0.1975],
    [-0.0412, 0.0267, -0.1364],
    [-0.1293, 0.0740, 0.1636],
    [0.0680, 0.3019, 0.1128],
    [0.0032, 0.0581, 0.0639],
    [-0.1251, 0.0927, 0.1699],
    [0.0060, -0.0633, 0.0005],
    [0.3477, 0.2275, 0.2950],
    [0.1984, 0.0913, 0.1861],
];

/// The means and deviations of the same, as Wan's and Qwen-Image's autoencoders are published with.
const WAN_21_STATISTICS: &[[f32; 2]] = &[
    [-0.7571, 2.8184],
    [-0.7089, 1.4541],
    [-0.9113, 2.3275],
    [0.1075, 2.6558],
    [-0.1745, 1.2196],
    [0.9653, 1.7708],
    [-0.1517, 2.6052],
    [1.5508, 2.0743],
    [0.4134, 3.2687],
    [-0.0715, 2.1526],
    [0.5517, 2.8652],
    [-0.3632, 1.5579],
    [-0.1922, 1.6382],
    [-0.9497, 1.1253],
    [0.2503, 2.8251],
    [-0.2921, 1.9160],
];

impl LatentFormat {
    /// Latents of the autoencoder of Wan 2.1 and Qwen-Image.
    pub const WAN_21: Self = Self {
        channels: 16,
        downscale: 8,
        scale: 1.0,
        shift: 0.0,
        statistics: WAN_21_STATISTICS,
        rgb_factors: WAN_21_RGB,
        rgb_bias: [-0.1835, -0.0868, -0.3360],
    };

    /// Latents of the autoencoder of Qwen-Image 2.1.
    pub const QWEN_IMAGE_21: Self = Self {
        channels: 64,
        downscale: 16,
        scale: 1.0,
        shift: 0.0,
        statistics: QWEN_IMAGE_21_STATISTICS,
        rgb_factors: QWEN_IMAGE_21_RGB,
        rgb_bias: [-0.1228, -0.1869, -0.3083],
    };

    /// An autoencoder's latents `[batch, channels, ..]` as the model has them: `(latents - mean) / deviation` of each
    /// channel where there are such, then `(latents - shift) · scale`. Latents of other channels are not normalised; no
    /// model takes them.
    pub fn to_model<const D: usize>(&self, latents: Tensor<D>) -> Tensor<D> {
        let latents = match self.statistics_for(&latents) {
            Some([mean, deviation]) => (latents - mean) / deviation,
            None => latents,
        };
        match self.shift == 0.0 {
            true => latents * self.scale,
            false => (latents - self.shift) * self.scale,
        }
    }

    /// A model's latents as its autoencoder has them, the other way round.
    pub fn to_autoencoder<const D: usize>(&self, latents: Tensor<D>) -> Tensor<D> {
        let latents = match self.shift == 0.0 {
            true => latents / self.scale,
            false => latents / self.scale + self.shift,
        };
        match self.statistics_for(&latents) {
            Some([mean, deviation]) => latents * deviation + mean,
            None => latents,
        }
    }

    /// Whether a latent of zeros is another one as the model has it.
    pub fn moves_zero(&self) -> bool {
        self.shift != 0.0 || !self.statistics.is_empty()
    }

    /// The means and the deviations, `[1, channels, 1, ..]`.
    fn statistics_for<const D: usize>(&self, latents: &Tensor<D>) -> Option<[Tensor<D>; 2]> {
        let channels = self.statistics.len();
        if channels == 0 || D < 2 || latents.dims()[1] != channels {
            return None;
        }
        let mut shape = [1; D];
        shape[1] = channels;
        let column = |values: Vec<f32>| {
            let data = TensorData::new(values, shape);
            Tensor::from_data(data, (&latents.device(), DType::F32)).cast(latents.dtype())
        };
        let (means, deviations) = self.statistics.iter().map(|[mean, dev]| (*mean, *dev)).unzip();
        Some([column(means), column(deviations)])
    }
}

#[cfg(test)]
mod tests {
    use distorch_runtime::tensor::cpu;

    use super::*;

    #[test]
    fn channels_are_normalised_one_by_one_and_back() {
        let format = LatentFormat {
            channels: 2,
            scale: 2.0,
            shift: 0.5,
            statistics: &[[1.0, 4.0], [-2.0, 0.5]],
            ..LatentFormat::WAN_21
        };
        let values = |latent: Tensor<4>| latent.into_data().to_vec::<f32>().unwrap();
        let latent = |values: Vec<f32>, channels: usize| {
            let pixels = values.len() / channels;
            Tensor::<4>::from_data(TensorData::new(values, [1, channels, 1, pixels]), &cpu())
        };
        // ((5 - 1) / 4 - 0.5) · 2 and so on.
        let model = format.to_model(latent(vec![5.0, 1.0, -2.0, 0.0], 2));
        assert_eq!(values(model.clone()), [1.0, -1.0, -1.0, 7.0]);
        assert_eq!(values(format.to_autoencoder(model)), [5.0, 1.0, -2.0, 0.0]);
        // Those of another family's autoencoder are left to the model to refuse.
        assert_eq!(values(format.to_model(latent(vec![1.5, 0.5, 2.5], 3))), [2.0, 0.0, 4.0]);
        assert!(format.moves_zero() && LatentFormat::WAN_21.moves_zero());
    }

    /// The sums of diffusers' defaults.
    #[test]
    fn statistics_are_as_published() {
        for (format, channels, expected) in [
            (LatentFormat::WAN_21, 16, [-0.7332, 34.2747]),
            (LatentFormat::QWEN_IMAGE_21, 64, [7.7210, 240.5952]),
        ] {
            let sums = format.statistics.iter().fold([0.0, 0.0], |sum, pair| {
                [sum[0] + f64::from(pair[0]), sum[1] + f64::from(pair[1])]
            });
            let far = |at: usize| f64::abs(sums[at] - expected[at]) > 1e-5;
            assert!(!far(0) && !far(1), "{sums:?}");
            assert_eq!((format.statistics.len(), format.rgb_factors.len()), (channels, channels));
        }
    }
}
