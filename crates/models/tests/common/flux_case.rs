//! A Flux transformer of `tests/fixtures/flux_*.safetensors` against diffusers' outputs.

use distorch_checkpoint::config::FluxConfig;
use distorch_models::flux::FluxTransformer;
use distorch_models::network::{Network, NetworkInput, ReferenceMethod, SkipLayers};
use distorch_runtime::{DType, Device};
use serde_json::Value;

use super::fixture::{Fixture, tensor};
use super::{max_error, values};

pub fn config(fixture: &Fixture) -> FluxConfig {
    serde_json::from_value(fixture.json("config")).unwrap()
}

/// What the call of this number is given, in f32 on the CPU; without a number, the only call, whose inputs bear none.
pub fn input(fixture: &Fixture, call: impl Into<Option<usize>>) -> NetworkInput {
    let call = call.into();
    let about = &fixture.json("calls")[call.unwrap_or(0)];
    let shapes = &about["shapes"];
    let named = |name: &str| call.map_or_else(|| name.to_owned(), |call| format!("{name}.{call}"));
    let floats = |key: &str| {
        let values: Vec<f32> = serde_json::from_value(about[key].clone()).unwrap();
        let count = values.len();
        tensor::<1>(values, vec![count])
    };
    let reference = shapes.get("reference");
    NetworkInput {
        x: fixture.input(&named("x"), &shapes["x"]),
        timesteps: floats("timesteps"),
        context: fixture.input(&named("context"), &shapes["context"]),
        vector: Some(fixture.input(&named("vector"), &shapes["vector"])),
        guidance: Some(floats("guidance")),
        reference_latents: reference
            .map(|shape| fixture.input(&named("reference"), shape))
            .into_iter()
            .collect(),
        reference_method: ReferenceMethod::default(),
        reference_slots: Vec::new(),
        skip: SkipLayers::default(),
    }
}

/// How far each call's output is from diffusers'.
pub fn errors(fixture: &Fixture, device: &Device, dtype: DType) -> Vec<f32> {
    let config = config(fixture);
    let flux = FluxTransformer::load(&fixture.component_on(device, dtype), &config).unwrap();
    let calls = fixture.json("calls").as_array().map_or(0, Vec::len);
    let run = |call: usize| {
        let NetworkInput { x, timesteps, context, vector, guidance, reference_latents, .. } =
            input(fixture, call);
        let out = flux
            .forward(NetworkInput {
                x: x.to_device(device).cast(dtype),
                timesteps: timesteps.to_device(device),
                context: context.to_device(device),
                vector: vector.map(|vector| vector.to_device(device)),
                guidance: guidance.map(|guidance| guidance.to_device(device)),
                reference_latents: reference_latents
                    .into_iter()
                    .map(|latent| latent.to_device(device))
                    .collect(),
                reference_method: ReferenceMethod::default(),
                reference_slots: Vec::new(),
                skip: SkipLayers::default(),
            })
            .unwrap();
        let (shape, reference) = fixture.tensor(&format!("out.{call}"));
        assert_eq!(out.dims().to_vec(), shape);
        assert_eq!(out.dtype(), dtype);
        max_error(&values(&out), &reference)
    };
    (0..calls).map(run).collect()
}

/// The shape of an input as JSON has it.
pub fn shape<const D: usize>(dims: [usize; D]) -> Value {
    Value::from(dims.to_vec())
}
