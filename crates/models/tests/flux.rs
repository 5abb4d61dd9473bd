//! The Flux transformer against diffusers' `FluxTransformer2DModel` (`tools/reference/make_flux.py`).
//!
//! The tolerance in f32, 2e-4 of the largest reference value, is that of the UNet's tests.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::allocations::in_fp8;
use common::fixture::Fixture;
use common::flux_case::{config, errors, input, shape};
use common::recording::Recording;
use common::{max_error, values};
use distorch_checkpoint::config::{DiffusionConfig, FluxConfig};
use distorch_checkpoint::family::{Configs, blank, recognise};
use distorch_checkpoint::{ComponentKind, Dtype};
use distorch_models::ModelError;
use distorch_models::flux::FluxTransformer;
use distorch_models::network::{Network, NetworkInput, ReferenceMethod, SkipLayers};
use distorch_runtime::tensor::cpu;
use distorch_runtime::{DType, LayerSource, Scope, Tensor};

const TOLERANCE: f32 = 2e-4;

fn open(case: &str) -> (Fixture, FluxTransformer) {
    let fixture = Fixture::open(&format!("flux_{case}.safetensors"));
    let flux = FluxTransformer::load(&fixture.component(DType::F32), &config(&fixture)).unwrap();
    (fixture, flux)
}

fn assert_equal(case: &str) {
    let fixture = Fixture::open(&format!("flux_{case}.safetensors"));
    let errors = errors(&fixture, &cpu(), DType::F32);
    println!("{case}: {errors:?}");
    assert!(errors.iter().all(|error| *error < TOLERANCE), "{case}: {errors:?}");
}

#[test]
fn dev_has_guidance_and_heads_of_the_published_width() {
    assert_equal("dev");
}

#[test]
fn schnell_has_no_guidance() {
    assert_equal("schnell");
}

#[test]
fn control_models_take_a_second_latent() {
    assert_equal("control");
}

#[test]
fn fill_takes_a_latent_and_a_mask() {
    assert_equal("fill");
}

/// bf16 keeps 8 bits of each value.
#[test]
fn bf16_is_near() {
    for case in ["dev", "schnell"] {
        let fixture = Fixture::open(&format!("flux_{case}.safetensors"));
        let errors = errors(&fixture, &cpu(), DType::BF16);
        println!("{case}: {errors:?}");
        assert!(errors.iter().all(|error| *error < 0.06), "{case}: {errors:?}");
    }
}

/// The reference computes with the same weights, which went through 8-bit floats; the tolerance is that of all others.
#[test]
fn scaled_fp8_is_diffusers_with_the_same_weights() {
    let fixture = Fixture::open("flux_schnell.safetensors");
    let reference = Fixture::open("fp8.safetensors");
    let scope = Scope::new(in_fp8(&fixture));
    let flux = FluxTransformer::load(&scope, &config(&fixture)).unwrap();
    for call in 0..2 {
        let error = max_error(
            &run(&flux, input(&fixture, call)),
            &reference.tensor(&format!("flux.{call}")).1,
        );
        println!("{call}: {error:e}");
        assert!(error < TOLERANCE, "{call}: {error}");
    }
}

fn run(flux: &FluxTransformer, input: NetworkInput) -> Vec<f32> {
    values(&flux.forward(input).unwrap())
}

#[test]
fn skipped_blocks_are_as_if_they_were_not_there() {
    let (fixture, flux) = open("dev");
    let shorter = FluxConfig { depth: 1, depth_single: 1, ..config(&fixture) };
    let shorter = FluxTransformer::load(&fixture.component(DType::F32), &shorter).unwrap();
    let skipping = |double: Vec<usize>, single: Vec<usize>| {
        run(&flux, NetworkInput { skip: SkipLayers { double, single }, ..input(&fixture, 0) })
    };
    assert_eq!(skipping(vec![1], vec![1]), run(&shorter, input(&fixture, 0)));
    let all = skipping(vec![], vec![]);
    // Blocks that there are not are not missed.
    assert_eq!(skipping(vec![2], vec![9]), all);
    for (double, single) in [(vec![0], vec![]), (vec![], vec![0])] {
        assert!(max_error(&skipping(double, single), &all) > 10.0 * TOLERANCE);
    }
}

#[test]
fn without_guidance_nothing_stands_for_it() {
    let (fixture, flux) = open("dev");
    let plain = FluxConfig { guidance_embed: false, ..config(&fixture) };
    let plain = FluxTransformer::load(&fixture.component(DType::F32), &plain).unwrap();
    let without = NetworkInput { guidance: None, ..input(&fixture, 1) };
    assert_eq!(run(&flux, without.clone()), run(&plain, without));
    let with = run(&flux, input(&fixture, 1));
    assert!(max_error(&run(&plain, input(&fixture, 1)), &with) > 10.0 * TOLERANCE);
}

#[test]
fn without_pooled_text_zeros_stand_for_it() {
    let (fixture, flux) = open("schnell");
    let zeros = Tensor::zeros([1, 20], (&cpu(), DType::F32));
    let zeros = NetworkInput { vector: Some(zeros), ..input(&fixture, 1) };
    let without = NetworkInput { vector: None, ..input(&fixture, 1) };
    assert_eq!(run(&flux, zeros), run(&flux, without));
}

