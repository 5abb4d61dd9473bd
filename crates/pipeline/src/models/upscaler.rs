//! A model that enlarges pictures, as nodes hand it on.

use std::fmt;
use std::sync::Arc;

use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::config::UpscalerConfig;
use distorch_models::estimate::Workload;
use distorch_models::upscaler;
use distorch_runtime::Tensor;
use distorch_runtime::lora::LoraPatch;
use distorch_runtime::tensor::{DType, cpu};

use crate::error::{Argument, PipelineError};
use crate::finite;
use crate::image::{Pictures, room};
use crate::models::part::Part;
use crate::models::shortage::shortage_in;
use crate::run::Run;

/// The side of a tile in pixels, as ComfyUI begins.
const TILE: usize = 512;

/// The smallest tile that is tried where there is too little memory.
const SMALLEST: usize = 128;

/// What neighbouring tiles share.
const OVERLAP: usize = 32;

/// A model that enlarges pictures.
#[derive(Clone)]
pub struct Upscaler {
    part: Arc<Part>,
    config: Arc<UpscalerConfig>,
}

impl Upscaler {
    /// The model of a part.
    ///
    /// # Errors
    /// When the part's file holds none.
    pub fn new(part: Arc<Part>) -> Result<Self, PipelineError> {
        let file = part.file();
        let config = file.model.upscaler.clone().ok_or_else(|| {
            PipelineError::failed(format!(
                "`{}` is no upscale model: it is {}",
                file.name,
                file.model.label()
            ))
        })?;
        Ok(Self { part, config: Arc::new(config) })
    }

    /// The model's weights.
    pub fn part(&self) -> &Arc<Part> {
        &self.part
    }

    /// How many times as long the sides become.
    pub fn scale(&self) -> usize {
        self.config.scale()
    }

    /// What of pictures of these sides is in memory at once, before it is enlarged.
    pub fn piece([height, width]: [usize; 2]) -> Workload {
        tile_of([height, width], TILE)
    }

    /// The pictures, enlarged one after the other in tiles; in smaller ones where memory is short.
    ///
    /// # Errors
    /// When there is no picture, no memory holds the result, or the weights cannot be had.
    pub fn enlarge(&self, run: &Run<'_>, pictures: &Pictures) -> Result<Pictures, PipelineError> {
        let [batch, height, width, channels] = pictures.shape();
        let wrong = |problem: String| Err(PipelineError::argument(Argument::Image, problem));
        if batch == 0 || height == 0 || width == 0 || channels == 0 {
            return wrong("there is no picture in the batch".to_owned());
        }
        let wanted = self.config.in_channels();
        let pixels = match wanted {
            3 => pictures.colours().channels_first(),
            _ if wanted == channels => pictures.channels_first(),
            _ => {
                return wrong(format!(
                    "the upscale model enlarges pictures of {wanted} channels, not of {channels}"
                ));
            }
        };
        let scale = self.scale();
        let sides = [height, width].map(|side| side.saturating_mul(scale));
        room([batch, sides[0], sides[1], wanted]).map_err(PipelineError::failed)?;
        let (device, dtype) = (self.part.device(), self.part.activation_dtype());
        let (mut out, mut tile): (Vec<Tensor<4>>, usize) = (Vec::with_capacity(batch), TILE);
        while out.len() < batch {
            if run.cancelled() {
                return Err(PipelineError::Cancelled);
            }
            let piece = tile_of([height, width], tile);
            let one = pixels.clone().narrow(0, out.len(), 1).to_device(device).cast(dtype);
            let made = self.network(run, piece).and_then(|network| {
                run.attempt(&self.part, piece, || {
                    network.forward_tiled(&one, tile, OVERLAP).map_err(PipelineError::failed)
                })
            });
            match made {
                Ok(made) => {
                    let made = made.cast(DType::F32).to_device(&cpu());
                    if let Some(odd) = finite::odd_in(&made) {
                        let place = format!("for picture {}", out.len() + 1);
                        finite::refuse(run, finite::given_by(&self.part, odd, &place))?;
                    }
                    out.push(made.clamp(0.0, 1.0));
                    if batch > 1 {
                        run.step(out.len(), batch, None);
                    }
                }
                Err(error) => tile = smaller(run, error, tile)?,
            }
        }
        let made = match out.len() {
            1 => out.remove(0),
            _ => Tensor::cat(out, 0),
        };
        Pictures::from_channels_first(made).map_err(PipelineError::failed)
    }

    fn network(&self, run: &Run<'_>, piece: Workload) -> Result<upscaler::Upscaler, PipelineError> {
        let scope = run.load(&self.part, &LoraPatch::new(ComponentKind::Upscaler), piece)?;
        upscaler::Upscaler::load(&scope, &self.config).map_err(PipelineError::failed)
    }
}

/// Half the tile where memory was what was lacking; else the error itself.
fn smaller(run: &Run<'_>, error: PipelineError, tile: usize) -> Result<usize, PipelineError> {
    match shortage_in(&error) {
        Some(shortage) if tile / 2 >= SMALLEST => {
            let (short, tile) = (&shortage.error, tile / 2);
            run.warn(&format!("{short}; going on in tiles of {tile} pixels"));
            Ok(tile)
        }
        _ => Err(error),
    }
}

fn tile_of(sides: [usize; 2], tile: usize) -> Workload {
    let [height, width] = sides.map(|side| u32::try_from(side.min(tile)).unwrap_or(u32::MAX));
    Workload { width, height, batch: 1, cfg_batch: 1 }
}

impl fmt::Debug for Upscaler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upscale model of {}", self.part.file().name)
    }
}
