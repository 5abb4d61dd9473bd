//! What a Flux transformer takes on the CPU beside its weights, held against the estimate.
//!
//! In a process of its own: the allocator's count is of all threads.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::fixture::tensor;
use common::seeded;
use distorch_checkpoint::config::{DiffusionConfig, FluxConfig};
use distorch_checkpoint::family::{Configs, blank, recognise};
use distorch_checkpoint::{ComponentKind, Dtype, Param};
use distorch_models::estimate::{Compute, Workload};
use distorch_models::family::activation_bytes;
use distorch_models::flux::FluxTransformer;
use distorch_models::network::{Network, NetworkInput, ReferenceMethod, SkipLayers};
use distorch_runtime::heap::{CountingAllocator, PeakMeter};
use distorch_runtime::tensor::cpu;
use distorch_runtime::{DType, Tensor};

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator;

/// The estimate is the larger, by less than half.
#[test]
fn the_estimate_is_what_is_taken_and_a_little_more() {
    let config = FluxConfig {
        in_channels: 64,
        out_channels: 64,
        width: 512,
        heads: 4,
        context_dim: 96,
        vec_dim: 32,
        depth: 2,
        depth_single: 2,
        mlp_width: 2048,
        guidance_embed: true,
    };
    let diffusion = Some(DiffusionConfig::Flux(config.clone()));
    let configs = Configs { diffusion, ..Configs::default() };
    let model = recognise(&blank("blank", &configs, Dtype::F32).unwrap()).unwrap();
    let component = model.component(ComponentKind::DiffusionModel).unwrap();
    let param =
        |layer: &str, param: &Param| (format!("{layer}.{}", param.name), param.shape.clone());
    let params: Vec<_> = component
        .layers
        .iter()
        .flat_map(|layer| layer.params.iter().map(|own| param(&layer.name, own)))
        .collect();
    let shapes = params.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
    let flux = FluxTransformer::load(&seeded::component(shapes, 0), &config).unwrap();

    fn input<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
        tensor(seeded::uniform(name, shape.iter().product(), 0), shape.to_vec())
    }
    for (batch, side) in [(1, 512), (2, 384)] {
        let latent = side / 8;
        let call = || NetworkInput {
            x: input("x", [batch, 16, latent, latent]),
            timesteps: tensor(vec![0.5; batch], vec![batch]),
            context: input("context", [batch, 512, 96]),
            vector: Some(input("vector", [batch, 32])),
            guidance: Some(Tensor::ones([batch], (&cpu(), DType::F32))),
            reference_latents: Vec::new(),
            reference_method: ReferenceMethod::default(),
            reference_slots: Vec::new(),
            skip: SkipLayers::default(),
        };
        // Threads take what they keep.
        flux.forward(call()).unwrap();
        let given = call();
        let meter = PeakMeter::begin().unwrap();
        flux.forward(given).unwrap();
        let taken = meter.most();
        let side = u32::try_from(side).unwrap();
        let batch = u32::try_from(batch).unwrap();
        let workload = Workload { width: side, height: side, batch, cfg_batch: 1 };
        let compute = Compute { element: 4, host: true };
        let estimate = activation_bytes(&model, component, workload, compute);
        println!("{batch} of {side}: {} of {} KiB", taken >> 10, estimate >> 10);
        assert!(taken <= estimate, "{taken} of {estimate}");
        assert!(estimate < taken * 3 / 2, "{taken} of {estimate}");
    }
}