/// One reference for all rows of a batch, several, and each way of placing them.
#[test]
fn references_are_seen_where_they_are_placed() {
    let (fixture, flux) = open("schnell");
    let latent = |name: &str, dims: [usize; 4]| fixture.input::<4>(name, &shape(dims));
    let with = |references: Vec<Tensor<4>>, method: ReferenceMethod| {
        let given = input(&fixture, 0);
        let given =
            NetworkInput { reference_latents: references, reference_method: method, ..given };
        run(&flux, given)
    };
    let one = latent("one", [1, 4, 5, 3]);
    let twice = Tensor::cat(vec![one.clone(); 2], 0);
    let offset = with(vec![one.clone()], ReferenceMethod::Offset);
    assert_eq!(offset, with(vec![twice], ReferenceMethod::Offset));
    // The first of them has the same place in two ways.
    assert_eq!(offset, with(vec![one.clone()], ReferenceMethod::Index));
    let differs = |a: &[f32], b: &[f32]| assert!(max_error(a, b) > 10.0 * TOLERANCE);
    differs(&offset, &with(vec![], ReferenceMethod::Offset));
    differs(&offset, &with(vec![one.clone()], ReferenceMethod::Diagonal));
    let both = vec![one, latent("two", [2, 4, 4, 6])];
    let offset = with(both.clone(), ReferenceMethod::Offset);
    differs(&offset, &with(both.clone(), ReferenceMethod::Index));
    // Tokens without their order: with equal places, references may change places.
    let turned = vec![both[1].clone(), both[0].clone()];
    differs(&offset, &with(turned, ReferenceMethod::Offset));
}

#[test]
fn wrong_inputs_are_errors_that_name_them() {
    let (fixture, flux) = open("dev");
    type Change = fn(&mut NetworkInput);
    let wrong: [(&str, Change); 8] = [
        ("latent", |input| input.x = input.x.clone().repeat_dim(1, 2)),
        ("latent", |input| input.x = input.x.clone().narrow(2, 0, 1).slice([0..2, 0..4, 0..0])),
        ("timesteps", |input| input.timesteps = input.timesteps.clone().repeat_dim(0, 2)),
        ("context", |input| input.context = input.context.clone().narrow(2, 0, 3)),
        ("context", |input| input.context = input.context.clone().narrow(0, 0, 1)),
        ("pooled vector", |input| {
            input.vector = input.vector.clone().map(|vector| vector.narrow(1, 0, 2));
        }),
        ("guidance", |input| input.guidance = Some(input.timesteps.clone().narrow(0, 0, 1))),
        ("reference latent", |input| {
            input.reference_latents = vec![input.x.clone().narrow(1, 0, 3)];
        }),
    ];
    for (name, change) in wrong {
        let mut given = input(&fixture, 0);
        change(&mut given);
        match flux.forward(given).unwrap_err() {
            ModelError::Input { input, .. } => assert_eq!(input, name),
            error => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn a_configuration_that_contradicts_itself_is_an_error() {
    let fixture = Fixture::open("flux_schnell.safetensors");
    let scope = fixture.component(DType::F32);
    let good = config(&fixture);
    let broken: [fn(&mut FluxConfig); 5] = [
        |config| config.heads = 0,
        |config| config.heads = 5,
        |config| config.heads = 32,
        |config| config.in_channels = 18,
        |config| config.out_channels = 0,
    ];
    for change in broken {
        let mut config = good.clone();
        change(&mut config);
        assert!(matches!(FluxTransformer::load(&scope, &config), Err(ModelError::Config { .. })));
    }
    let missing = FluxConfig { depth: 9, ..good };
    let error = FluxTransformer::load(&scope, &missing).err().unwrap().to_string();
    assert!(error.contains("double_blocks.1.img_mod.lin"), "{error}");
}

/// Plans and prefetching count with the order that the checkpoint crate states.
#[test]
fn layers_are_used_in_the_stated_order() {
    for case in ["dev", "schnell"] {
        let fixture = Fixture::open(&format!("flux_{case}.safetensors"));
        let diffusion = Some(DiffusionConfig::Flux(config(&fixture)));
        let configs = Configs { diffusion, ..Configs::default() };
        let model = recognise(&blank("blank", &configs, Dtype::F32).unwrap()).unwrap();
        let component = model.component(ComponentKind::DiffusionModel).unwrap();
        let mut stated: Vec<_> = component.layers.iter().collect();
        stated.sort_by_key(|layer| layer.use_index);
        let stated: Vec<_> = stated.into_iter().map(|layer| layer.name.clone()).collect();

        let inner = Arc::clone(fixture.component(DType::F32).source());
        let recording = Arc::new(Recording::new(inner));
        let scope = Scope::new(Arc::clone(&recording) as Arc<dyn LayerSource>);
        let flux = FluxTransformer::load(&scope, &config(&fixture)).unwrap();
        flux.forward(input(&fixture, 0)).unwrap();
        assert_eq!(recording.fetched(), stated);
    }
}
