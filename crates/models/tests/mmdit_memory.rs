//! What a network takes beside its weights, as the allocator counts it, beside the estimate for the plan.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::seeded;
use distorch_checkpoint::config::{DiffusionConfig, MmditConfig};
use distorch_checkpoint::family::{Configs, blank, recognise};
use distorch_checkpoint::{ComponentKind, Dtype};
use distorch_models::estimate::{Compute, Workload};
use distorch_models::family::activation_bytes;
use distorch_models::network::{Network, NetworkInput, ReferenceMethod, SkipLayers};
use distorch_models::sd3::Mmdit;
use distorch_runtime::heap::{CountingAllocator, PeakMeter};
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, Resident, Scope, Tensor};

#[global_allocator]
static COUNTING: CountingAllocator = CountingAllocator;

fn config(dual_attention_layers: Vec<usize>) -> MmditConfig {
    MmditConfig {
        in_channels: 16,
        out_channels: 16,
        patch_size: 2,
        depth: 2,
        width: 512,
        heads: 8,
        pos_embed_max_size: 64,
        adm_in_channels: 64,
        context_dim: 96,
        qk_norm: true,
        dual_attention_layers,
    }
}

/// Bytes at the peak of one call of so many rows, with as much text as the estimate counts with.
fn measured(config: &MmditConfig, batch: usize, [height, width]: [usize; 2]) -> [u64; 2] {
    let diffusion = Some(DiffusionConfig::Mmdit(config.clone()));
    let configs = Configs { diffusion, ..Configs::default() };
    let model = recognise(&blank("blank", &configs, Dtype::F32).unwrap()).unwrap();
    let component = model.component(ComponentKind::DiffusionModel).unwrap();
    let mut resident = Resident::new(cpu(), DType::F32);
    for layer in &component.layers {
        let params = layer.params.iter().map(|param| {
            let name = format!("{}.{}", layer.name, param.name);
            let values = seeded::weight(&name, &param.shape, 3);
            (param.name.clone(), TensorData::new(values, param.shape.clone()))
        });
        resident.insert(&layer.name, params.collect());
    }
    let mmdit = Mmdit::load(&Scope::new(Arc::new(resident)), config).unwrap();
    fn input<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
        let values = seeded::uniform(name, shape.iter().product(), 3);
        Tensor::from_data(TensorData::new(values, shape), (&cpu(), DType::F32))
    }
    let run = || {
        let input = NetworkInput {
            x: input("x", [batch, 16, height, width]),
            timesteps: Tensor::full([batch], 500.0, (&cpu(), DType::F32)),
            context: input("context", [batch, 410, config.context_dim]),
            vector: Some(input("vector", [batch, config.adm_in_channels])),
            guidance: None,
            reference_latents: Vec::new(),
            reference_method: ReferenceMethod::default(),
            reference_slots: Vec::new(),
            skip: SkipLayers::default(),
        };
        mmdit.forward(input).unwrap();
    };
    // What threads keep for later belongs to no run.
    run();
    let meter = PeakMeter::begin().unwrap();
    run();
    let workload = Workload {
        width: 8 * width as u32,
        height: 8 * height as u32,
        batch: 1,
        cfg_batch: batch as u32,
    };
    let compute = Compute { element: 4, host: true };
    [meter.most(), activation_bytes(&model, component, workload, compute)]
}

/// The estimate is the larger, by less than half: for pictures with more tokens than the text and with fewer.
#[test]
fn the_estimate_of_an_mmdit_is_a_little_more_than_it_takes() {
    for (dual, batch, size) in [
        (vec![], 1, [64, 64]),
        (vec![0, 1], 1, [64, 64]),
        (vec![0, 1], 2, [80, 63]),
        (vec![0], 2, [32, 24]),
    ] {
        let [measured, estimated] = measured(&config(dual.clone()), batch, size);
        let ratio = estimated as f64 / measured as f64;
        println!(
            "{dual:?}, {batch} of {size:?}: {measured} bytes, estimated {estimated}: {ratio:.2}"
        );
        assert!((1.0..1.5).contains(&ratio), "{dual:?}, {batch} of {size:?}: {ratio}");
    }
}
