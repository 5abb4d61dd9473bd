//! Runs single stages of a checkpoint on given inputs, for comparison with another implementation.
//!
//! ```sh
//! cargo run --release -p distorch-models --example stages -- CHECKPOINT INPUTS OUTPUTS [DEVICE [DTYPE]]
//! ```
//!
//! INPUTS is a safetensors file. A stage is run where its inputs are there, and its component is loaded
//! for as long as it runs; OUTPUTS gets what comes out, in f32. `tools/reference/compare_full_size.py` uses this.
//!
//! | inputs | outputs |
//! | --- | --- |
//! | `clip_l.tokens` or `clip_g.tokens`, … `[texts, 77]` i32 | `NAME.last` (behind the final norm), `NAME.penultimate`, `NAME.pooled` |
//! | `unet.x`, `unet.timesteps`, `unet.context`, for SDXL `unet.pooled` and `unet.size` | `unet.out` |
//! | `vae.picture` | `vae.mean`, `vae.logvar` |
//! | `vae.latent` | `vae.decoded` |
//!
//! `unet.size` holds the numbers of SDXL's class vector in their order: height, width, top, left, and the
//! target's height and width; for the refiner, the aesthetic score in place of these two.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use distorch_allocation::DeviceId;
use distorch_checkpoint::config::{DiffusionConfig, TextEncoderConfig};
use distorch_checkpoint::family::{Model, recognise};
use distorch_checkpoint::{Checkpoint, ComponentKind};
use distorch_models::clip::{ClipRequest, ClipTextEncoder, Pooling};
use distorch_models::conditioning::{PictureSize, refiner_vector, sdxl_vector};
use distorch_models::prompt::token::Token;
use distorch_models::unet::Unet;
use distorch_models::vae::Vae;
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Device, Resident, Scope, Tensor, devices};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (paths, device, dtype) = match arguments.as_slice() {
        [paths @ .., device, dtype] if paths.len() == 3 => (paths, device.as_str(), dtype.as_str()),
        [paths @ .., device] if paths.len() == 3 => (paths, device.as_str(), "f32"),
        paths if paths.len() == 3 => (paths, "cpu", "f32"),
        _ => return Err("usage: stages CHECKPOINT INPUTS OUTPUTS [DEVICE [DTYPE]]".into()),
    };
    let dtype = match dtype {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => return Err(format!("`{other}` is no dtype: f32, f16 or bf16").into()),
    };
    let id: DeviceId = device.parse()?;
    let survey = devices::survey();
    let known = survey.devices.iter().find(|known| known.info.id == id);
    let info = &known.ok_or_else(|| format!("there is no {id} here"))?.info;
    let bytes = std::fs::read(&paths[1])?;
    let checkpoint = Checkpoint::open(Path::new(&paths[0]))?;
    let model = recognise(&checkpoint)?;
    let mut run = Run {
        inputs: SafeTensors::deserialize(&bytes)?,
        outputs: BTreeMap::new(),
        device: devices::open(info)?,
        dtype,
        checkpoint,
        model,
    };
    run.text()?;
    run.unet()?;
    run.vae()?;
    run.save(&paths[2])
}

struct Run<'a> {
    inputs: SafeTensors<'a>,
    outputs: BTreeMap<String, TensorData>,
    device: Device,
    dtype: DType,
    checkpoint: Checkpoint,
    model: Model,
}

