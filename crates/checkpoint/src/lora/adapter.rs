//! What a LoRA file does to one layer, as formulas over the file's tensors.

use serde::Serialize;

use crate::layer::ComponentKind;

/// The change that a file makes to one layer.
///
/// With `Δ` the [`delta`](Adapter::delta), at strength `s`, the weight `W` becomes
/// `W + s · scale · Δ`. With a [`magnitude`](Adapter::magnitude) `m` (DoRA), it becomes
/// `W + s · (m · V / norm − W)`, where `V = W + scale · Δ`; see [`Norm`] for whose norm it is. A
/// [`Delta::Replacement`] is the weight, at any strength.
///
/// Where `Δ` has more columns than `W`, `W` gets them with zeros; where it has fewer, since another file widened `W`, it
/// changes the first ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Adapter {
    /// What the adapter's keys in the file start with.
    pub name: String,
    /// The component that the layer belongs to.
    pub component: ComponentKind,
    /// The layer's canonical name.
    pub layer: String,
    /// The layer's parameter that [`delta`](Adapter::delta) changes: `weight`, or `scale` of an RMS norm.
    pub param: String,
    /// The shape of `Δ`: the weight's own, unless the adapter is for a part of the layer.
    pub shape: Vec<usize>,
    /// Which rows of `Δ` change which rows of the weight (and of the bias).
    pub rows: Vec<RowSpan>,
    /// The change of the weight.
    pub delta: Option<Delta>,
    /// What the change is multiplied with: alpha ÷ rank where the file has an alpha and the change a rank,
    /// else 1. An OFT's with a magnitude is its limit, as in ComfyUI.
    pub scale: f32,
    /// DoRA's magnitudes.
    pub magnitude: Option<Magnitude>,
    /// What is added to the bias, times the strength.
    pub bias: Option<BiasDelta>,
}

impl Adapter {
    /// Rows of `Δ`.
    pub fn height(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Values in a row of `Δ`.
    pub fn width(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// The keys of all tensors that the adapter is made of.
    pub fn keys(&self) -> Vec<&str> {
        let delta = self.delta.iter().flat_map(Delta::matrices).map(|matrix| matrix.key.as_str());
        let magnitude = self.magnitude.iter().map(|magnitude| magnitude.key.as_str());
        let bias = self.bias.iter().map(|bias| bias.key.as_str());
        delta.chain(magnitude).chain(bias).collect()
    }
}

/// `count` rows of an adapter's `Δ`, from `adapter` on, belong to the layer's rows from `layer` on.
///
/// An adapter made for a library that splits what the checkpoint fuses (`to_q` of a `qkv`) has a
/// part of the layer's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RowSpan {
    /// The first row in the adapter.
    pub adapter: usize,
    /// The first row in the layer.
    pub layer: usize,
    /// Number of rows.
    pub count: usize,
}

/// A change of a weight, seen as a matrix `[out, in × kernel]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Delta {
    /// One factor as it is: LoRA, LoCon, full differences.
    Plain(Factor),
    /// The elementwise product of two (LoHa), Hyeon-Woo et al., <https://arxiv.org/abs/2108.06098>.
    Hadamard(Factor, Factor),
    /// The Kronecker product of two (LoKr), Yeh et al., <https://arxiv.org/abs/2309.14859>. The second
    /// factor's columns have the kernel innermost.
    Kronecker(Factor, Factor),
    /// `W · first · second + added` (GLoRA), Chavan et al., <https://arxiv.org/abs/2306.07967>. `W` is the
    /// weight as earlier adapters left it. Where `first` has as many rows as `W` has inputs without its
    /// kernel, each place of the kernel is multiplied by itself.
    Generalised {
        /// `[in or in × kernel, rank]`.
        first: Matrix,
        /// `[rank, in or in × kernel]`.
        second: Matrix,
        /// What does not depend on the weight.
        added: Factor,
    },
    /// A rotation of the weight's rows, block by block.
    Rotation(Rotation),
    /// What takes the weight's place (ComfyUI's `set_weight`).
    Replacement(Matrix),
}

