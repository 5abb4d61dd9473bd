//! Qwen3-VL's encoder of pictures (<https://arxiv.org/abs/2511.21631>): a transformer over patches of which each sees all,
//! with a table of places that is stretched over the picture. States behind some of its blocks are handed to the first
//! layers of the language model, too (DeepStack: Meng et al., <https://arxiv.org/abs/2406.04334>).

use distorch_checkpoint::config::VisionConfig;
use distorch_runtime::kernels::{Activation, gelu};
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Device, IntTensor, Scope, Tensor};

use super::attention::{Attention, Run, head_width};
use super::patches::{Form, patches_of, tokens};
use super::{EncodedPicture, MERGED, VisionTower, rotation};
use crate::ModelError;
use crate::decoder::rotation::HalfRotation;
use crate::layers::{Embedding, LayerNorm, Linear};
use crate::resample::Filter;
use crate::text::PromptPicture;

/// The encoder's name in errors.
const MODEL: &str = "Qwen3-VL encoder of pictures";

/// Of every norm.
const EPSILON: f64 = 1e-6;

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
    places: Embedding,
    /// Rows and columns of the table of places.
    side: usize,
    blocks: Vec<Block>,
    merger: Merger,
    /// Those of the states behind the blocks of these numbers.
    deep: Vec<(usize, Merger)>,
}

impl Tower {
    pub fn load(config: &VisionConfig, out: usize, scope: &Scope) -> Result<Self, ModelError> {
        let VisionConfig { width, heads, layers, patch_size, positions, deepstack, .. } = *config;
        let side = positions.isqrt();
        let reason = match head_width(width, heads) {
            Ok(_) if side == 0 || side * side != positions || patch_size == 0 => format!(
                "{positions} places are no square, or patches of {patch_size} pixels are none"
            ),
            Ok(_) => String::new(),
            Err(reason) => reason,
        };
        if !reason.is_empty() {
            return Err(ModelError::Config { model: MODEL, reason });
        }
        let blocks = scope.at("blocks");
        let mergers = scope.at("deepstack_merger_list");
        let numbers = deep_blocks(layers, deepstack).into_iter().enumerate();
        Ok(Self {
            form: Form {
                model: MODEL,
                patch: patch_size,
                pixels: [56 * 56, 12_845_056],
                mean: [0.5; 3],
                deviation: [0.5; 3],
                filter: Filter::Bilinear,
            },
            width,
            heads,
            dtype: scope.activation_dtype(),
            device: scope.device().clone(),
            patches: Linear::load(scope, "patch_embed.proj")?,
            places: Embedding::load(scope, "pos_embed")?,
            side,
            blocks: (0..layers)
                .map(|at| Block::load(&blocks.at(at), heads))
                .collect::<Result<_, _>>()?,
            merger: Merger::load(&scope.at("merger"), out, false)?,
            deep: numbers
                .map(|(at, block)| Ok((block, Merger::load(&mergers.at(at), out, true)?)))
                .collect::<Result<_, ModelError>>()?,
        })
    }

    /// The table of places stretched over patches of a grid, in this order: `[1, patches, width]` in f32.
    fn stretched(&self, grid: [usize; 2], order: &[[usize; 2]]) -> Result<Tensor<3>, ModelError> {
        let table = self.places.table()?.cast(DType::F32);
        ModelError::expect(MODEL, "places", &[self.side * self.side, self.width], &table.dims())?;
        let corners = order.iter().map(|place| corners(*place, grid, self.side));
        let corners: Vec<[(usize, f64); 4]> = corners.collect();
        let mut sum: Option<Tensor<2>> = None;
        for at in 0..4 {
            let of = corners.iter().map(|corners| corners[at]);
            let (rows, shares): (Vec<i32>, Vec<f32>) =
                of.map(|(row, share)| (row as i32, share as f32)).unzip(); // thousands of rows at most
            let rows = IntTensor::from_data(TensorData::new(rows, [order.len()]), &self.device);
            let shares = TensorData::new(shares, [order.len(), 1]);
            let shares = Tensor::<2>::from_data(shares, (&self.device, DType::F32));
            let part = table.clone().select(0, rows) * shares;
            sum = Some(match sum {
                Some(sum) => sum + part,
                None => part,
            });
        }
        let sum = sum.unwrap_or_else(|| table.narrow(0, 0, 1));
        Ok(sum.reshape([1, order.len(), self.width]))
    }
}

/// The numbers of the blocks whose states are handed on, of so many: as published for 24 and 27 blocks, at even distances
/// in others, as for 24.
fn deep_blocks(layers: usize, count: usize) -> Vec<usize> {
    match (layers, count) {
        (27, 3) => vec![8, 16, 24],
        _ => (1..=count).map(|at| (at * layers / (count + 1)).saturating_sub(1)).collect(),
    }
}

/// The four entries around a patch in a table of `side` × `side` whose corners are the picture's, and their shares.
fn corners(place: [usize; 2], grid: [usize; 2], side: usize) -> [(usize, f64); 4] {
    let along = |axis: usize| {
        let steps = grid[axis].saturating_sub(1).max(1);
        let at = (place[axis] * (side - 1)) as f64 / steps as f64;
        let first = (at as usize).min(side - 1);
        [(first, 1.0 - (at - first as f64)), ((first + 1).min(side - 1), at - first as f64)]
    };
    let (rows, columns) = (along(0), along(1));
    let of = |row: usize, column: usize| {
        let ((y, down), (x, across)) = (rows[row], columns[column]);
        (y * side + x, down * across)
    };
    [of(0, 0), of(0, 1), of(1, 0), of(1, 1)]
}

