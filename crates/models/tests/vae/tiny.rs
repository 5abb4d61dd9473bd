//! Tiny autoencoders against diffusers' `AutoencoderTiny` (`tools/reference/make_tiny_vae.py`), with the tolerance of the
//! UNet's tests.

use std::sync::Arc;

use distorch_checkpoint::config::TinyVaeConfig;
use distorch_checkpoint::family::recognise;
use distorch_checkpoint::{Checkpoint, ComponentKind};
use distorch_models::tiny_vae::TinyVae;
use distorch_models::vae_tiled::Tiling;
use distorch_runtime::tensor::cpu;
use distorch_runtime::{DType, Resident, Scope};
use distorch_test_support::model_file::ModelFile;

use super::common::fixture::{Fixture, dims};
use super::common::{max_error, seeded, values};
use super::{assert_near, correlation};

/// A file of one half with seeded weights.
fn file(fixture: &Fixture, half: &str, latent: usize) -> Checkpoint {
    let params = fixture.json("params");
    let params = params[format!("{half}.{latent}")].as_object().unwrap().iter();
    let tensors = params.map(|(name, shape)| {
        let shape = dims(shape);
        let values = seeded::weight(&format!("{half}.{name}"), &shape, fixture.seed());
        (name.clone(), shape, values)
    });
    ModelFile::of_values(tensors).open(half)
}

fn half(fixture: &Fixture, half: &str, latent: usize) -> TinyVae {
    let checkpoint = file(fixture, half, latent);
    let model = recognise(&checkpoint).unwrap();
    assert_eq!(model.unknown, Vec::<String>::new());
    assert_eq!(model.label(), format!("tiny {half} (TAESD)"));
    let config: TinyVaeConfig = model.tiny_vae.clone().unwrap();
    assert_eq!((config.latent_channels, config.channels), (latent, 8));
    let component = model.component(ComponentKind::Vae).unwrap();
    let resident = Resident::load(&checkpoint, component, cpu(), DType::F32, |_| {}).unwrap();
    TinyVae::load(&Scope::new(Arc::new(resident)), &config).unwrap()
}

#[test]
fn halves_are_those_of_diffusers() {
    let fixture = Fixture::open("tiny_vae.safetensors");
    for latent in [4, 16] {
        let (encoder, decoder) =
            (half(&fixture, "encoder", latent), half(&fixture, "decoder", latent));
        for (i, shape) in fixture.json("pictures").as_array().unwrap().iter().enumerate() {
            let [batch, height, width] = dims(shape)[..] else { panic!("{shape}") };
            let shape = vec![batch, 3, height, width].into();
            let picture = fixture.input::<4>(&format!("picture.{i}"), &shape);
            // diffusers' goes from -1 to 1.
            let encoded = encoder.encode(picture * 0.5 + 0.5).unwrap();
            assert_near(&encoded, &fixture, &format!("encoded.{latent}.{i}"));
        }
        for (i, shape) in fixture.json("latents").as_array().unwrap().iter().enumerate() {
            let [batch, height, width] = dims(shape)[..] else { panic!("{shape}") };
            let shape = vec![batch, latent, height, width].into();
            let z = fixture.input::<4>(&format!("latent.{i}"), &shape) * 4.0;
            let decoded = decoder.decode(z).unwrap() * 2.0 - 1.0;
            assert_near(&decoded, &fixture, &format!("decoded.{latent}.{i}"));
        }
    }
}

#[test]
fn a_half_goes_one_way_and_in_tiles() {
    let fixture = Fixture::open("tiny_vae.safetensors");
    let (encoder, decoder) = (half(&fixture, "encoder", 4), half(&fixture, "decoder", 4));
    let latent = fixture.input::<4>("latent.t", &vec![1, 4, 12, 20].into());
    let picture = fixture.input::<4>("picture.t", &vec![1, 3, 64, 96].into());
    for error in
        [encoder.decode(latent.clone()).unwrap_err(), decoder.encode(picture.clone()).unwrap_err()]
    {
        assert!(error.to_string().contains("other half"), "{error}");
    }
    let error = encoder.encode(latent.clone()).unwrap_err().to_string();
    assert!(error.contains("3 channels"), "{error}");
    let whole = decoder.decode(latent.clone()).unwrap();
    let one = decoder.decode_tiled(latent.clone(), Tiling { tile: 512, overlap: 32 }).unwrap();
    assert!(max_error(&values(&one), &values(&whole)) < 1e-6);
    // Tiles see less of their neighbourhood.
    let tiled = decoder.decode_tiled(latent, Tiling { tile: 96, overlap: 32 }).unwrap();
    assert_eq!(tiled.dims(), whole.dims());
    assert!(correlation(&values(&tiled), &values(&whole)) > 0.95);
    let whole = encoder.encode(picture.clone()).unwrap();
    let tiled = encoder.encode_tiled(picture, Tiling { tile: 64, overlap: 16 }).unwrap();
    assert_eq!(tiled.dims(), whole.dims());
    assert!(correlation(&values(&tiled), &values(&whole)) > 0.95);
}
