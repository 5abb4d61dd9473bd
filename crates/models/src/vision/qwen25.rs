//! Qwen2.5-VL's encoder of pictures (<https://arxiv.org/abs/2502.13923>): a transformer over patches, of whose layers most
//! see a window and some the whole picture.

use distorch_checkpoint::config::VisionConfig;
use distorch_runtime::kernels::{gated_silu, gelu};
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Device, IntTensor, Scope, Tensor};

use super::attention::{Attention, Run, head_width};
use super::patches::{Form, patches_of, tokens};
use super::{EncodedPicture, MERGED, VisionTower, rotation};
use crate::ModelError;
use crate::decoder::rotation::HalfRotation;
use crate::layers::{Linear, RmsNorm};
use crate::resample::Filter;
use crate::text::PromptPicture;

/// The encoder's name in errors.
const MODEL: &str = "Qwen2.5-VL encoder of pictures";

/// Of every norm.
const EPSILON: f64 = 1e-6;

/// Tokens of a window along a side.
const WINDOW: usize = 4;

/// Every so many-th layer sees the whole picture.
const WHOLE: usize = 8;

/// Patches that are one token.
const OF_TOKEN: usize = MERGED * MERGED;

/// The encoder.
pub(super) struct Tower {
    form: Form,
    width: usize,
    heads: usize,
    dtype: DType,
    device: Device,
    patches: Linear,
    blocks: Vec<Block>,
    merger_norm: RmsNorm,
    merger: [Linear; 2],
    out: usize,
}

impl Tower {
    pub fn load(config: &VisionConfig, out: usize, scope: &Scope) -> Result<Self, ModelError> {
        let VisionConfig { width, heads, layers, patch_size, .. } = *config;
        let reason = match head_width(width, heads) {
            Ok(_) if patch_size == 0 => format!("patches of {patch_size} pixels are none"),
            Ok(_) => String::new(),
            Err(reason) => reason,
        };
        if !reason.is_empty() {
            return Err(ModelError::Config { model: MODEL, reason });
        }
        let blocks = scope.at("blocks");
        let merger = scope.at("merger");
        Ok(Self {
            form: Form {
                model: MODEL,
                patch: patch_size,
                pixels: [56 * 56, 12_845_056],
                // CLIP's.
                mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
                deviation: [0.268_629_55, 0.261_302_6, 0.275_777_1],
                filter: Filter::Bilinear,
            },
            width,
            heads,
            dtype: scope.activation_dtype(),
            device: scope.device().clone(),
            patches: Linear::load(scope, "patch_embed.proj")?,
            blocks: (0..layers)
                .map(|at| Block::load(&blocks.at(at), heads))
                .collect::<Result<_, _>>()?,
            merger_norm: RmsNorm::load(&merger, "ln_q", EPSILON)?,
            merger: [Linear::load(&merger, "mlp.0")?, Linear::load(&merger, "mlp.2")?],
            out,
        })
    }
}

impl VisionTower for Tower {
    fn encode(&self, picture: &PromptPicture) -> Result<EncodedPicture, ModelError> {
        let patches = self.form.patches(picture)?;
        let grid = patches.grid.map(|side| side / MERGED);
        let count = OF_TOKEN * grid[0] * grid[1];
        let windows = Windows::of(grid);
        // Tokens in the order of their windows.
        let features = self.form.features();
        let of_token = OF_TOKEN * features;
        let mut values = Vec::with_capacity(patches.values.len());
        for [row, column] in &windows.order {
            let start = (row * grid[1] + column) * of_token;
            values
                .extend_from_slice(patches.values.get(start..start + of_token).unwrap_or_default());
        }
        drop(patches);
        let x = TensorData::new(values, [1, count, features]);
        let x = Tensor::<3>::from_data(x, (&self.device, DType::F32)).cast(self.dtype);
        let mut x = self.patches.tokens_to(x, self.width)?.cast(DType::F32);
        let places = windows.order.iter().copied().flat_map(patches_of);
        let rotation = rotation(places, self.width / self.heads.max(1), &self.device);
        let whole = [Run { windows: 1, patches: count }];
        for (at, block) in self.blocks.iter().enumerate() {
            let runs = if (at + 1) % WHOLE == 0 { &whole[..] } else { &windows.runs };
            x = block.forward(x, &rotation, runs, self.dtype)?;
        }
        let merged = OF_TOKEN * self.width;
        let x = self.merger_norm.forward(x)?.reshape([1, count / OF_TOKEN, merged]);
        let [first, second] = &self.merger;
        let x = gelu(first.tokens_to(x.cast(self.dtype), merged)?);
        let x = second.tokens_to(x, self.out)?.cast(DType::F32);
        // Back to the order of the picture.
        let rows = TensorData::new(windows.places(grid), [count / OF_TOKEN]);
        let states = x.select(1, IntTensor::from_data(rows, &self.device));
        Ok(EncodedPicture { grid, states, added: Vec::new() })
    }
}

