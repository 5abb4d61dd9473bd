//! An autoencoder as nodes hand it on.

use std::fmt;
use std::sync::Arc;

use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::config::VaeConfig;
use distorch_models::vae::{self, Posterior};
use distorch_models::vae_tiled::Tiling;
use distorch_runtime::Tensor;
use distorch_runtime::lora::LoraPatch;
use distorch_runtime::tensor::{DType, cpu};

use crate::execute::Context;
use crate::inputs::NodeError;
use crate::models::Part;
use crate::picture::Pictures;

/// An autoencoder.
#[derive(Clone)]
pub struct Vae {
    part: Arc<Part>,
    config: Arc<VaeConfig>,
}

impl Vae {
    /// The autoencoder of a part.
    ///
    /// # Errors
    /// When the part's file holds none.
    pub fn new(part: Arc<Part>) -> Result<Self, NodeError> {
        let file = part.file();
        let config = file
            .model
            .vae
            .clone()
            .ok_or_else(|| NodeError::failed(format!("`{}` has no VAE", file.name)))?;
        Ok(Self { part, config: Arc::new(config) })
    }

    /// Pixels of a picture to one of the latent.
    pub fn downscale(&self) -> usize {
        self.config.downscale()
    }

    /// The pictures of latents, one after the other; tile by tile where `tiling` says so.
    ///
    /// # Errors
    /// When the weights cannot be had, or the latents do not fit.
    pub fn decode(
        &self,
        context: &Context<'_>,
        latents: &Tensor<4>,
        tiling: Option<Tiling>,
    ) -> Result<Pictures, NodeError> {
        let vae = self.load(context)?;
        let decoded = self.each(context, latents.clone(), |latent| match tiling {
            Some(tiling) => vae.decode_tiled(latent, tiling),
            None => vae.decode(latent),
        })?;
        Pictures::from_decoded(decoded).map_err(NodeError::failed)
    }

    /// The latents of pictures, one after the other; tile by tile where `tiling` says so. Sides
    /// are cut to whole latent pixels, as much on either side.
    ///
    /// # Errors
    /// When the weights cannot be had, or the pictures do not fit.
    pub fn encode(
        &self,
        context: &Context<'_>,
        pictures: &Pictures,
        tiling: Option<Tiling>,
    ) -> Result<Tensor<4>, NodeError> {
        let vae = self.load(context)?;
        let side = self.downscale();
        let pixels = pictures.colours().channels_first() * 2.0 - 1.0;
        let [_, _, height, width] = pixels.dims();
        let cut = |pixels: Tensor<4>, dim: usize, length: usize| {
            pixels.narrow(dim, length % side / 2, length / side * side)
        };
        let pixels = cut(cut(pixels, 2, height), 3, width);
        self.each(context, pixels, |picture| {
            let posterior = match tiling {
                Some(tiling) => vae.encode_tiled(picture, tiling),
                None => vae.encode(picture),
            };
            posterior.map(Posterior::mode)
        })
    }

    /// Runs over a batch one by one; in and out on the CPU in f32.
    fn each(
        &self,
        context: &Context<'_>,
        batch: Tensor<4>,
        run: impl Fn(Tensor<4>) -> Result<Tensor<4>, distorch_models::ModelError>,
    ) -> Result<Tensor<4>, NodeError> {
        let (device, dtype) = (self.part.device(), self.part.dtype());
        let count = batch.dims()[0];
        let mut out = Vec::with_capacity(count);
        for place in 0..count {
            if context.cancelled() {
                return Err(NodeError::Interrupted);
            }
            let one = batch.clone().narrow(0, place, 1).to_device(device).cast(dtype);
            let one = run(one).map_err(NodeError::failed)?;
            out.push(one.cast(DType::F32).to_device(&cpu()));
            if count > 1 {
                context.step(place + 1, count, None);
            }
        }
        match out.len() {
            0 => Err(NodeError::failed("there is no picture in the batch")),
            1 => Ok(out.remove(0)),
            _ => Ok(Tensor::cat(out, 0)),
        }
    }

    fn load(&self, context: &Context<'_>) -> Result<vae::Vae, NodeError> {
        let scope = context.load(&self.part, &LoraPatch::new(ComponentKind::Vae))?;
        vae::Vae::load(&scope, &self.config).map_err(NodeError::failed)
    }
}

impl fmt::Debug for Vae {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VAE of {}", self.part.file().name)
    }
}
