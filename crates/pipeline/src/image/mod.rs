//! Pictures and masks in the host's memory, and as files.

mod bislerp;
pub mod canny;
pub mod decode;
pub mod embedded;
mod exif;
mod jpeg_file;
mod jpeg_output;
mod lanczos;
pub mod output_file;
pub mod png_file;
pub mod regular_file;
pub mod resize;
pub mod size;
mod webp_file;

use std::sync::Arc;

use distorch_models::text::PromptPicture;
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, Tensor};
use thiserror::Error;

/// The most values that one batch may have: 16 GiB of them.
const MOST_VALUES: usize = 1 << 32;

/// A batch that no memory holds, or that has nothing in it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "{} pictures of {}×{} pixels with {} channels: each of these must be at least 1, and all \
     together at most {MOST_VALUES} values",
    shape[0], shape[2], shape[1], shape[3]
)]
pub struct TooLarge {
    /// `[batch, height, width, channels]`.
    pub shape: [usize; 4],
}

/// The number of values of a batch, `[batch, height, width, channels]`.
///
/// # Errors
/// When it is so large that no memory holds it.
pub fn room(shape: [usize; 4]) -> Result<usize, TooLarge> {
    let count = shape.iter().try_fold(1_usize, |count, side| count.checked_mul(*side));
    count.filter(|count| *count <= MOST_VALUES).ok_or(TooLarge { shape })
}

/// Pictures of one size: `[batch, height, width, channels]`, values from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Pictures {
    shape: [usize; 4],
    values: Arc<Vec<f32>>,
}

/// Masks of one size: `[batch, height, width]`, values from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    shape: [usize; 3],
    values: Arc<Vec<f32>>,
}

impl Pictures {
    /// Pictures of these values, row by row; `None` where their number does not fit the shape.
    pub fn new(shape: [usize; 4], values: Vec<f32>) -> Option<Self> {
        let count = shape.iter().try_fold(1_usize, |count, side| count.checked_mul(*side))?;
        (count == values.len()).then(|| Self { shape, values: Arc::new(values) })
    }

    /// Pictures computed value by value: `value(picture, y, x, channel)`.
    pub fn from_fn(
        shape: [usize; 4],
        mut value: impl FnMut(usize, usize, usize, usize) -> f32,
    ) -> Self {
        let [batch, height, width, channels] = shape;
        let mut values = Vec::with_capacity(batch * height * width * channels);
        for picture in 0..batch {
            for y in 0..height {
                for x in 0..width {
                    values.extend((0..channels).map(|channel| value(picture, y, x, channel)));
                }
            }
        }
        Self { shape, values: Arc::new(values) }
    }

    /// `[batch, height, width, channels]`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// All values, row by row, channels together.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// One value.
    pub fn at(&self, picture: usize, y: usize, x: usize, channel: usize) -> f32 {
        let [_, height, width, channels] = self.shape;
        let place = ((picture * height + y) * width + x) * channels + channel;
        self.values.get(place).copied().unwrap_or(0.0)
    }

    /// The pictures one by one, each in rows of pixels.
    pub fn each(&self) -> impl Iterator<Item = &[f32]> {
        let [_, height, width, channels] = self.shape;
        self.values.chunks_exact((height * width * channels).max(1))
    }

    /// What an autoencoder gives, `[batch, channels, height, width]` from -1 to 1, brought to 0
    /// to 1 and cut off there.
    ///
    /// # Errors
    /// When the values cannot be read from the device.
    pub fn from_decoded(decoded: Tensor<4>) -> Result<Self, String> {
        let decoded = (decoded + 1.0) / 2.0;
        Self::from_channels_first(decoded.clamp(0.0, 1.0))
    }

    /// `[batch, channels, height, width]` as it is.
    ///
    /// # Errors
    /// When the values cannot be read from the device.
    pub fn from_channels_first(tensor: Tensor<4>) -> Result<Self, String> {
        let [batch, channels, height, width] = tensor.dims();
        let rows = tensor.permute([0, 2, 3, 1]);
        let values = rows.into_data().convert::<f32>().into_vec().map_err(|e| format!("{e:?}"))?;
        Self::new([batch, height, width, channels], values)
            .ok_or_else(|| "the device gave another number of values".to_owned())
    }

    /// `[batch, channels, height, width]` on the CPU, as they are.
    pub fn channels_first(&self) -> Tensor<4> {
        let data = TensorData::new(self.values.to_vec(), self.shape);
        Tensor::<4>::from_data(data, (&cpu(), DType::F32)).permute([0, 3, 1, 2])
    }

