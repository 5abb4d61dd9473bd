//! Previews by a tiny decoder.

use std::cell::Cell;
use std::sync::Arc;

use distorch_allocation::{ComponentInputs, DeviceId, LayoutChoice, LoaderInputs};
use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::config::TinyVaeHalf;
use distorch_checkpoint::folders::ModelKind;
use distorch_models::estimate::Workload;
use distorch_models::latent_format::LatentFormat;
use distorch_models::tiny_vae::{DOWNSCALE, TinyVae};
use distorch_runtime::Tensor;
use distorch_runtime::tensor::{DType, cpu};

use crate::error::PipelineError;
use crate::models::Part;
use crate::models::store::Loader;
use crate::models::tasks::{Task, Tasks};
use crate::preview::Preview;
use crate::run::Run;

/// What the names of tiny decoders start with, by the channels and the scale of the latents that they read.
const DECODERS: [(usize, f64, &str); 4] = [
    (4, 0.18215, "taesd_decoder"),
    (4, 0.13025, "taesdxl_decoder"),
    (16, 1.5305, "taesd3_decoder"),
    (16, 0.3611, "taef1_decoder"),
];

/// A preview of a latent as the model has it, where somebody wants one: by a decoder, else by its format's table.
pub(crate) fn preview(
    run: &Run<'_>,
    decoder: Option<&PreviewDecoder>,
    latent: &Tensor<4>,
    format: &LatentFormat,
) -> Option<Preview> {
    if !run.wants_previews() {
        return None;
    }
    let decoded = decoder.and_then(|decoder| decoder.preview(run, latent));
    decoded.or_else(|| Preview::of(latent, format))
}

/// A tiny decoder (TAESD) of `models/vae_approx`, which makes previews of a model's latents.
pub(crate) struct PreviewDecoder {
    part: Arc<Part>,
    /// Whether it is left alone from now on.
    has_failed: Cell<bool>,
}

impl PreviewDecoder {
    /// The decoder of latents of a format, placed on a device; `None`, with a warning, where there is none or it cannot
    /// be had.
    pub fn of(run: &Run<'_>, format: &LatentFormat, device: DeviceId) -> Option<Self> {
        let known = DECODERS.iter().find(|(channels, scale, _)| {
            *channels == format.channels && (scale - format.scale).abs() < 1e-6
        });
        let Some((.., start)) = known else {
            run.warn("previews: no tiny decoder reads this model's latents; its table of colours shows them");
            return None;
        };
        let listing = run.session().folders.list(ModelKind::VaeApprox).unwrap_or_default();
        let mut names = listing.entries.into_iter().map(|entry| entry.name);
        let Some(name) = names.find(|name| name.starts_with(start)) else {
            run.warn(&format!(
                "previews: there is no `{start}` in models/vae_approx; the model's table of colours shows its latents"
            ));
            return None;
        };
        match Self::place(run, &name, device) {
            Ok(decoder) => Some(decoder),
            Err(error) => {
                run.warn(&format!(
                    "previews: {error}; the model's table of colours shows its latents"
                ));
                None
            }
        }
    }

    fn place(run: &Run<'_>, name: &str, device: DeviceId) -> Result<Self, PipelineError> {
        let session = run.session();
        let path = session.folders.resolve(ModelKind::VaeApprox, name);
        let path = path.map_err(PipelineError::failed)?;
        let on_device = || Some(device.to_string());
        let inputs = LoaderInputs {
            unet: ComponentInputs::whole_on(on_device()),
            clip: ComponentInputs::whole_on(on_device()),
            vae_device: on_device(),
            layout: LayoutChoice::default(),
        };
        let settings = inputs.settings(session.topology()).map_err(PipelineError::failed)?;
        let loader = Loader {
            name,
            files: &path.into(),
            settings: &settings,
            kinds: &[ComponentKind::Vae],
            high_precision_loras: true,
            eject_models: false,
            tasks: Tasks { vae: Task::of(None), ..Tasks::default() },
        };
        let parts = run.place(&loader)?;
        let half = parts.file.model.tiny_vae.as_ref().map(|config| config.half);
        match parts.get(ComponentKind::Vae).filter(|_| half == Some(TinyVaeHalf::Decoder)) {
            Some(part) => Ok(Self { part: Arc::clone(part), has_failed: Cell::new(false) }),
            None => {
                let label = parts.file.model.label();
                Err(PipelineError::failed(format!("`{name}` is no tiny decoder: it is {label}")))
            }
        }
    }

    /// The preview of the first latent of a batch, as the model has it; `None`, with a warning, where it cannot be made.
    fn preview(&self, run: &Run<'_>, latent: &Tensor<4>) -> Option<Preview> {
        if self.has_failed.get() {
            return None;
        }
        let made = self.decoded(latent);
        self.part.rest();
        made.unwrap_or_else(|error| {
            self.has_failed.set(true);
            run.warn(&format!("previews: {error}; the model's table of colours shows its latents"));
            None
        })
    }

    fn decoded(&self, latent: &Tensor<4>) -> Result<Option<Preview>, PipelineError> {
        let [batch, _, height, width] = latent.dims();
        if batch == 0 || height == 0 || width == 0 {
            return Ok(None);
        }
        let [rows, columns] = [height, width].map(|side| side.saturating_mul(DOWNSCALE));
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let picture = Workload { width: side(columns), height: side(rows), batch: 1, cfg_batch: 1 };
        // Sampling goes on: no model leaves for a preview, and its decoder leaves before all others.
        self.part.expect(picture);
        let scope = self.part.scope(None, 0, &mut |_, _| {}).map_err(PipelineError::failed)?;
        let Some(config) = self.part.file().model.tiny_vae.clone() else { return Ok(None) };
        let decoder = TinyVae::load(&scope, &config).map_err(PipelineError::failed)?;
        let first = latent.clone().narrow(0, 0, 1).to_device(self.part.device());
        let first = first.cast(self.part.activation_dtype());
        let made = decoder.decode(first).map_err(PipelineError::failed)?;
        if let Some(shortage) = self.part.overrun() {
            return Err(PipelineError::failed(shortage.error.clone()));
        }
        let made = made.cast(DType::F32).to_device(&cpu()).into_data().to_vec::<f32>();
        let made = made.map_err(|error| PipelineError::failed(format!("{error:?}")))?;
        let pixels = rows.saturating_mul(columns);
        let mut rgb = Vec::with_capacity(pixels.saturating_mul(3));
        for pixel in 0..pixels {
            let colours = made.iter().skip(pixel).step_by(pixels);
            rgb.extend(colours.map(|value| (value * 255.0).clamp(0.0, 255.0) as u8));
        }
        Ok(Some(Preview { width: columns, height: rows, rgb }))
    }
}
