//! What T5 takes on the CPU beside its weights, held against the estimate.
//!
//! In a process of its own: the allocator's count is of all threads.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::seeded;
use distorch_checkpoint::config::{T5Config, TextEncoderConfig};
use distorch_checkpoint::family::{Configs, Model, blank, recognise};
use distorch_checkpoint::{ComponentKind, Dtype};
use distorch_models::estimate::{Compute, Workload};
use distorch_models::family::activation_bytes;
use distorch_models::prompt::token::Token;
use distorch_models::t5::T5Encoder;
use distorch_runtime::heap::{CountingAllocator, PeakMeter};
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, Resident, Scope};

#[global_allocator]
static COUNTING: CountingAllocator = CountingAllocator;

/// A file with this text encoder alone, and its seeded weights.
fn load(name: &'static str, config: TextEncoderConfig) -> (Model, Scope) {
    let configs = Configs { text_encoders: vec![(name, config)], ..Configs::default() };
    let model = recognise(&blank("blank", &configs, Dtype::F32).unwrap()).unwrap();
    let mut resident = Resident::new(cpu(), DType::F32);
    for layer in &model.component(ComponentKind::TextEncoders).unwrap().layers {
        let params = layer.params.iter().map(|param| {
            let name = format!("{}.{}", layer.name, param.name);
            let values = seeded::weight(&name, &param.shape, 3);
            (param.name.clone(), TensorData::new(values, param.shape.clone()))
        });
        resident.insert(&layer.name, params.collect());
    }
    (model, Scope::new(Arc::new(resident)).at(name))
}

/// The estimate is the larger, by less than half.
fn check(name: &str, model: &Model, encode: impl Fn()) {
    // Threads take what they keep.
    encode();
    let meter = PeakMeter::begin().unwrap();
    encode();
    let taken = meter.most();
    let component = model.component(ComponentKind::TextEncoders).unwrap();
    let compute = Compute { element: 4, host: true };
    let estimate = activation_bytes(model, component, Workload::native(model), compute);
    println!("{name}: {} of {} KiB", taken >> 10, estimate >> 10);
    assert!(taken <= estimate, "{name}: {taken} of {estimate}");
    assert!(estimate < taken * 3 / 2, "{name}: {taken} of {estimate}");
}

/// T5 reads 512 tokens in the estimate; XXL has 64 heads of 64 and a width of 4096.
#[test]
fn the_estimate_is_what_is_taken_and_a_little_more() {
    let config = T5Config {
        vocab_size: 64,
        width: 1024,
        layers: 3,
        heads: 16,
        head_dim: 64,
        intermediate: 2560,
        relative_buckets: 32,
    };
    let (model, scope) = load("t5xxl", TextEncoderConfig::T5(config.clone()));
    let encoder = T5Encoder::load(&config, &scope).unwrap();
    let text: Vec<Token> = (0..512).map(|at| Token::Id(at % 64)).collect();
    check("T5", &model, || {
        encoder.forward(std::slice::from_ref(&text), 1).unwrap();
    });
}
