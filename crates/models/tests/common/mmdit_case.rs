//! An MMDiT of `tests/fixtures/mmdit_*.safetensors` against diffusers' outputs.

use distorch_checkpoint::config::MmditConfig;
use distorch_models::network::{Network, NetworkInput, ReferenceMethod, SkipLayers};
use distorch_models::sd3::Mmdit;
use distorch_runtime::{DType, Device, Scope, Tensor};

use super::fixture::{Fixture, tensor};
use super::{max_error, values};

/// The fixture's configuration.
pub fn config(fixture: &Fixture) -> MmditConfig {
    serde_json::from_value(fixture.json("config")).unwrap()
}

/// What the fixture's call is given, in f32 on the CPU.
pub fn call(fixture: &Fixture, i: usize) -> NetworkInput {
    let call = &fixture.json("calls")[i];
    let timesteps: Vec<f32> = serde_json::from_value(call["timesteps"].clone()).unwrap();
    let batch = timesteps.len();
    NetworkInput {
        x: fixture.input(&format!("x.{i}"), &call["x"]),
        timesteps: tensor(timesteps, vec![batch]),
        context: fixture.input(&format!("context.{i}"), &call["context"]),
        vector: Some(fixture.input(&format!("pooled.{i}"), &call["pooled"])),
        guidance: None,
        reference_latents: Vec::new(),
        reference_method: ReferenceMethod::default(),
        reference_slots: Vec::new(),
        skip: SkipLayers {
            double: serde_json::from_value(call["skip"].clone()).unwrap(),
            single: Vec::new(),
        },
    }
}

/// How far each call's output is from diffusers'.
pub fn errors(fixture: &Fixture, device: &Device, dtype: DType) -> Vec<f32> {
    errors_of(fixture, &fixture.component_on(device, dtype), dtype)
}

/// As [`errors`], with the layers of this scope, and activations of this dtype.
pub fn errors_of(fixture: &Fixture, scope: &Scope, dtype: DType) -> Vec<f32> {
    let mmdit = Mmdit::load(scope, &config(fixture)).unwrap();
    let calls = fixture.json("calls").as_array().unwrap().len();
    let run = |i: usize| {
        let input = call(fixture, i);
        let there = |x: Tensor<4>| x.to_device(scope.device()).cast(dtype);
        let out = mmdit.forward(NetworkInput {
            x: there(input.x),
            timesteps: input.timesteps.to_device(scope.device()),
            context: input.context.to_device(scope.device()),
            vector: input.vector.map(|vector| vector.to_device(scope.device())),
            ..input
        });
        let out = out.unwrap();
        let (shape, reference) = fixture.tensor(&format!("out.{i}"));
        assert_eq!(out.dims().to_vec(), shape);
        assert_eq!(out.dtype(), dtype);
        max_error(&values(&out), &reference)
    };
    (0..calls).map(run).collect()
}
