//! Flux.2's transformer against diffusers' `Flux2Transformer2DModel` (`tools/reference/make_flux2.py`).
//!
//! The tolerance in f32, 2e-4 of the largest reference value, is that of the UNet's tests.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::allocations::check_bits;
use common::fixture::{Fixture, tensor};
use common::recording::Recording;
use common::{max_error, values};
use distorch_checkpoint::config::{DiffusionConfig, Flux2Config};
use distorch_checkpoint::family::{Configs, Family, Model, blank, recognise};
use distorch_checkpoint::lora::{self, RowSpan};
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype};
use distorch_models::ModelError;
use distorch_models::flux2::Flux2Transformer;
use distorch_models::network::{Network, NetworkInput, ReferenceMethod, SkipLayers};
use distorch_runtime::{DType, LayerSource, Scope};

const TOLERANCE: f32 = 2e-4;
const CALLS: usize = 3;

fn fixture(case: &str) -> Fixture {
    Fixture::open(&format!("flux2_{case}.safetensors"))
}

fn config(fixture: &Fixture) -> Flux2Config {
    serde_json::from_value(fixture.json("config")).unwrap()
}

/// A file of this configuration, without data.
fn model(fixture: &Fixture) -> Model {
    let diffusion = Some(DiffusionConfig::Flux2(config(fixture)));
    let configs = Configs { diffusion, ..Configs::default() };
    recognise(&blank("blank", &configs, Dtype::F32).unwrap()).unwrap()
}

fn input(fixture: &Fixture, call: usize) -> NetworkInput {
    let about = &fixture.json("calls")[call];
    let floats = |key: &str| {
        let values: Vec<f32> = serde_json::from_value(about[key].clone()).unwrap();
        let count = values.len();
        tensor::<1>(values, vec![count])
    };
    let references = about["references"].as_array().unwrap().iter().enumerate();
    let reference = |(n, shape)| fixture.input(&format!("reference.{call}.{n}"), shape);
    NetworkInput {
        x: fixture.input(&format!("x.{call}"), &about["x"]),
        timesteps: floats("timesteps"),
        context: fixture.input(&format!("context.{call}"), &about["context"]),
        vector: None,
        guidance: Some(floats("guidance")),
        reference_latents: references.map(reference).collect(),
        reference_method: ReferenceMethod::default(),
        skip: SkipLayers::default(),
    }
}

fn errors(case: &str, dtype: DType) -> Vec<f32> {
    let fixture = fixture(case);
    let network = Flux2Transformer::load(&fixture.component(dtype), &config(&fixture)).unwrap();
    let error = |call: usize| {
        let out = network.forward(input(&fixture, call)).unwrap();
        let (shape, reference) = fixture.tensor(&format!("out.{call}"));
        assert_eq!(out.dims().to_vec(), shape);
        max_error(&values(&out), &reference)
    };
    (0..CALLS).map(error).collect()
}

/// Klein has no guidance, dev has; the last call has two reference latents.
#[test]
fn velocities_are_diffusers() {
    for case in ["klein", "dev"] {
        let errors = errors(case, DType::F32);
        println!("{case}: {errors:?}");
        assert!(errors.iter().all(|error| *error < TOLERANCE), "{case}: {errors:?}");
    }
}

/// bf16 keeps 8 bits of each value.
#[test]
fn bf16_is_near() {
    let errors = errors("klein", DType::BF16);
    println!("{errors:?}");
    assert!(errors.iter().all(|error| *error < 0.06), "{errors:?}");
}

#[test]
fn the_same_bits_for_every_allocation() {
    let fixture = fixture("klein");
    check_bits(&fixture, |source| {
        let network = Flux2Transformer::load(&Scope::new(source), &config(&fixture)).unwrap();
        let run = |call| values(&network.forward(input(&fixture, call)).unwrap());
        (0..CALLS).flat_map(run).map(f32::to_bits).collect()
    });
}

#[test]
fn skipped_blocks_are_as_if_they_were_not_there() {
    let fixture = fixture("klein");
    let load = |config: &Flux2Config| {
        Flux2Transformer::load(&fixture.component(DType::F32), config).unwrap()
    };
    let shorter = Flux2Config { depth: 1, depth_single: 1, ..config(&fixture) };
    let skip = SkipLayers { double: vec![1], single: vec![1] };
    let skipping = NetworkInput { skip, ..input(&fixture, 0) };
    let skipped = values(&load(&config(&fixture)).forward(skipping).unwrap());
    assert_eq!(skipped, values(&load(&shorter).forward(input(&fixture, 0)).unwrap()));
}

/// Plans and prefetching count with the order that the checkpoint crate states.
#[test]
fn layers_are_used_in_the_stated_order() {
    for case in ["klein", "dev"] {
        let fixture = fixture(case);
        let model = model(&fixture);
        let component = model.component(ComponentKind::DiffusionModel).unwrap();
        let mut stated: Vec<_> = component.layers.iter().collect();
        stated.sort_by_key(|layer| layer.use_index);
        let stated: Vec<_> = stated.into_iter().map(|layer| layer.name.clone()).collect();
        let inner = Arc::clone(fixture.component(DType::F32).source());
        let recording = Arc::new(Recording::new(inner));
        let scope = Scope::new(Arc::clone(&recording) as Arc<dyn LayerSource>);
        let network = Flux2Transformer::load(&scope, &config(&fixture)).unwrap();
        network.forward(input(&fixture, 0)).unwrap();
        assert_eq!(recording.fetched(), stated);
    }
}

