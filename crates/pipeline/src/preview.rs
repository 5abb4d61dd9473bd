//! Small pictures of a latent while it is sampled, through its family's table of colours.

use distorch_models::latent_format::LatentFormat;
use distorch_runtime::Tensor;
use distorch_runtime::tensor::{DType, cpu};
use serde::Serialize;

/// An RGB picture of one pixel for each of the latent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue of each pixel, row by row.
    pub rgb: Vec<u8>,
}

impl Preview {
    /// The preview of the first latent of a batch `[batch, channels, height, width]`, scaled as the model has it; `None`
    /// where the family has no table of colours for these channels.
    pub fn of(latent: &Tensor<4>, format: &LatentFormat) -> Option<Self> {
        let [batch, channels, height, width] = latent.dims();
        if batch == 0 || channels != format.rgb_factors.len() {
            return None;
        }
        let first = latent.clone().narrow(0, 0, 1).cast(DType::F32).to_device(&cpu());
        let values = first.into_data().to_vec::<f32>().ok()?;
        let pixels = height.checked_mul(width).filter(|pixels| *pixels > 0)?;
        let mut rgb = Vec::with_capacity(pixels * 3);
        for pixel in 0..pixels {
            for (colour, bias) in format.rgb_bias.iter().enumerate() {
                let channel = values.iter().skip(pixel).step_by(pixels);
                let sum: f32 =
                    channel.zip(format.rgb_factors).map(|(x, row)| x * row[colour]).sum();
                rgb.push((((sum + bias) + 1.0) * 127.5).clamp(0.0, 255.0) as u8);
            }
        }
        Some(Self { width, height, rgb })
    }
}

#[cfg(test)]
mod tests {
    use distorch_runtime::tensor::TensorData;

    use super::*;

    #[test]
    fn a_preview_is_the_channels_times_their_colours() {
        const TABLE: &[[f32; 3]] = &[[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]];
        let format = LatentFormat {
            channels: 2,
            downscale: 8,
            scale: 1.0,
            shift: 0.0,
            statistics: &[],
            rgb_factors: TABLE,
            rgb_bias: [0.0, 0.2, 0.0],
        };
        let values = vec![1.0_f32, -0.5, 0.6, 0.0];
        let latent =
            Tensor::<4>::from_data(TensorData::new(values, [1, 2, 1, 2]), (&cpu(), DType::F32));
        let preview = Preview::of(&latent, &format).unwrap();
        assert_eq!((preview.width, preview.height), (2, 1));
        // (value + 1) · 127.5, cut to whole numbers: 1, 0.3 + 0.2, -1; then -0.5, 0.2, 0.5.
        assert_eq!(preview.rgb, [255, 191, 0, 63, 153, 191]);
        assert_eq!(Preview::of(&latent, &LatentFormat { rgb_factors: &[], ..format }), None);
    }
}
