//! What a diffusion model is told about the picture: prompts, and where and when each counts.

use std::sync::Arc;

use distorch_models::conditioning::PictureSize;
use distorch_models::network::ReferenceMethod;
use distorch_runtime::Tensor;

use crate::image::Mask;
use crate::latent::Latent;

/// Conditionings that count together.
#[derive(Clone, Debug)]
pub struct Conditioning(Arc<[Cond]>);

impl Conditioning {
    /// These conditionings together.
    pub fn new(conds: Vec<Cond>) -> Self {
        Self(conds.into())
    }

    /// One by one.
    pub fn conds(&self) -> &[Cond] {
        &self.0
    }

    /// The same with a change to each.
    pub fn map(&self, change: impl FnMut(&Cond) -> Cond) -> Self {
        Self(self.0.iter().map(change).collect())
    }

    /// Values in memory.
    pub fn elements(&self) -> usize {
        let pooled = |cond: &Cond| cond.pooled.as_ref().map_or(0, |p| p.shape().num_elements());
        self.0.iter().map(|cond| cond.context.shape().num_elements() + pooled(cond)).sum()
    }
}

/// One conditioning.
#[derive(Clone, Debug)]
pub struct Cond {
    /// For the cross-attention: `[1, tokens, width]`, f32, on the CPU.
    pub context: Tensor<3>,
    /// The prompt's summary: `[1, width]`.
    pub pooled: Option<Tensor<2>>,
    /// What SDXL is told of the picture's size; else the size of the latent.
    pub size: Option<PictureSize>,
    /// The aesthetic score that the SDXL refiner is told; else that of its half.
    pub aesthetic_score: Option<f64>,
    /// The part of the picture that it counts for; else all.
    pub area: Option<Place>,
    /// How much it counts beside others.
    pub strength: f64,
    /// Where it counts.
    pub mask: Option<CondMask>,
    /// When it begins to count: a part of the way from noise (0) to picture (1).
    pub start: f64,
    /// When it ends to count.
    pub end: f64,
    /// The picture that an inpainting, editing or control model is given beside the noisy latent.
    pub picture: Option<ConcatPicture>,
    /// The strength of a distilled guidance.
    pub guidance: Guidance,
    /// Latents of further pictures that the model looks at, before scaling.
    pub reference_latents: Vec<Tensor<4>>,
    /// Where these are beside the noisy latent.
    pub reference_method: ReferenceMethod,
    /// Before which of its tokens each of these stands, for models that read both as one sequence; those without a number
    /// stand behind the text.
    pub reference_slots: Vec<usize>,
}

/// How strong the guidance is that a model was distilled with (Flux dev). Other models do not read it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Guidance {
    /// The model's usual one.
    #[default]
    Usual,
    /// So strong.
    Strength(f64),
    /// The model is not told any.
    Off,
}

impl Guidance {
    /// What a model is told that has `usual` where nobody says another; `None` where it reads none.
    pub fn strength(self, usual: Option<f64>) -> Option<f64> {
        match self {
            Guidance::Usual => usual,
            Guidance::Strength(strength) => usual.map(|_| strength),
            Guidance::Off => None,
        }
    }
}

/// A part of a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// A rectangle in the latent's pixels.
    Pixels(Area),
    /// A rectangle in parts of the latent's sides, from 0 to 1.
    Parts {
        /// Rows.
        height: f64,
        /// Columns.
        width: f64,
        /// The first row.
        y: f64,
        /// The first column.
        x: f64,
    },
}

impl Place {
    /// The rectangle in a latent of so many pixels. It may reach beyond.
    pub fn area(self, rows: usize, columns: usize) -> Area {
        let of = |part: f64, side: usize| (part * side as f64).round_ties_even() as usize;
        match self {
            Place::Pixels(area) => area,
            Place::Parts { height, width, y, x } => Area {
                height: of(height, rows).max(1),
                width: of(width, columns).max(1),
                y: of(y, rows),
                x: of(x, columns),
            },
        }
    }
}

/// A rectangle of a latent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// The first row.
    pub y: usize,
    /// The first column.
    pub x: usize,
}

/// A mask of a conditioning.
#[derive(Clone, Debug)]
pub struct CondMask {
    /// The mask, of any size.
    pub mask: Mask,
    /// What it is multiplied with.
    pub strength: f64,
    /// Whether only the rectangle around its values above 0 is computed.
    pub to_bounds: bool,
}

/// A picture whose latent goes into a model beside the noisy one.
#[derive(Clone, Debug)]
pub struct ConcatPicture {
    /// The latent before scaling; of a picture to be filled in, with that part greyed out.
    pub latent: Latent,
    /// 1 where it is to be filled in.
    pub mask: Option<Mask>,
}

impl Area {
    /// Pixels.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Whether it lies within another.
    pub fn is_inside(self, other: Area) -> bool {
        self.y >= other.y
            && self.x >= other.x
            && self.y + self.height <= other.y + other.height
            && self.x + self.width <= other.x + other.width
    }
}

impl Cond {
    /// A prompt that counts everywhere and always.
    pub fn new(context: Tensor<3>, pooled: Option<Tensor<2>>) -> Self {
        Self {
            context,
            pooled,
            size: None,
            aesthetic_score: None,
            area: None,
            strength: 1.0,
            mask: None,
            start: 0.0,
            end: 1.0,
            picture: None,
            guidance: Guidance::default(),
            reference_latents: Vec::new(),
            reference_method: ReferenceMethod::default(),
            reference_slots: Vec::new(),
        }
    }
}
