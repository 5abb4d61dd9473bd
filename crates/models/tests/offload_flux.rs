//! A Flux transformer gives the same bits wherever its weights live.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::allocations::check_bits;
use common::fixture::Fixture;
use common::flux_case::{config, input};
use distorch_models::flux::FluxTransformer;
use distorch_models::network::Network;
use distorch_runtime::{LayerSource, Scope};

/// Calls of several sizes and batches, one with a reference, as bits.
fn outputs(source: Arc<dyn LayerSource>, fixture: &Fixture) -> Vec<u32> {
    let flux = FluxTransformer::load(&Scope::new(source), &config(fixture)).unwrap();
    let run = |call| {
        let out = flux.forward(input(fixture, call)).unwrap();
        common::values(&out).into_iter().map(f32::to_bits)
    };
    (0..4).flat_map(run).collect()
}

#[test]
fn the_same_bits_for_every_allocation() {
    let fixture = Fixture::open("flux_schnell.safetensors");
    check_bits(&fixture, |source| outputs(source, &fixture));
}
