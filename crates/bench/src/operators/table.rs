//! The operators that are timed, and their shapes.
//!
//! Where a model spends its time: of each kind the widest and the narrowest level, with both halves of
//! the guidance in one batch (SD 1.5, SDXL), as the models call the kernels.

use serde::Serialize;

use super::OperatorSet;

/// One operator in one shape.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Operator {
    /// Unique, made of the model, the kind and the shape.
    pub name: String,
    /// Whose shape it is: `sd15`, `sdxl`, `flux`, `tiny`.
    pub model: &'static str,
    /// What is computed, on what.
    #[serde(flatten)]
    pub shape: Shape,
}

/// A kind of operator with its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)] // sizes, by their names
pub enum Shape {
    /// `[batch, inputs, height, width]` by a square kernel, padded to keep the picture's size, with
    /// a bias.
    Conv {
        batch: usize,
        inputs: usize,
        outputs: usize,
        height: usize,
        width: usize,
        kernel: usize,
        stride: usize,
    },
    /// `[batch, rows, inputs]` by `[outputs, inputs]`, with a bias.
    Linear { batch: usize, rows: usize, inputs: usize, outputs: usize },
    /// Queries `[batch, queries, heads × dim]` on as many keys and values as `keys`.
    Attention { batch: usize, queries: usize, keys: usize, heads: usize, dim: usize },
    /// Of `[batch, channels, height, width]` in `groups`, with SiLU behind it.
    GroupNorm { batch: usize, channels: usize, height: usize, width: usize, groups: usize },
    /// Of `[batch, rows, features]` over the last.
    LayerNorm { batch: usize, rows: usize, features: usize },
}

impl Shape {
    /// The kind's name, as in JSON.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Conv { .. } => "conv",
            Self::Linear { .. } => "linear",
            Self::Attention { .. } => "attention",
            Self::GroupNorm { .. } => "group_norm",
            Self::LayerNorm { .. } => "layer_norm",
        }
    }

    fn text(self) -> String {
        match self {
            Self::Conv { batch, inputs, outputs, height, width, kernel, stride } => format!(
                "{batch}x{inputs}x{height}x{width} to {outputs}, {kernel}x{kernel} stride {stride}"
            ),
            Self::Linear { batch, rows, inputs, outputs } => {
                format!("{batch}x{rows} rows, {inputs} to {outputs}")
            }
            Self::Attention { batch, queries, keys, heads, dim } => {
                format!("{batch}x{queries} to {keys}, {heads} heads of {dim}")
            }
            Self::GroupNorm { batch, channels, height, width, groups } => {
                format!("{batch}x{channels}x{height}x{width} in {groups}")
            }
            Self::LayerNorm { batch, rows, features } => {
                format!("{batch}x{rows} rows of {features}")
            }
        }
    }

    /// Values that come out.
    pub fn values(self) -> usize {
        match self {
            Self::Conv { batch, outputs, height, width, stride, .. } => {
                batch * outputs * height.div_ceil(stride) * width.div_ceil(stride)
            }
            Self::Linear { batch, rows, outputs, .. } => batch * rows * outputs,
            Self::Attention { batch, queries, heads, dim, .. } => batch * queries * heads * dim,
            Self::GroupNorm { batch, channels, height, width, .. } => {
                batch * channels * height * width
            }
            Self::LayerNorm { batch, rows, features } => batch * rows * features,
        }
    }

    /// Multiplications and additions of the products in it; norms have none.
    pub fn flops(self) -> u64 {
        let values = self.values() as u64;
        match self {
            Self::Conv { inputs, kernel, .. } => 2 * values * (inputs * kernel * kernel) as u64,
            Self::Linear { inputs, .. } => 2 * values * inputs as u64,
            Self::Attention { keys, .. } => 4 * values * keys as u64,
            Self::GroupNorm { .. } | Self::LayerNorm { .. } => 0,
        }
    }
}

fn conv(batch: usize, inputs: usize, outputs: usize, side: usize, kernel: usize) -> Shape {
    Shape::Conv { batch, inputs, outputs, height: side, width: side, kernel, stride: 1 }
}

fn linear(batch: usize, rows: usize, inputs: usize, outputs: usize) -> Shape {
    Shape::Linear { batch, rows, inputs, outputs }
}

fn attention(batch: usize, queries: usize, keys: usize, [heads, dim]: [usize; 2]) -> Shape {
    Shape::Attention { batch, queries, keys, heads, dim }
}

fn group_norm(batch: usize, channels: usize, side: usize) -> Shape {
    Shape::GroupNorm { batch, channels, height: side, width: side, groups: 32 }
}

fn layer_norm(batch: usize, rows: usize, features: usize) -> Shape {
    Shape::LayerNorm { batch, rows, features }
}

