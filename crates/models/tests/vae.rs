//! The VAE against diffusers' `AutoencoderKL` and its relatives (`tools/reference/make_vae.py`), with the tolerance of
//! the UNet's tests.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "vae/tiny.rs"]
mod tiny;
#[path = "vae/upscaler.rs"]
mod upscaler;

use common::fixture::{Fixture, dims, tensor};
use common::{max_error, values};
use distorch_checkpoint::config::VaeConfig;
use distorch_models::ModelError;
use distorch_models::vae::Vae;
use distorch_models::vae_tiled::Tiling;
use distorch_runtime::{DType, Tensor};

const TOLERANCE: f32 = 2e-4;

fn load(name: &str) -> (Fixture, Vae) {
    let fixture = Fixture::open(name);
    let config: VaeConfig = serde_json::from_value(fixture.json("config")).unwrap();
    let vae = Vae::load(&fixture.component(DType::F32), &config).unwrap();
    (fixture, vae)
}

fn assert_near(actual: &Tensor<4>, fixture: &Fixture, name: &str) {
    let (shape, reference) = fixture.tensor(name);
    assert_eq!(actual.dims().to_vec(), shape, "{name}");
    let error = max_error(&values(actual), &reference);
    println!("{name}: {error:e}");
    assert!(error < TOLERANCE, "{name}: {error}");
}

fn assert_equal(name: &str) {
    let (fixture, vae) = load(name);
    for (i, shape) in fixture.json("pictures").as_array().unwrap().iter().enumerate() {
        let posterior = vae.encode(fixture.input(&format!("picture.{i}"), shape)).unwrap();
        assert_near(&posterior.mean, &fixture, &format!("mean.{i}"));
        assert_near(&posterior.log_variance, &fixture, &format!("logvar.{i}"));
    }
    for (i, shape) in fixture.json("latents").as_array().unwrap().iter().enumerate() {
        let picture = vae.decode(fixture.input(&format!("latent.{i}"), shape)).unwrap();
        assert_near(&picture, &fixture, &format!("decoded.{i}"));
    }
}

#[test]
fn sd_with_quant_convolutions_and_convolutional_attention() {
    assert_equal("vae_sd.safetensors");
}

#[test]
fn sd3_without_quant_convolutions() {
    assert_equal("vae_sd3.safetensors");
}

/// Its latents are packed and normalised, and odd ones lose their last row or column.
#[test]
fn flux2_with_packed_latents() {
    assert_equal("vae_flux2.safetensors");
}

#[test]
fn flux2_with_a_decoder_narrower_than_the_encoder() {
    assert_equal("vae_flux2_small_decoder.safetensors");
}

/// Wan's and Qwen-Image's: a picture is the first frame of a video.
#[test]
fn causal_of_one_frame() {
    assert_equal("vae_causal.safetensors");
}

/// Qwen-Image 2.1's: a picture of four channels, with shortcuts around the levels.
#[test]
fn residual_of_one_frame() {
    assert_equal("vae_residual.safetensors");
}

#[test]
fn a_sample_is_the_mean_and_noise_by_the_deviation() {
    let (fixture, vae) = load("vae_sd.safetensors");
    let shape = &fixture.json("pictures")[0];
    let posterior = vae.encode(fixture.input("picture.0", shape)).unwrap();
    let latent = posterior.mean.dims().to_vec();
    let noise = fixture.input::<4>("noise", &latent.into());
    let (mean, log_variance) = (values(&posterior.mean), values(&posterior.log_variance));
    let sample = values(&posterior.clone().sample(noise.clone()));
    assert_eq!(values(&posterior.mode()), mean);
    for (i, noise) in values(&noise).into_iter().enumerate() {
        let expected = mean[i] + (log_variance[i] / 2.0).exp() * noise;
        assert!((sample[i] - expected).abs() < 1e-5 * expected.abs().max(1.0));
    }
}

