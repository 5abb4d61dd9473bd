//! An autoencoder as nodes hand it on.

use std::fmt;
use std::sync::Arc;

use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::config::{TinyVaeConfig, TinyVaeHalf, VaeConfig};
use distorch_models::ModelError;
use distorch_models::estimate::Workload;
use distorch_models::tiny_vae::{self, TinyVae};
use distorch_models::vae::{self, Posterior};
use distorch_models::vae_tiled::Tiling;
use distorch_runtime::lora::LoraPatch;
use distorch_runtime::tensor::{DType, cpu};
use distorch_runtime::{Scope, Tensor};

use crate::error::{Argument, PipelineError};
use crate::finite::{self, NotFinite};
use crate::image::Pictures;
use crate::models::part::Part;
use crate::models::shortage::{TilesHelp, shortage_in};
use crate::run::Run;

/// An autoencoder.
#[derive(Clone)]
pub struct Vae(Kind);

#[derive(Clone)]
enum Kind {
    /// A network with its weights.
    Network(Network),
    /// Two halves that see latents as the diffusion model does.
    Tiny(Tiny),
    /// No network: a latent is the picture itself, from -1 to 1, for models that sample pixels.
    Pixels,
}

/// A tiny autoencoder.
#[derive(Clone)]
struct Tiny {
    encoder: Network<TinyVaeConfig>,
    decoder: Network<TinyVaeConfig>,
    /// How the diffusion model's latents come from an autoencoder's.
    format: TinyFormat,
}

/// What tells the latents that a tiny autoencoder sees from a whole one's: `(latent - shift) · scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TinyFormat {
    /// What a latent is multiplied with after `shift` was taken off.
    pub scale: f64,
    /// What is taken off a latent.
    pub shift: f64,
}

/// Channels of a picture.
const COLOURS: usize = 3;

impl Vae {
    /// The one whose latents are the pictures themselves: `[batch, 3, height, width]`, from -1 to 1.
    pub fn pixels() -> Self {
        Self(Kind::Pixels)
    }

    /// The autoencoder of a part.
    ///
    /// # Errors
    /// When the part's file holds none.
    pub fn new(part: Arc<Part>) -> Result<Self, PipelineError> {
        let file = part.file();
        let config = file
            .model
            .vae
            .clone()
            .ok_or_else(|| PipelineError::failed(format!("`{}` has no VAE", file.name)))?;
        Ok(Self(Kind::Network(Network { part, config: Arc::new(config) })))
    }

    /// The tiny autoencoder of two parts.
    ///
    /// # Errors
    /// When one is not the half that it should be, or they have latents of different channels.
    pub fn tiny(
        encoder: Arc<Part>,
        decoder: Arc<Part>,
        format: TinyFormat,
    ) -> Result<Self, PipelineError> {
        let half = |part: Arc<Part>, half: TinyVaeHalf, name: &str| {
            let file = part.file();
            let found = file.model.tiny_vae.clone().filter(|config| config.half == half);
            let config = found.ok_or_else(|| {
                let label = file.model.label();
                PipelineError::failed(format!("`{}` is no tiny {name}: it is {label}", file.name))
            })?;
            Ok::<_, PipelineError>(Network { part, config: Arc::new(config) })
        };
        let encoder = half(encoder, TinyVaeHalf::Encoder, "encoder")?;
        let decoder = half(decoder, TinyVaeHalf::Decoder, "decoder")?;
        let [made, read] = [&encoder, &decoder].map(|half| half.config.latent_channels);
        if made != read {
            return Err(PipelineError::failed(format!(
                "`{}` makes latents of {made} channels, but `{}` reads {read}",
                encoder.part.file().name,
                decoder.part.file().name,
            )));
        }
        Ok(Self(Kind::Tiny(Tiny { encoder, decoder, format })))
    }

    /// The weights of its networks.
    pub fn parts(&self) -> Vec<&Arc<Part>> {
        match &self.0 {
            Kind::Network(network) => vec![&network.part],
            Kind::Tiny(tiny) => vec![&tiny.encoder.part, &tiny.decoder.part],
            Kind::Pixels => Vec::new(),
        }
    }

    /// Pixels of a picture to one of the latent.
    pub fn downscale(&self) -> usize {
        match &self.0 {
            Kind::Network(network) => network.config.downscale(),
            Kind::Tiny(_) => tiny_vae::DOWNSCALE,
            Kind::Pixels => 1,
        }
    }

    /// Whether the pictures have a fourth channel, opacity.
    fn reads_opacity(&self) -> bool {
        matches!(&self.0, Kind::Network(network) if network.config.in_channels == COLOURS + 1)
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match &self.0 {
            Kind::Network(network) => network.config.latent_channels,
            Kind::Tiny(tiny) => tiny.decoder.config.latent_channels,
            Kind::Pixels => COLOURS,
        }
    }

