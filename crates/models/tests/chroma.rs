//! Chroma's transformer against diffusers' `ChromaTransformer2DModel` (`tools/reference/make_chroma.py`).
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
use distorch_checkpoint::config::{ChromaConfig, DiffusionConfig};
use distorch_checkpoint::family::{Configs, Family, Model, blank, recognise};
use distorch_checkpoint::lora::{self, RowSpan};
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype};
use distorch_models::ModelError;
use distorch_models::chroma::ChromaTransformer;
use distorch_models::network::{Network, NetworkInput, ReferenceMethod, SkipLayers};
use distorch_runtime::{DType, LayerSource, Scope};

const TOLERANCE: f32 = 2e-4;
const CALLS: usize = 2;

fn fixture() -> Fixture {
    Fixture::open("chroma.safetensors")
}

fn config(fixture: &Fixture) -> ChromaConfig {
    serde_json::from_value(fixture.json("config")).unwrap()
}

/// A file of this configuration, without data.
fn model(fixture: &Fixture) -> Model {
    let diffusion = Some(DiffusionConfig::Chroma(config(fixture)));
    let configs = Configs { diffusion, ..Configs::default() };
    recognise(&blank("blank", &configs, Dtype::F32).unwrap()).unwrap()
}

fn input(fixture: &Fixture, call: usize) -> NetworkInput {
    let about = &fixture.json("calls")[call];
    let timesteps: Vec<f32> = serde_json::from_value(about["timesteps"].clone()).unwrap();
    let batch = timesteps.len();
    NetworkInput {
        x: fixture.input(&format!("x.{call}"), &about["x"]),
        timesteps: tensor(timesteps, vec![batch]),
        context: fixture.input(&format!("context.{call}"), &about["context"]),
        vector: None,
        guidance: None,
        reference_latents: Vec::new(),
        reference_method: ReferenceMethod::default(),
        skip: SkipLayers::default(),
    }
}

fn errors(dtype: DType) -> Vec<f32> {
    let fixture = fixture();
    let network = ChromaTransformer::load(&fixture.component(dtype), &config(&fixture)).unwrap();
    let error = |call: usize| {
        let out = network.forward(input(&fixture, call)).unwrap();
        let (shape, reference) = fixture.tensor(&format!("out.{call}"));
        assert_eq!(out.dims().to_vec(), shape);
        max_error(&values(&out), &reference)
    };
    (0..CALLS).map(error).collect()
}

/// Two pictures at once, and odd sides.
#[test]
fn velocities_are_diffusers() {
    let errors = errors(DType::F32);
    println!("{errors:?}");
    assert!(errors.iter().all(|error| *error < TOLERANCE), "{errors:?}");
}

/// bf16 keeps 8 bits of each value.
#[test]
fn bf16_is_near() {
    let errors = errors(DType::BF16);
    println!("{errors:?}");
    assert!(errors.iter().all(|error| *error < 0.06), "{errors:?}");
}

#[test]
fn the_same_bits_for_every_allocation() {
    let fixture = fixture();
    check_bits(&fixture, |source| {
        let network = ChromaTransformer::load(&Scope::new(source), &config(&fixture)).unwrap();
        let run = |call| values(&network.forward(input(&fixture, call)).unwrap());
        (0..CALLS).flat_map(run).map(f32::to_bits).collect()
    });
}

/// Plans and prefetching count with the order that the checkpoint crate states.
#[test]
fn layers_are_used_in_the_stated_order() {
    let fixture = fixture();
    let model = model(&fixture);
    let component = model.component(ComponentKind::DiffusionModel).unwrap();
    let mut stated: Vec<_> = component.layers.iter().collect();
    stated.sort_by_key(|layer| layer.use_index);
    let stated: Vec<_> = stated.into_iter().map(|layer| layer.name.clone()).collect();
    let inner = Arc::clone(fixture.component(DType::F32).source());
    let recording = Arc::new(Recording::new(inner));
    let scope = Scope::new(Arc::clone(&recording) as Arc<dyn LayerSource>);
    let network = ChromaTransformer::load(&scope, &config(&fixture)).unwrap();
    network.forward(input(&fixture, 0)).unwrap();
    assert_eq!(recording.fetched(), stated);
}

#[test]
fn a_file_in_the_original_layout_is_recognised() {
    let fixture = fixture();
    let model = model(&fixture);
    let diffusion = model.diffusion.as_ref().unwrap();
    assert_eq!((diffusion.family, model.label().as_str()), (Family::Chroma, "Chroma"));
    assert_eq!(diffusion.config, DiffusionConfig::Chroma(config(&fixture)));
    // Names without a prefix, and norms that are called as others are.
    let params = fixture.json("params");
    let tensors = params.as_object().unwrap().iter().map(|(name, shape)| {
        let name = name.replace("_norm.scale", "_norm.weight");
        (name, Dtype::BF16, common::fixture::dims(shape))
    });
    let file = Checkpoint::from_parts("alone", Default::default(), tensors).unwrap();
    let alone = recognise(&file).unwrap();
    assert_eq!(alone.diffusion.unwrap().config, diffusion.config);
    assert_eq!((alone.unknown, alone.ignored), (vec![], vec![]));
}

/// Diffusers' modules are the rows that its own converter says; the original's names are whole layers.
#[test]
fn loras_are_found_by_every_name() {
    let fixture = fixture();
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
    let modules: BTreeMap<String, (String, usize, usize)> =
        serde_json::from_value(fixture.json("modules")).unwrap();
    assert!(modules.len() > 30);
    for (module, (layer, first, rows)) in &modules {
        let mut shape = shape_of(layer);
        shape[0] = *rows;
        let spans = vec![RowSpan { adapter: 0, layer: *first, count: *rows }];
        for form in ["transformer.{}", "diffusion_model.{}", "base_model.model.{}"] {
            let name = form.replace("{}", module);
            assert_eq!(read(&name, &shape), (layer.clone(), spans.clone()), "{name}");
        }
        let kohya = format!("lora_unet_{}", module.replace('.', "_"));
        assert_eq!(read(&kohya, &shape), (layer.clone(), spans), "{kohya}");
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
    let fixture = fixture();
    let scope = fixture.component(DType::F32);
    let network = ChromaTransformer::load(&scope, &config(&fixture)).unwrap();
    type Change = fn(&mut NetworkInput);
    let wrong: [(&str, Change); 4] = [
        ("latent", |input| input.x = input.x.clone().repeat_dim(1, 2)),
        ("latent", |input| input.x = input.x.clone().slice([0..2, 0..4, 0..8, 0..0])),
        ("timesteps", |input| input.timesteps = input.timesteps.clone().repeat_dim(0, 2)),
        ("context", |input| input.context = input.context.clone().narrow(2, 0, 3)),
    ];
    for (name, change) in wrong {
        let mut given = input(&fixture, 0);
        change(&mut given);
        match network.forward(given).unwrap_err() {
            ModelError::Input { input, .. } => assert_eq!(input, name),
            error => panic!("{name}: {error}"),
        }
    }
    let broken: [fn(&mut ChromaConfig); 3] =
        [|config| config.heads = 0, |config| config.heads = 5, |config| config.in_channels = 18];
    for change in broken {
        let mut config = config(&fixture);
        change(&mut config);
        let network = ChromaTransformer::load(&scope, &config);
        assert!(matches!(network, Err(ModelError::Config { .. })));
    }
}