impl VisionTower for Tower {
    fn encode(&self, picture: &PromptPicture) -> Result<EncodedPicture, ModelError> {
        let patches = self.form.patches(picture)?;
        let grid = patches.grid.map(|side| side / MERGED);
        let order: Vec<[usize; 2]> = tokens(grid).flat_map(patches_of).collect();
        let x = TensorData::new(patches.values, [1, order.len(), self.form.features()]);
        let x = Tensor::<3>::from_data(x, (&self.device, DType::F32)).cast(self.dtype);
        let x = self.patches.tokens_to(x, self.width)?.cast(DType::F32);
        let mut x = x + self.stretched(patches.grid, &order)?;
        let rotation = rotation(order.into_iter(), self.width / self.heads.max(1), &self.device);
        let mut added = Vec::with_capacity(self.deep.len());
        for (at, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, &rotation, self.dtype)?;
            for (_, merger) in self.deep.iter().filter(|(block, _)| *block == at) {
                added.push(merger.forward(x.clone(), self.dtype)?);
            }
        }
        Ok(EncodedPicture { grid, states: self.merger.forward(x, self.dtype)?, added })
    }
}

/// From patches to tokens of the language model.
struct Merger {
    /// Whether patches are normalised together with those that are one token with them.
    merged_norm: bool,
    norm: LayerNorm,
    layers: [Linear; 2],
    out: usize,
}

impl Merger {
    fn load(scope: &Scope, out: usize, merged_norm: bool) -> Result<Self, ModelError> {
        Ok(Self {
            merged_norm,
            norm: LayerNorm::load(scope, "norm", EPSILON)?,
            layers: [Linear::load(scope, "linear_fc1")?, Linear::load(scope, "linear_fc2")?],
            out,
        })
    }

    /// `[1, patches, width]` to `[1, tokens, width of the language model]`, both in f32.
    fn forward(&self, x: Tensor<3>, dtype: DType) -> Result<Tensor<3>, ModelError> {
        let [_, count, width] = x.dims();
        let merged = OF_TOKEN * width;
        let shape = [1, count / OF_TOKEN, merged];
        let x = match self.merged_norm {
            true => self.norm.forward(x.reshape(shape))?,
            false => self.norm.forward(x)?.reshape(shape),
        };
        let [first, second] = &self.layers;
        let x = gelu(first.tokens_to(x.cast(dtype), merged)?);
        Ok(second.tokens_to(x, self.out)?.cast(DType::F32))
    }
}

/// Self-attention and a feed-forward network, each behind a norm and around a residual.
struct Block {
    attention_norm: LayerNorm,
    attention: Attention,
    feed_forward_norm: LayerNorm,
    feed_forward: [Linear; 2],
}

impl Block {
    fn load(scope: &Scope, heads: usize) -> Result<Self, ModelError> {
        let feed_forward = scope.at("mlp");
        let layer = |name: &str| Linear::load(&feed_forward, name);
        Ok(Self {
            attention_norm: LayerNorm::load(scope, "norm1", EPSILON)?,
            attention: Attention::load(&scope.at("attn"), heads)?,
            feed_forward_norm: LayerNorm::load(scope, "norm2", EPSILON)?,
            feed_forward: [layer("linear_fc1")?, layer("linear_fc2")?],
        })
    }

    /// `x` in f32, `[1, patches, width]`; matrix products in `dtype`.
    fn forward(
        &self,
        x: Tensor<3>,
        rotation: &HalfRotation,
        dtype: DType,
    ) -> Result<Tensor<3>, ModelError> {
        let [_, patches, width] = x.dims();
        let h = self.attention_norm.forward(x.clone())?.cast(dtype);
        let seen = self.attention.forward(h, rotation, &[Run { windows: 1, patches }])?;
        let x = x + seen.cast(DType::F32);
        let h = self.feed_forward_norm.forward(x.clone())?.cast(dtype);
        let [first, second] = &self.feed_forward;
        let fed = second.tokens_to(first.tokens_activated(h, Activation::GeluTanh)?, width)?;
        Ok(x + fed.cast(DType::F32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published `deepstack_visual_indexes` of the 4B and the 8B model.
    #[test]
    fn states_are_handed_on_behind_the_published_blocks() {
        assert_eq!(deep_blocks(24, 3), [5, 11, 17]);
        assert_eq!(deep_blocks(27, 3), [8, 16, 24]);
        assert_eq!(deep_blocks(4, 0), Vec::<usize>::new());
    }

    /// By hand: the corners of the table are those of the picture.
    #[test]
    fn places_are_between_entries() {
        assert_eq!(corners([0, 0], [4, 4], 3)[0], (0, 1.0));
        assert_eq!(corners([3, 3], [4, 4], 3)[0], (8, 1.0));
        // The second of 2 steps over a table of 4: 1.5 from the first.
        let found = corners([1, 2], [3, 3], 4);
        assert_eq!(found, [(4 + 3, 0.5), (4 + 3, 0.0), (8 + 3, 0.5), (8 + 3, 0.0)]);
    }
}