    /// The pictures of latents, one after the other; tile by tile where `tiling` says so.
    ///
    /// # Errors
    /// When the latents are empty or have other channels than this VAE's, the tiling leaves gaps, or the
    /// weights cannot be had.
    pub fn decode(
        &self,
        run: &Run<'_>,
        latents: &Tensor<4>,
        tiling: Option<Tiling>,
    ) -> Result<Pictures, PipelineError> {
        let [batch, channels, height, width] = latents.dims();
        let wrong = |problem: String| Err(PipelineError::argument(Argument::Latents, problem));
        if batch == 0 || height == 0 || width == 0 {
            return wrong(format!("{batch} latents of {width}×{height} have no pixel to decode"));
        }
        if channels != self.latent_channels() {
            return wrong(format!(
                "latents of {channels} channels, but this VAE decodes {}: take the VAE of the model \
                 that made them",
                self.latent_channels(),
            ));
        }
        if matches!(self.0, Kind::Pixels) {
            return Pictures::from_decoded(latents.clone()).map_err(PipelineError::failed);
        }
        if let Some(tiling) = tiling {
            tiling
                .check_decode([height, width], self.downscale())
                .map_err(|error| PipelineError::argument(Argument::Tiling, error))?;
        }
        let sides = [height, width].map(|side| side.saturating_mul(self.downscale()));
        let decoded = match &self.0 {
            Kind::Pixels => latents.clone(),
            Kind::Network(network) => network.each(
                run,
                latents.clone(),
                sides,
                tiling,
                vae::Vae::load,
                |vae, latent, tiling| match tiling {
                    Some(tiling) => vae.decode_tiled(latent, tiling),
                    None => vae.decode(latent),
                },
            )?,
            Kind::Tiny(Tiny { decoder, format, .. }) => {
                let latents = (latents.clone() - format.shift) * format.scale;
                let made = decoder.each(
                    run,
                    latents,
                    sides,
                    tiling,
                    TinyVae::load,
                    |vae, latent, tiling| match tiling {
                        Some(tiling) => vae.decode_tiled(latent, tiling),
                        None => vae.decode(latent),
                    },
                )?;
                made * 2.0 - 1.0
            }
        };
        Pictures::from_decoded(decoded).map_err(PipelineError::failed)
    }

    /// The latents of pictures, one after the other; tile by tile where `tiling` says so. Sides
    /// are cut to whole latent pixels, as much on either side.
    ///
    /// # Errors
    /// When there is no picture or one is smaller than a latent pixel, the tiling leaves gaps, or the
    /// weights cannot be had.
    pub fn encode(
        &self,
        run: &Run<'_>,
        pictures: &Pictures,
        tiling: Option<Tiling>,
    ) -> Result<Tensor<4>, PipelineError> {
        let side = self.downscale();
        let [batch, height, width, channels] = pictures.shape();
        let wrong = |problem: String| Err(PipelineError::argument(Argument::Pictures, problem));
        if batch == 0 || channels == 0 {
            return wrong("there is no picture in the batch".to_owned());
        }
        if height < side || width < side {
            return wrong(format!(
                "a picture of {width}×{height} pixels is smaller than one pixel of the VAE's latents, \
                 which is {side}×{side}: scale it up first"
            ));
        }
        if let Some(tiling) = tiling.filter(|_| !matches!(self.0, Kind::Pixels)) {
            tiling
                .check_encode([height, width], side)
                .map_err(|error| PipelineError::argument(Argument::Tiling, error))?;
        }
        let pixels = match self.reads_opacity() {
            true => pictures.with_opacity(),
            false => pictures.colours(),
        };
        let pixels = pixels.channels_first() * 2.0 - 1.0;
        if matches!(self.0, Kind::Pixels) {
            return Ok(pixels);
        }
        let cut = |pixels: Tensor<4>, dim: usize, length: usize| {
            pixels.narrow(dim, length % side / 2, length / side * side)
        };
        let pixels = cut(cut(pixels, 2, height), 3, width);
        let [_, _, height, width] = pixels.dims();
        let sides = [height, width];
        match &self.0 {
            Kind::Pixels => Ok(pixels),
            Kind::Network(network) => {
                network.each(run, pixels, sides, tiling, vae::Vae::load, |vae, picture, tiling| {
                    let posterior = match tiling {
                        Some(tiling) => vae.encode_tiled(picture, tiling),
                        None => vae.encode(picture),
                    };
                    posterior.map(Posterior::mode)
                })
            }
            Kind::Tiny(Tiny { encoder, format, .. }) => {
                let pixels = pixels * 0.5 + 0.5;
                let made = encoder.each(
                    run,
                    pixels,
                    sides,
                    tiling,
                    TinyVae::load,
                    |vae, picture, tiling| match tiling {
                        Some(tiling) => vae.encode_tiled(picture, tiling),
                        None => vae.encode(picture),
                    },
                )?;
                Ok(made / format.scale + format.shift)
            }
        }
    }
}

/// A network with its weights.
#[derive(Clone)]
struct Network<C = VaeConfig> {
    part: Arc<Part>,
    config: Arc<C>,
}

