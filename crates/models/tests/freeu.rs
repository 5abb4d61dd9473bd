//! FreeU in a small UNet against diffusers' filter in diffusers' UNet (`tools/reference/make_freeu.py`).
//!
//! The tolerance is that of the UNet's own tests, 2e-4 of the largest reference value; FreeU changes
//! these outputs by far more, which is tested too.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::fixture::{Fixture, tensor};
use common::{max_error, values};
use distorch_checkpoint::config::UnetConfig;
use distorch_models::freeu::{FreeU, Raise, Scales};
use distorch_models::unet::Unet;
use distorch_runtime::DType;

const TOLERANCE: f32 = 2e-4;

fn freeu(fixture: &Fixture, raise: Raise) -> FreeU {
    let numbers = fixture.json("numbers");
    let scales = |b: &str, s: &str| Scales {
        backbone: numbers[b].as_f64().unwrap(),
        skip: numbers[s].as_f64().unwrap(),
    };
    FreeU { raise, first: scales("b1", "s1"), second: scales("b2", "s2") }
}

/// The largest error of each call against the outputs called `reference.N`.
fn errors(freeus: &[Raise], reference: &str) -> Vec<f32> {
    let fixture = Fixture::open("unet_freeu.safetensors");
    let config: UnetConfig = serde_json::from_value(fixture.json("config")).unwrap();
    let unet = Unet::load(&fixture.component(DType::F32), &config).unwrap();
    let unet = unet.with_freeu(freeus.iter().map(|raise| freeu(&fixture, *raise)).collect());
    let calls = fixture.json("calls");
    let run = |(i, call): (usize, &serde_json::Value)| {
        let x = fixture.input::<4>(&format!("x.{i}"), &call["x"]);
        let context = fixture.input::<3>(&format!("context.{i}"), &call["context"]);
        let timesteps: Vec<f32> = serde_json::from_value(call["timesteps"].clone()).unwrap();
        let batch = timesteps.len();
        let out = unet.forward(x, tensor(timesteps, vec![batch]), context, None).unwrap();
        max_error(&values(&out), &fixture.tensor(&format!("{reference}.{i}")).1)
    };
    calls.as_array().unwrap().iter().enumerate().map(run).collect()
}

#[test]
fn the_first_version_raises_channels_evenly() {
    let errors = errors(&[Raise::Evenly], "v1");
    assert!(errors.iter().all(|error| *error < TOLERANCE), "{errors:?}");
}

#[test]
fn the_second_version_raises_them_by_their_mean() {
    let errors = errors(&[Raise::ByMean], "v2");
    assert!(errors.iter().all(|error| *error < TOLERANCE), "{errors:?}");
}

#[test]
fn versions_differ_and_both_change_the_output() {
    for (freeus, reference) in
        [(&[][..], "v1"), (&[], "v2"), (&[Raise::Evenly], "v2"), (&[Raise::ByMean; 2], "v2")]
    {
        let errors = errors(freeus, reference);
        assert!(errors.iter().all(|error| *error > 10.0 * TOLERANCE), "{reference}: {errors:?}");
    }
}