#[test]
fn scale_and_unscale_are_inverse() {
    let fixture = Fixture::open("vae_sd3.safetensors");
    let mut config: VaeConfig = serde_json::from_value(fixture.json("config")).unwrap();
    (config.scaling_factor, config.shift_factor) = (1.5305, 0.0609);
    let vae = Vae::load(&fixture.component(DType::F32), &config).unwrap();
    let latent = tensor::<4>(vec![1.0, -2.0], vec![1, 2, 1, 1]);
    let scaled = values(&vae.scale(latent.clone()));
    assert!((scaled[0] - (1.0 - 0.0609) * 1.5305).abs() < 1e-6);
    assert!(max_error(&values(&vae.unscale(vae.scale(latent))), &[1.0, -2.0]) < 1e-6);
}

/// One tile over the whole picture is the picture; several are near it (a tile's normalisation and
/// attention see less), and right in size, whatever the tile and the picture.
#[test]
fn tiles_make_nearly_the_same_picture() {
    let (fixture, vae) = load("vae_sd3.safetensors");
    let latent = fixture.input::<4>("latent.t", &vec![1, 16, 21, 26].into());
    let whole = vae.decode(latent.clone()).unwrap();
    let one = vae.decode_tiled(latent.clone(), Tiling { tile: 512, overlap: 16 }).unwrap();
    assert_eq!(values(&one), values(&whole));
    let tiled = vae.decode_tiled(latent, Tiling { tile: 60, overlap: 16 }).unwrap();
    assert_eq!(tiled.dims(), whole.dims());
    let correlation = correlation(&values(&tiled), &values(&whole));
    assert!(correlation > 0.95, "{correlation}");

    let picture = fixture.input::<4>("picture.t", &vec![1, 3, 85, 103].into());
    let whole = vae.encode(picture.clone()).unwrap().mean;
    // A tile of whole latent pixels, and half of it: others are put down up to half a latent pixel away.
    let tiled = vae.encode_tiled(picture, Tiling { tile: 64, overlap: 16 }).unwrap().mean;
    assert_eq!(tiled.dims(), whole.dims());
    let correlation = self::correlation(&values(&tiled), &values(&whole));
    assert!(correlation > 0.95, "{correlation}");
}

fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let mean = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a) - mean_a, f64::from(b) - mean_b);
        (ab, aa, bb) = (ab + a * b, aa + a * a, bb + b * b);
    }
    ab / (aa * bb).sqrt()
}

#[test]
fn wrong_inputs_are_errors() {
    let (fixture, vae) = load("vae_sd.safetensors");
    let input = |shape: [usize; 4]| fixture.input::<4>("x", &shape.to_vec().into());
    let is_input = |error| matches!(error, ModelError::Input { .. });
    assert!(is_input(vae.encode(input([1, 4, 32, 32])).unwrap_err()));
    assert!(is_input(vae.encode(input([1, 3, 7, 32])).unwrap_err()));
    assert!(is_input(vae.encode_tiled(input([1, 3, 7, 32]), Tiling::default()).unwrap_err()));
    assert!(is_input(vae.decode(input([1, 3, 4, 4])).unwrap_err()));
    assert!(is_input(vae.decode(input([1, 4, 0, 4])).unwrap_err()));
    let tiling = Tiling { tile: 64, overlap: 32 };
    assert!(vae.decode_tiled(input([1, 4, 4, 4]), tiling).is_ok());
    // Half a tile, which the high and the wide pass take, is no more than the overlap.
    assert!(is_input(vae.decode_tiled(input([1, 4, 5, 5]), tiling).unwrap_err()));
}

#[test]
fn a_checkpoint_may_lack_the_encoder() {
    let fixture = Fixture::open("vae_sd.safetensors");
    let params = fixture.json("params");
    let shapes: Vec<(&String, Vec<usize>)> = params
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| !name.starts_with("encoder"))
        .map(|(name, shape)| (name, dims(shape)))
        .collect();
    let shapes = shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
    let scope = common::seeded::component(shapes, fixture.seed());
    let config: VaeConfig = serde_json::from_value(fixture.json("config")).unwrap();
    let vae = Vae::load(&scope, &config).unwrap();
    let latent = fixture.input("latent.0", &fixture.json("latents")[0]);
    assert_near(&vae.decode(latent).unwrap(), &fixture, "decoded.0");
    let picture = fixture.input("picture.0", &fixture.json("pictures")[0]);
    assert!(vae.encode(picture).unwrap_err().to_string().contains("no encoder"));
}