/// The operators of a set.
pub fn operators(set: OperatorSet) -> Vec<Operator> {
    let (model, shapes) = match set {
        OperatorSet::Sd15 => ("sd15", sd15()),
        OperatorSet::Sdxl => ("sdxl", sdxl()),
        OperatorSet::Flux => ("flux", flux()),
        OperatorSet::Tiny => ("tiny", tiny()),
    };
    let operator = |shape: Shape| {
        let name = format!("{model} {} {}", shape.kind(), shape.text());
        Operator { name, model, shape }
    };
    shapes.into_iter().map(operator).collect()
}

fn sd15() -> Vec<Shape> {
    vec![
        conv(2, 320, 320, 64, 3),
        conv(2, 960, 320, 64, 3),
        conv(2, 640, 640, 32, 3),
        conv(2, 1280, 1280, 16, 3),
        conv(2, 2560, 1280, 16, 3),
        conv(2, 1280, 1280, 8, 3),
        conv(2, 320, 320, 64, 1),
        Shape::Conv {
            batch: 2,
            inputs: 320,
            outputs: 320,
            height: 64,
            width: 64,
            kernel: 3,
            stride: 2,
        },
        // The decoder's widest level.
        conv(1, 128, 128, 512, 3),
        linear(2, 4096, 320, 320),
        linear(2, 4096, 320, 2560),
        linear(2, 4096, 1280, 320),
        linear(2, 256, 1280, 10240),
        linear(2, 77, 768, 320),
        attention(2, 4096, 4096, [8, 40]),
        attention(2, 1024, 1024, [8, 80]),
        attention(2, 4096, 77, [8, 40]),
        // The decoder's.
        attention(1, 4096, 4096, [1, 512]),
        group_norm(2, 320, 64),
        group_norm(2, 1280, 16),
        group_norm(1, 128, 512),
        layer_norm(2, 4096, 320),
    ]
}

fn sdxl() -> Vec<Shape> {
    vec![
        conv(2, 320, 320, 128, 3),
        conv(2, 960, 320, 128, 3),
        conv(2, 640, 640, 64, 3),
        conv(2, 1280, 1280, 32, 3),
        conv(2, 2560, 1280, 32, 3),
        conv(1, 128, 128, 1024, 3),
        linear(2, 4096, 640, 640),
        linear(2, 4096, 640, 5120),
        linear(2, 1024, 1280, 1280),
        linear(2, 1024, 1280, 10240),
        linear(2, 1024, 5120, 1280),
        linear(2, 77, 2048, 1280),
        attention(2, 4096, 4096, [10, 64]),
        attention(2, 1024, 1024, [20, 64]),
        attention(2, 1024, 77, [20, 64]),
        group_norm(2, 320, 128),
        group_norm(2, 1280, 32),
        layer_norm(2, 1024, 1280),
    ]
}

/// 4,096 patches and 512 tokens of text together.
fn flux() -> Vec<Shape> {
    vec![
        linear(1, 4608, 3072, 9216),
        linear(1, 4608, 3072, 12288),
        linear(1, 4608, 12288, 3072),
        linear(1, 4608, 3072, 21504),
        linear(1, 4608, 15360, 3072),
        attention(1, 4608, 4608, [24, 128]),
        layer_norm(1, 4608, 3072),
    ]
}

fn tiny() -> Vec<Shape> {
    vec![
        conv(2, 32, 48, 16, 3),
        conv(1, 33, 7, 9, 1),
        linear(2, 77, 64, 96),
        linear(1, 33, 50, 31),
        attention(2, 64, 64, [2, 32]),
        attention(1, 50, 77, [3, 40]),
        group_norm(2, 64, 12),
        layer_norm(2, 33, 96),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let sets = [OperatorSet::Sd15, OperatorSet::Sdxl, OperatorSet::Flux, OperatorSet::Tiny];
        let all: Vec<Operator> = sets.into_iter().flat_map(operators).collect();
        let names: BTreeSet<&str> = all.iter().map(|operator| operator.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|operator| operator.shape.values() > 0));
    }

    /// By hand: two floating-point operations for each weight that each value is made with.
    #[test]
    fn operations_are_counted() {
        // 2 × 320 × 64² values of 320 × 9 products each.
        assert_eq!(conv(2, 320, 320, 64, 3).flops(), 2 * (2 * 320 * 4096) * (320 * 9));
        assert_eq!(linear(1, 4608, 3072, 9216).flops(), 2 * 4608 * 3072 * 9216);
        // Scores and their sum: two products of 4096 × 4096 × 40 a head.
        assert_eq!(attention(2, 4096, 4096, [8, 40]).flops(), 2 * 2 * 2 * 8 * 40 * 4096 * 4096);
        assert_eq!(layer_norm(2, 33, 96).flops(), 0);
        let strided = Shape::Conv {
            batch: 1,
            inputs: 2,
            outputs: 3,
            height: 9,
            width: 8,
            kernel: 3,
            stride: 2,
        };
        assert_eq!(strided.values(), 3 * 5 * 4);
    }
}
