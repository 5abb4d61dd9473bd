//! Small networks on the device against diffusers' and transformers' outputs.
//!
//! The tolerances in f32 and bf16 are those of the tests on the CPU; f16 has three bits more than
//! bf16, so an eighth of bf16's.

use distorch_checkpoint::config::VaeConfig;
use distorch_models::clip::ClipRequest;
use distorch_models::vae::Vae;
use distorch_runtime::DType;

use super::common::clip_case::Case;
use super::common::fixture::Fixture;
use super::common::{flux_case, max_error, mmdit_case, unet_case, values};
use super::{Errors, Tested};

/// `[f32, f16, bf16]`.
type Tolerances = [f32; 3];

const UNET: Tolerances = [2e-4, 8e-3, 6e-2];
const MMDIT: Tolerances = [2e-4, 8e-3, 6e-2];
const FLUX: Tolerances = [2e-4, 8e-3, 6e-2];
const VAE: Tolerances = [2e-4, 8e-3, 6e-2];
const CLIP: Tolerances = [2e-4, 4e-3, 3e-2];

/// The dtypes that the device computes in, with their tolerances.
fn dtypes(tested: &Tested, tolerances: Tolerances) -> Vec<(DType, f32)> {
    let all = [DType::F32, DType::F16, DType::BF16].into_iter().zip(tolerances);
    all.filter(|(dtype, _)| tested.has(*dtype)).collect()
}

fn unet(name: &str, bytes: &[u8]) {
    let (tested, mut errors) = (Tested::new(), Errors::default());
    let fixture = Fixture::from_bytes(bytes.to_vec());
    for (dtype, tolerance) in dtypes(&tested, UNET) {
        for (i, error) in unet_case::errors(&fixture, &tested.device, dtype).iter().enumerate() {
            errors.add(&format!("{name}, call {i}"), dtype, *error, tolerance);
        }
    }
    errors.judge();
}

#[test]
fn unet_sd1() {
    unet("UNet of SD 1.x", include_bytes!("../fixtures/unet_sd1.safetensors"));
}

#[test]
fn unet_sdxl() {
    unet("UNet of SDXL", include_bytes!("../fixtures/unet_sdxl.safetensors"));
}

#[test]
fn mmdit_sd35_medium() {
    let (tested, mut errors) = (Tested::new(), Errors::default());
    let bytes = include_bytes!("../fixtures/mmdit_sd35_medium.safetensors");
    let fixture = Fixture::from_bytes(bytes.to_vec());
    for (dtype, tolerance) in dtypes(&tested, MMDIT) {
        for (i, error) in mmdit_case::errors(&fixture, &tested.device, dtype).iter().enumerate() {
            errors.add(&format!("MMDiT of SD3.5 medium, call {i}"), dtype, *error, tolerance);
        }
    }
    errors.judge();
}

#[test]
fn flux_dev() {
    let (tested, mut errors) = (Tested::new(), Errors::default());
    let bytes = include_bytes!("../fixtures/flux_dev.safetensors");
    let fixture = Fixture::from_bytes(bytes.to_vec());
    for (dtype, tolerance) in dtypes(&tested, FLUX) {
        for (i, error) in flux_case::errors(&fixture, &tested.device, dtype).iter().enumerate() {
            errors.add(&format!("transformer of Flux dev, call {i}"), dtype, *error, tolerance);
        }
    }
    errors.judge();
}

#[test]
fn vae() {
    let (tested, mut errors) = (Tested::new(), Errors::default());
    let bytes = include_bytes!("../fixtures/vae_sd.safetensors");
    let fixture = Fixture::from_bytes(bytes.to_vec());
    let config: VaeConfig = serde_json::from_value(fixture.json("config")).unwrap();
    for (dtype, tolerance) in dtypes(&tested, VAE) {
        let vae = Vae::load(&fixture.component_on(&tested.device, dtype), &config).unwrap();
        for (i, shape) in fixture.json("latents").as_array().unwrap().iter().enumerate() {
            let latent = fixture.input::<4>(&format!("latent.{i}"), shape);
            let picture = vae.decode(latent.to_device(&tested.device).cast(dtype)).unwrap();
            let (_, reference) = fixture.tensor(&format!("decoded.{i}"));
            let error = max_error(&values(&picture), &reference);
            errors.add(&format!("VAE's decoder, picture {i}"), dtype, error, tolerance);
        }
    }
    errors.judge();
}

#[test]
fn clip() {
    let (tested, mut errors) = (Tested::new(), Errors::default());
    for name in ["clip_l", "clip_g"] {
        let case = Case::load(name);
        for (dtype, tolerance) in dtypes(&tested, CLIP) {
            let request = ClipRequest { layer_from_end: 1, final_layer_norm: true, pooled: None };
            let encoder = case.encoder(&tested.device, dtype);
            let out = encoder.forward(&case.texts, request).unwrap();
            let error = case.error(&out.hidden, "normed.1");
            errors.add(&format!("text encoder {name}"), dtype, error, tolerance);
        }
    }
    errors.judge();
}