/// A picture's tokens by windows: those of a size behind each other, so that they go through attention at once.
struct Windows {
    /// Row and column of each token.
    order: Vec<[usize; 2]>,
    runs: Vec<Run>,
}

impl Windows {
    fn of([rows, columns]: [usize; 2]) -> Self {
        let spans = |length: usize| {
            let whole = (0..length / WINDOW).map(|at| (at * WINDOW, WINDOW));
            let rest = length % WINDOW;
            let whole: Vec<_> = whole.collect();
            let rest = (rest > 0).then(|| vec![(length - rest, rest)]);
            [whole, rest.unwrap_or_default()]
        };
        let (mut order, mut runs) = (Vec::with_capacity(rows * columns), Vec::new());
        for down in spans(rows) {
            for across in spans(columns) {
                let (mut windows, mut size) = (0, 0);
                for &(top, height) in &down {
                    for &(left, width) in &across {
                        order.extend(tokens([height, width]).map(|[y, x]| [top + y, left + x]));
                        (windows, size) = (windows + 1, height * width);
                    }
                }
                if windows > 0 {
                    runs.push(Run { windows, patches: OF_TOKEN * size });
                }
            }
        }
        Self { order, runs }
    }

    /// Where each token of the picture is in the order of windows.
    fn places(&self, [rows, columns]: [usize; 2]) -> Vec<i32> {
        let mut places = vec![0; rows * columns];
        for (at, [row, column]) in self.order.iter().enumerate() {
            if let Some(place) = places.get_mut(row * columns + column) {
                *place = at as i32; // no picture has that many tokens
            }
        }
        places
    }
}

/// Self-attention and a feed-forward network, each behind a norm and around a residual.
struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    feed_forward_norm: RmsNorm,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Block {
    fn load(scope: &Scope, heads: usize) -> Result<Self, ModelError> {
        let feed_forward = scope.at("mlp");
        Ok(Self {
            attention_norm: RmsNorm::load(scope, "norm1", EPSILON)?,
            attention: Attention::load(&scope.at("attn"), heads)?,
            feed_forward_norm: RmsNorm::load(scope, "norm2", EPSILON)?,
            gate_proj: Linear::load(&feed_forward, "gate_proj")?,
            up_proj: Linear::load(&feed_forward, "up_proj")?,
            down_proj: Linear::load(&feed_forward, "down_proj")?,
        })
    }

    /// `x` in f32, `[1, patches, width]`; matrix products in `dtype`.
    fn forward(
        &self,
        x: Tensor<3>,
        rotation: &HalfRotation,
        runs: &[Run],
        dtype: DType,
    ) -> Result<Tensor<3>, ModelError> {
        let width = x.dims()[2];
        let h = self.attention_norm.forward(x.clone())?.cast(dtype);
        let x = x + self.attention.forward(h, rotation, runs)?.cast(DType::F32);
        let h = self.feed_forward_norm.forward(x.clone())?.cast(dtype);
        let gate = self.gate_proj.tokens(h.clone())?;
        let fed = self.down_proj.tokens_to(gated_silu(gate, self.up_proj.tokens(h)?), width)?;
        Ok(x + fed.cast(DType::F32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of 4×4 tokens from the corner on, cut off at the far sides, by hand.
    #[test]
    fn every_token_is_in_one_window() {
        let windows = Windows::of([5, 9]);
        let run = |windows, tokens: usize| Run { windows, patches: 4 * tokens };
        assert_eq!(windows.runs, [run(2, 16), run(1, 4), run(2, 4), run(1, 1)]);
        assert_eq!(windows.order[..5], [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]);
        assert_eq!(windows.order[16], [0, 4]);
        assert_eq!(windows.order[32..36], [[0, 8], [1, 8], [2, 8], [3, 8]]);
        assert_eq!(windows.order[44], [4, 8]);
        let places = windows.places([5, 9]);
        let ordered: Vec<_> = places.iter().map(|at| windows.order[*at as usize]).collect();
        assert_eq!(ordered, tokens([5, 9]).collect::<Vec<_>>());
    }

    #[test]
    fn small_pictures_are_one_window() {
        assert_eq!(Windows::of([2, 3]).runs, [Run { windows: 1, patches: 24 }]);
    }
}