impl Run<'_> {
    /// Every text encoder whose tokens are given.
    fn text(&mut self) -> Result<()> {
        let encoders = self.model.text_encoders.clone();
        if !encoders.iter().any(|encoder| self.has(&format!("{}.tokens", encoder.name))) {
            return Ok(());
        }
        let scope = self.component(ComponentKind::TextEncoders)?;
        for encoder in encoders {
            let (TextEncoderConfig::Clip(config), name) = (&encoder.config, encoder.name) else {
                continue;
            };
            let Some(tokens) = self.tokens(&format!("{name}.tokens"))? else { continue };
            let clip = ClipTextEncoder::load(config, &scope.at(name))?;
            let start = Instant::now();
            let ask = |layer_from_end, final_layer_norm| {
                clip.forward(
                    &tokens,
                    ClipRequest {
                        layer_from_end,
                        final_layer_norm,
                        pooled: Some(Pooling::Projected),
                    },
                )
            };
            let (last, penultimate) = (ask(1, true)?, ask(2, false)?);
            self.give(&format!("{name}.last"), last.hidden)?;
            self.give(&format!("{name}.penultimate"), penultimate.hidden)?;
            self.give(&format!("{name}.pooled"), last.pooled.ok_or("no pooled output")?)?;
            self.told(name, start);
        }
        Ok(())
    }

    /// One call of the UNet.
    fn unet(&mut self) -> Result<()> {
        let Some(x) = self.input::<4>("unet.x")? else { return Ok(()) };
        let timesteps = self.input::<1>("unet.timesteps")?.ok_or("no unet.timesteps")?;
        let context = self.input::<3>("unet.context")?.ok_or("no unet.context")?;
        let pooled = self.input::<2>("unet.pooled")?;
        let y = pooled.map(|pooled| self.class_vector(pooled)).transpose()?;
        let diffusion = self.model.diffusion.clone().ok_or("no diffusion model")?;
        let DiffusionConfig::Unet(config) = &diffusion.config else {
            return Err("the diffusion model is no UNet".into());
        };
        let unet = Unet::load(&self.component(ComponentKind::DiffusionModel)?, config)?;
        let start = Instant::now();
        let out = unet.forward(x.cast(self.dtype), timesteps, context, y)?;
        self.give("unet.out", out)?;
        self.told("unet", start);
        Ok(())
    }

    fn class_vector(&self, pooled: Tensor<2>) -> Result<Tensor<2>> {
        let numbers = self.values("unet.size")?.ok_or("no unet.size")?;
        match numbers.as_slice() {
            &[height, width, crop_y, crop_x, target_height, target_width] => {
                let size =
                    PictureSize { width, height, crop_x, crop_y, target_width, target_height };
                Ok(sdxl_vector(pooled, size))
            }
            &[height, width, crop_y, crop_x, score] => {
                let size = PictureSize { width, height, crop_x, crop_y, ..PictureSize::new(0, 0) };
                Ok(refiner_vector(pooled, size, score))
            }
            other => Err(format!("unet.size has {} numbers, not 6 or 5", other.len()).into()),
        }
    }

    /// The VAE both ways.
    fn vae(&mut self) -> Result<()> {
        let (picture, latent) = (self.input::<4>("vae.picture")?, self.input::<4>("vae.latent")?);
        if picture.is_none() && latent.is_none() {
            return Ok(());
        }
        let config = self.model.vae.clone().ok_or("no VAE")?;
        let vae = Vae::load(&self.component(ComponentKind::Vae)?, &config)?;
        let start = Instant::now();
        if let Some(picture) = picture {
            let posterior = vae.encode(picture.cast(self.dtype))?;
            self.give("vae.mean", posterior.mean)?;
            self.give("vae.logvar", posterior.log_variance)?;
        }
        if let Some(latent) = latent {
            self.give("vae.decoded", vae.decode(latent.cast(self.dtype))?)?;
        }
        self.told("vae", start);
        Ok(())
    }

    fn component(&self, kind: ComponentKind) -> Result<Scope> {
        let start = Instant::now();
        let component = self.model.component(kind).ok_or("a component is missing")?;
        let (device, dtype) = (self.device.clone(), self.dtype);
        let resident = Resident::load(&self.checkpoint, component, device, dtype, |_| {})?;
        self.told("loading", start);
        Ok(Scope::new(Arc::new(resident)))
    }

    fn has(&self, name: &str) -> bool {
        self.inputs.tensor(name).is_ok()
    }

    /// The input of this name, on the device in f32.
    fn input<const D: usize>(&self, name: &str) -> Result<Option<Tensor<D>>> {
        let Ok(view) = self.inputs.tensor(name) else { return Ok(None) };
        let shape = view.shape().to_vec();
        if shape.len() != D {
            return Err(format!("{name} has the shape {shape:?}, not {D} dimensions").into());
        }
        let values = self.values(name)?.unwrap_or_default();
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        let data = TensorData::new(values, shape);
        Ok(Some(Tensor::from_data(data, (&self.device, DType::F32))))
    }

    fn values(&self, name: &str) -> Result<Option<Vec<f64>>> {
        let Ok(view) = self.inputs.tensor(name) else { return Ok(None) };
        if view.dtype() != Dtype::F32 {
            return Err(format!("{name} is {:?}, not f32", view.dtype()).into());
        }
        let (values, _) = view.data().as_chunks::<4>();
        Ok(Some(values.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()))
    }

    fn tokens(&self, name: &str) -> Result<Option<Vec<Vec<Token>>>> {
        let Ok(view) = self.inputs.tensor(name) else { return Ok(None) };
        let (Dtype::I32, &[_, length]) = (view.dtype(), view.shape()) else {
            return Err(format!("{name} is no [texts, tokens] in i32").into());
        };
        let (values, _) = view.data().as_chunks::<4>();
        let ids = values.iter().map(|bytes| Token::Id(u32::from_le_bytes(*bytes)));
        let ids: Vec<_> = ids.collect();
        Ok(Some(ids.chunks(length.max(1)).map(<[_]>::to_vec).collect()))
    }

    fn give<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> Result<()> {
        let data = tensor.try_into_data().map_err(|error| format!("{name}: {error:?}"))?;
        self.outputs.insert(name.to_owned(), data.convert::<f32>());
        Ok(())
    }

    fn told(&self, what: &str, start: Instant) {
        eprintln!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    }

    fn save(&self, path: &str) -> Result<()> {
        let views = self.outputs.iter().map(|(name, data)| {
            Ok((name, TensorView::new(Dtype::F32, data.shape.to_vec(), data.as_bytes())?))
        });
        let views: Vec<_> = views.collect::<Result<_>>()?;
        Ok(safetensors::serialize_to_file(views, None, Path::new(path))?)
    }
}