/// A rotation of a weight's rows: OFT (Qiu et al., <https://arxiv.org/abs/2306.07280>) or BOFT (Liu et al.,
/// <https://arxiv.org/abs/2311.06243>).
///
/// A stored block `B` stands for the rotation `R = (I + Q)(I − Q)⁻¹`, `Q = B − Bᵀ`. Where the norm of all `Q`
/// together is more than `limit`, which is over 0, they are scaled to it.
///
/// At strength `s`, `Δ` of an OFT is `s · (Rᵀ − I) · W`, each block for its rows. A BOFT's is what its stages
/// make of `W`, less `W`: stage `i` takes rows whose numbers differ by `2ⁱ · size / 2` together and multiplies
/// each block of them by `s · R + (1 − s) · I`. So the strength enters twice, as in ComfyUI.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rotation {
    /// The blocks' key: `[count, size, size]` for an OFT, `[stages, count, size, size]` for a BOFT.
    pub blocks: Matrix,
    /// A BOFT's stages; `None` for an OFT.
    pub stages: Option<usize>,
    /// Blocks of a stage; with `size` the rows of the weight.
    pub count: usize,
    /// Rows of a block.
    pub size: usize,
    /// The largest norm; 0 for none.
    pub limit: f32,
    /// A BOFT's lengths of the rows, or one for all of them.
    pub rescale: Option<Matrix>,
}

impl Delta {
    /// The matrices in the file.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let matrices = match self {
            Delta::Plain(factor) => factor.matrices(),
            Delta::Hadamard(first, second) | Delta::Kronecker(first, second) => {
                first.matrices().into_iter().chain(second.matrices()).collect()
            }
            Delta::Generalised { first, second, added } => {
                [first, second].into_iter().chain(added.matrices()).collect()
            }
            Delta::Rotation(Rotation { blocks, rescale, .. }) => {
                [blocks].into_iter().chain(rescale).collect()
            }
            Delta::Replacement(matrix) => vec![matrix],
        };
        matrices.into_iter()
    }
}

/// A matrix that the file stores whole or as a product.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// As it is.
    Whole(Matrix),
    /// `up · down` (Hu et al., <https://arxiv.org/abs/2106.09685>).
    LowRank {
        /// `[out, rank]`.
        up: Matrix,
        /// `[rank, in × kernel]`.
        down: Matrix,
    },
    /// Tucker's form of a convolution: `up · core[k] · down` for each place `k` of the kernel.
    Tucker {
        /// `[out, p]`.
        up: Matrix,
        /// `[p, q × kernel]`.
        core: Matrix,
        /// `[q, in]`.
        down: Matrix,
    },
}

impl Factor {
    fn matrices(&self) -> Vec<&Matrix> {
        match self {
            Factor::Whole(matrix) => vec![matrix],
            Factor::LowRank { up, down } => vec![up, down],
            Factor::Tucker { up, core, down } => vec![up, core, down],
        }
    }

    /// Rows of the product.
    pub fn rows(&self) -> usize {
        match self {
            Factor::Whole(matrix) => matrix.rows,
            Factor::LowRank { up, .. } | Factor::Tucker { up, .. } => up.rows,
        }
    }

    /// Columns of the product.
    pub fn columns(&self) -> usize {
        match self {
            Factor::Whole(matrix) => matrix.columns,
            Factor::LowRank { down, .. } => down.columns,
            Factor::Tucker { core, down, .. } => {
                down.columns * core.columns.checked_div(down.rows).unwrap_or(0)
            }
        }
    }
}

/// A tensor of the file, seen as a matrix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// The tensor's key.
    pub key: String,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Whether the file stores the transpose.
    pub transposed: bool,
}

/// The lengths that DoRA gives to a weight's rows or columns, Liu et al.,
/// <https://arxiv.org/abs/2402.09353>.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Magnitude {
    /// The tensor's key.
    pub key: String,
    /// What a length belongs to.
    pub axis: Axis,
    /// Whose lengths the weights are divided by.
    pub norm: Norm,
}

/// Whose lengths DoRA's are put in the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Those of the weight before this adapter, plus the ε of its dtype: `dora_scale` of outputs, as ComfyUI
    /// applies it.
    Before,
    /// Those of the changed weight, plus the ε of its dtype: `dora_scale` of inputs, as ComfyUI applies it.
    Changed,
    /// Those of the changed weight: `lora_magnitude_vector`, as PEFT applies it. ComfyUI does not read it.
    Exact,
}

/// What one of DoRA's lengths belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// An output channel: the weight's rows.
    Output,
    /// An input channel.
    Input,
}

/// What is added to a bias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BiasDelta {
    /// The tensor's key.
    pub key: String,
    /// Whether [`Adapter::scale`] goes for it too: PEFT's `lora_B.bias`.
    pub scaled: bool,
}