impl<C> Network<C> {
    /// Runs over a batch of pictures of these sides one by one; in and out on the CPU in f32.
    fn each<N>(
        &self,
        run: &Run<'_>,
        batch: Tensor<4>,
        sides: [usize; 2],
        tiling: Option<Tiling>,
        open: impl Fn(&Scope, &C) -> Result<N, ModelError>,
        convert: impl Fn(&N, Tensor<4>, Option<Tiling>) -> Result<Tensor<4>, ModelError>,
    ) -> Result<Tensor<4>, PipelineError> {
        let (device, dtype) = (self.part.device(), self.part.activation_dtype());
        let count = batch.dims()[0];
        let mut tiling = tiling;
        let mut out = Vec::with_capacity(count);
        while out.len() < count {
            if run.cancelled() {
                return Err(PipelineError::Cancelled);
            }
            let picture = piece(sides, tiling);
            let one = batch.clone().narrow(0, out.len(), 1).to_device(device).cast(dtype);
            let made = self.load(run, picture, &open).and_then(|vae| {
                run.attempt(&self.part, picture, || {
                    convert(&vae, one.clone(), tiling).map_err(PipelineError::failed)
                })
            });
            match made {
                Ok(made) => {
                    let made = made.cast(DType::F32).to_device(&cpu());
                    self.check(run, &one, &made, out.len())?;
                    out.push(made);
                }
                Err(error) => tiling = Some(self.smaller(run, error, sides, tiling)?),
            }
            if count > 1 && !out.is_empty() {
                run.step(out.len(), count, None);
            }
        }
        match out.len() {
            0 => Err(PipelineError::failed("there is no picture in the batch")),
            1 => Ok(out.remove(0)),
            _ => Ok(Tensor::cat(out, 0)),
        }
    }

    /// Refuses a result that is not finite, of a picture or latent that is.
    fn check(
        &self,
        run: &Run<'_>,
        from: &Tensor<4>,
        made: &Tensor<4>,
        place: usize,
    ) -> Result<(), PipelineError> {
        let Some(odd) = finite::odd_in(made) else { return Ok(()) };
        let number = place + 1;
        let found = match finite::odd_in(from) {
            None => finite::given_by(&self.part, odd, &format!("for picture {number}")),
            Some(odd) => NotFinite {
                found: format!("what the VAE is given holds {odd} in number {number} of the batch"),
                remedy: "look at the node before it".to_owned(),
            },
        };
        finite::refuse(run, found)
    }

    /// The tiles that need less memory than what ran out of it; the error itself where that is not what
    /// failed, or nobody wants it done again.
    fn smaller(
        &self,
        run: &Run<'_>,
        error: PipelineError,
        sides: [usize; 2],
        tiling: Option<Tiling>,
    ) -> Result<Tiling, PipelineError> {
        let Some(shortage) = shortage_in(&error) else { return Err(error) };
        let now = tiling.map_or(usize::MAX, |tiling| tiling.tile);
        let largest = sides.into_iter().max().unwrap_or(0).min(now);
        let smaller = TILES.into_iter().find(|tiling| tiling.tile < largest);
        match smaller.filter(|_| run.session().models.retries()) {
            None => Err(PipelineError::failed(TilesHelp { shortage: shortage.error.clone() })),
            Some(tiling) => {
                let short = &shortage.error;
                run.warn(&format!("{short}; going on in tiles of {} pixels", tiling.tile));
                Ok(tiling)
            }
        }
    }

    fn load<N>(
        &self,
        run: &Run<'_>,
        picture: Workload,
        open: impl Fn(&Scope, &C) -> Result<N, ModelError>,
    ) -> Result<N, PipelineError> {
        let scope = run.load(&self.part, &LoraPatch::new(ComponentKind::Vae), picture)?;
        open(&scope, &self.config).map_err(PipelineError::failed)
    }
}

/// Tiles that are tried where there is too little memory, each needing less than the one before.
const TILES: [Tiling; 4] = [
    Tiling { tile: 1024, overlap: 64 },
    Tiling { tile: 512, overlap: 64 },
    Tiling { tile: 256, overlap: 64 },
    Tiling { tile: 128, overlap: 32 },
];

/// What of a picture is in memory at once.
fn piece(sides: [usize; 2], tiling: Option<Tiling>) -> Workload {
    let most = tiling.map_or(usize::MAX, |tiling| tiling.tile);
    let [height, width] = sides.map(|side| u32::try_from(side.min(most)).unwrap_or(u32::MAX));
    Workload { width, height, batch: 1, cfg_batch: 1 }
}

impl fmt::Debug for Vae {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Network(network) => write!(f, "VAE of {}", network.part.file().name),
            Kind::Tiny(tiny) => write!(f, "tiny VAE of {}", tiny.decoder.part.file().name),
            Kind::Pixels => f.write_str("VAE that leaves pictures as they are"),
        }
    }
}