#[test]
fn a_file_in_the_original_layout_is_recognised() {
    for (case, label) in [("klein", "Flux.2 Klein"), ("dev", "Flux.2 dev")] {
        let fixture = fixture(case);
        let model = model(&fixture);
        let diffusion = model.diffusion.as_ref().unwrap();
        assert_eq!((diffusion.family, model.label().as_str()), (Family::Flux2, label));
        // Names without a prefix, and norms that are called as others are.
        let params = fixture.json("params");
        let tensors = params.as_object().unwrap().iter().map(|(name, shape)| {
            let name = name.replace("norm.scale", "norm.weight");
            (name, Dtype::BF16, common::fixture::dims(shape))
        });
        let file = Checkpoint::from_parts("alone", Default::default(), tensors).unwrap();
        let alone = recognise(&file).unwrap();
        assert_eq!(alone.diffusion.unwrap().config, diffusion.config);
        assert_eq!((alone.unknown, alone.ignored), (vec![], vec![]));
    }
}

/// Diffusers' modules are the rows that its own converter says; the original's names are whole layers.
#[test]
fn loras_are_found_by_every_name() {
    let fixture = fixture("dev");
    let model = model(&fixture);
    let read = |name: &str, shape: &[usize]| {
        let tensors = [(format!("{name}.diff"), Dtype::F16, shape.to_vec())];
        let file = Checkpoint::from_parts("test", Default::default(), tensors).unwrap();
        let lora = lora::read(&file, &model).unwrap();
        assert_eq!(lora.adapters.len(), 1, "{name}: {:?}", lora.unknown);
        let adapter = &lora.adapters[0];
        (adapter.layer.clone(), adapter.rows.clone())
    };
    let component = model.component(ComponentKind::DiffusionModel).unwrap();
    let shape_of = |layer: &str| {
        let found = component.layers.iter().find(|found| found.name == layer).unwrap();
        found.params[0].shape.clone()
    };
    let modules: BTreeMap<String, (String, usize, usize, usize)> =
        serde_json::from_value(fixture.json("modules")).unwrap();
    assert!(modules.len() > 30);
    for (module, (layer, first, middle, rows)) in &modules {
        let mut shape = shape_of(layer);
        shape[0] = *rows;
        let span = |adapter, layer, count| RowSpan { adapter, layer, count };
        let half = rows / 2;
        let spans = match middle == &(first + half) {
            true => vec![span(0, *first, *rows)],
            false => vec![span(0, *first, half), span(half, *middle, half)],
        };
        let kohya = format!("lora_unet_{}", module.replace('.', "_"));
        let forms = ["transformer.", "diffusion_model.", "base_model.model."];
        for name in forms.map(|form| format!("{form}{module}")).into_iter().chain([kohya]) {
            assert_eq!(read(&name, &shape), (layer.clone(), spans.clone()), "{name}");
        }
    }
    for layer in &component.layers {
        let shape = layer.params[0].shape.clone();
        let spans = vec![RowSpan { adapter: 0, layer: 0, count: shape[0] }];
        let kohya = format!("lora_unet_{}", layer.name.replace('.', "_"));
        for name in [kohya, format!("diffusion_model.{}", layer.name)] {
            assert_eq!(read(&name, &shape), (layer.name.clone(), spans.clone()), "{name}");
        }
    }
}

#[test]
fn wrong_inputs_are_errors_that_name_them() {
    let fixture = fixture("dev");
    let scope = fixture.component(DType::F32);
    let network = Flux2Transformer::load(&scope, &config(&fixture)).unwrap();
    type Change = fn(&mut NetworkInput);
    let wrong: [(&str, Change); 6] = [
        ("latent", |input| input.x = input.x.clone().repeat_dim(1, 2)),
        ("latent", |input| input.x = input.x.clone().slice([0..2, 0..8, 0..4, 0..0])),
        ("timesteps", |input| input.timesteps = input.timesteps.clone().repeat_dim(0, 2)),
        ("guidance", |input| input.guidance = Some(input.timesteps.clone().narrow(0, 0, 1))),
        ("context", |input| input.context = input.context.clone().narrow(2, 0, 3)),
        ("reference latent", |input| {
            input.reference_latents = vec![input.x.clone().narrow(1, 0, 3)];
        }),
    ];
    for (name, change) in wrong {
        let mut given = input(&fixture, 0);
        change(&mut given);
        match network.forward(given).unwrap_err() {
            ModelError::Input { input, .. } => assert_eq!(input, name),
            error => panic!("{name}: {error}"),
        }
    }
    let broken: [fn(&mut Flux2Config); 3] =
        [|config| config.heads = 0, |config| config.heads = 5, |config| config.heads = 8];
    for change in broken {
        let mut config = config(&fixture);
        change(&mut config);
        let network = Flux2Transformer::load(&scope, &config);
        assert!(matches!(network, Err(ModelError::Config { .. })));
    }
}
