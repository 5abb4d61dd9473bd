//! An MMDiT gives the same bits wherever its weights live.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::allocations::check_bits;
use common::fixture::Fixture;
use common::mmdit_case::{call, config};
use distorch_models::network::Network;
use distorch_models::sd3::Mmdit;
use distorch_runtime::{LayerSource, Scope};

/// Calls of several sizes and batches, the last with a block left out, as bits.
fn outputs(source: Arc<dyn LayerSource>, fixture: &Fixture) -> Vec<u32> {
    let mmdit = Mmdit::load(&Scope::new(source), &config(fixture)).unwrap();
    let run = |at| {
        let out = mmdit.forward(call(fixture, at)).unwrap();
        common::values(&out).into_iter().map(f32::to_bits)
    };
    (0..4).flat_map(run).collect()
}

#[test]
fn the_same_bits_for_every_allocation() {
    for name in ["mmdit_sd3.safetensors", "mmdit_sd35_medium.safetensors"] {
        let fixture = Fixture::open(name);
        check_bits(&fixture, |source| outputs(source, &fixture));
    }
}
