//! A UNet gives the same bits wherever its weights live.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::allocations::check_bits;
use common::fixture::{Fixture, tensor};
use common::seeded;
use distorch_checkpoint::config::UnetConfig;
use distorch_models::unet::Unet;
use distorch_runtime::{LayerSource, Scope, Tensor};

fn input<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
    tensor(seeded::uniform(name, shape.iter().product(), 1), shape.to_vec())
}

/// Two sizes of picture, two batches, as bits.
fn outputs(source: Arc<dyn LayerSource>, fixture: &Fixture) -> Vec<u32> {
    let config: UnetConfig = serde_json::from_value(fixture.json("config")).unwrap();
    let unet = Unet::load(&Scope::new(source), &config).unwrap();
    let calls = [[1, 8, 8], [2, 8, 4]];
    let run = |[batch, height, width]: [usize; 3]| {
        let x: Tensor<4> = input("x", [batch, config.in_channels, height, width]);
        let context: Tensor<3> = input("context", [batch, 5, config.context_dim]);
        let timesteps = tensor(vec![300.0; batch], vec![batch]);
        let out = unet.forward(x, timesteps, context, None).unwrap();
        common::values(&out).into_iter().map(f32::to_bits)
    };
    calls.into_iter().flat_map(run).collect()
}

#[test]
fn the_same_bits_for_every_allocation() {
    let fixture = Fixture::open("unet_sd1.safetensors");
    check_bits(&fixture, |source| outputs(source, &fixture));
}