    /// The part of `[height, width]` pixels from `[y, x]` on, as far as the pictures reach.
    pub fn crop(&self, [y, x]: [usize; 2], [height, width]: [usize; 2]) -> Self {
        let [batch, rows, columns, channels] = self.shape;
        let (y, x) = (y.min(rows), x.min(columns));
        let (height, width) = (height.min(rows - y), width.min(columns - x));
        let mut values = Vec::with_capacity(batch * height * width * channels);
        for picture in 0..batch {
            for row in y..y + height {
                let start = ((picture * rows + row) * columns + x) * channels;
                values.extend_from_slice(&self.values[start..start + width * channels]);
            }
        }
        Self { shape: [batch, height, width, channels], values: Arc::new(values) }
    }

    /// All values changed.
    pub fn map(&self, change: impl Fn(f32) -> f32) -> Self {
        let values = self.values.iter().map(|value| change(*value)).collect();
        Self { shape: self.shape, values: Arc::new(values) }
    }

    /// One channel as masks; the last where there are fewer.
    pub fn channel(&self, channel: usize) -> Mask {
        let [batch, height, width, channels] = self.shape;
        let channel = channel.min(channels.saturating_sub(1));
        let values = self.values.iter().skip(channel).step_by(channels.max(1)).copied().collect();
        Mask { shape: [batch, height, width], values: Arc::new(values) }
    }

    /// The first picture as a prompt takes it; `None` where there is none.
    pub fn for_prompt(&self) -> Option<PromptPicture> {
        let [_, height, width, _] = self.shape;
        let colours = self.colours();
        let first = colours.each().next()?;
        PromptPicture::new([height, width], first)
    }

    /// The same pictures with four channels: colours and opacity, which is 1 where they have none.
    pub fn with_opacity(&self) -> Self {
        let [batch, height, width, channels] = self.shape;
        let last = channels.saturating_sub(1).min(2);
        match channels {
            4 => self.clone(),
            _ => Self::from_fn([batch, height, width, 4], |picture, y, x, channel| match channel {
                3 => 1.0,
                _ => self.at(picture, y, x, channel.min(last)),
            }),
        }
    }

    /// The same pictures with their colours only: three channels.
    pub fn colours(&self) -> Self {
        let [batch, height, width, channels] = self.shape;
        match channels {
            3 => self.clone(),
            _ => Self::from_fn([batch, height, width, 3], |picture, y, x, channel| {
                self.at(picture, y, x, channel.min(channels.saturating_sub(1)))
            }),
        }
    }
}

impl Mask {
    /// Masks of these values, row by row; `None` where their number does not fit the shape.
    pub fn new(shape: [usize; 3], values: Vec<f32>) -> Option<Self> {
        let count = shape.iter().try_fold(1_usize, |count, side| count.checked_mul(*side))?;
        (count == values.len()).then(|| Self { shape, values: Arc::new(values) })
    }

    /// Masks computed value by value: `value(mask, y, x)`.
    pub fn from_fn(shape: [usize; 3], mut value: impl FnMut(usize, usize, usize) -> f32) -> Self {
        let [batch, height, width] = shape;
        let mut values = Vec::with_capacity(batch * height * width);
        for mask in 0..batch {
            for y in 0..height {
                values.extend((0..width).map(|x| value(mask, y, x)));
            }
        }
        Self { shape, values: Arc::new(values) }
    }

    /// `[batch, height, width]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// All values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// One value.
    pub fn at(&self, mask: usize, y: usize, x: usize) -> f32 {
        let [_, height, width] = self.shape;
        self.values.get((mask * height + y) * width + x).copied().unwrap_or(0.0)
    }

    /// The masks as pictures of one channel.
    pub fn pictures(&self) -> Pictures {
        let [batch, height, width] = self.shape;
        Pictures { shape: [batch, height, width, 1], values: Arc::clone(&self.values) }
    }

    /// All values changed.
    pub fn map(&self, change: impl Fn(f32) -> f32) -> Self {
        let values = self.values.iter().map(|value| change(*value)).collect();
        Self { shape: self.shape, values: Arc::new(values) }
    }

    /// Some of the masks, in this order; counted round where there are fewer.
    pub fn select(&self, places: impl IntoIterator<Item = usize>) -> Self {
        let [batch, height, width] = self.shape;
        let size = height * width;
        let mut values = Vec::new();
        let mut count = 0;
        for place in places {
            let start = place % batch.max(1) * size;
            values.extend_from_slice(&self.values[start..start + size]);
            count += 1;
        }
        Self { shape: [count, height, width], values: Arc::new(values) }
    }
}
