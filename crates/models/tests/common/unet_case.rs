//! A UNet of `tests/fixtures/unet_*.safetensors` against diffusers' outputs.

use distorch_checkpoint::config::UnetConfig;
use distorch_models::unet::Unet;
use distorch_runtime::{DType, Device, Tensor};

use super::fixture::{Fixture, tensor};
use super::{max_error, values};

/// How far each call's output is from diffusers'.
pub fn errors(fixture: &Fixture, device: &Device, dtype: DType) -> Vec<f32> {
    let config: UnetConfig = serde_json::from_value(fixture.json("config")).unwrap();
    let unet = Unet::load(&fixture.component_on(device, dtype), &config).unwrap();
    let calls = fixture.json("calls");
    let run = |(i, call): (usize, &serde_json::Value)| {
        let x = fixture.input::<4>(&format!("x.{i}"), &call["x"]);
        let context = fixture.input::<3>(&format!("context.{i}"), &call["context"]);
        let timesteps: Vec<f32> = serde_json::from_value(call["timesteps"].clone()).unwrap();
        let batch = timesteps.len();
        let timesteps: Tensor<1> = tensor(timesteps, vec![batch]);
        let y: Option<Tensor<2>> = config.adm_in_channels.map(|_| {
            let (shape, values) = fixture.tensor(&format!("y.{i}"));
            tensor(values, shape).to_device(device)
        });
        let (x, context) = (x.to_device(device).cast(dtype), context.to_device(device));
        let out = unet.forward(x, timesteps.to_device(device), context, y).unwrap();
        let (shape, reference) = fixture.tensor(&format!("out.{i}"));
        assert_eq!(out.dims().to_vec(), shape);
        assert_eq!(out.dtype(), dtype);
        max_error(&values(&out), &reference)
    };
    calls.as_array().unwrap().iter().enumerate().map(run).collect()
}
