//! LoRA files against PEFT, diffusers and LyCORIS at seeded random weights
//! (`tools/reference/make_lora.py`); GLoRA, OFT, BOFT and ComfyUI's DoRA against an independent computation
//! (`tools/reference/make_lora_weightwise.py`).
//!
//! Tolerance: 1e-4 of a parameter's largest reference value. What is compared is the merged weight
//! times a seeded vector, which is in f64 here and there; f32 sums of some ten to some thousand
//! products in another order differ by about 1e-6.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use common::fixture::{Fixture, tensor};
use common::{flux_case, max_error, seeded, values};
use distorch_checkpoint::family::{Family, Model, Variant, recognise};
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype, Layer};
use distorch_models::family::{self, NetworkPatches};
use distorch_models::network::{NetworkInput, ReferenceMethod, SkipLayers};
use distorch_runtime::lora::{LoraFile, LoraPatch};
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, Patch, Resident, Scope, Tensor};
use distorch_test_support::model_file::ModelFile;
use serde::Deserialize;
use serde_json::Value;

const TOLERANCE: f32 = 1e-4;
/// Whole networks add up what their layers differ by.
const OUTPUT_TOLERANCE: f32 = 2e-4;
const KINDS: [ComponentKind; 2] = [ComponentKind::DiffusionModel, ComponentKind::TextEncoders];

/// A LoRA file as the fixture describes it.
#[derive(Deserialize)]
struct Described {
    /// Seeded tensors.
    tensors: BTreeMap<String, Vec<usize>>,
    /// Scalars.
    values: BTreeMap<String, f32>,
    metadata: HashMap<String, String>,
    /// For the diffusion model and the text encoders.
    strengths: [f32; 2],
    seed: u64,
    gain: f32,
}

impl Described {
    fn checkpoint(&self) -> Checkpoint {
        let seeded = self.tensors.iter().map(|(key, shape)| {
            let mut values = seeded::weight(key, shape, self.seed);
            values.iter_mut().for_each(|value| *value *= self.gain);
            (key, shape.clone(), values)
        });
        let scalars = self.values.iter().map(|(key, value)| (key, Vec::new(), vec![*value]));
        let file = ModelFile::of_values(seeded.chain(scalars));
        let metadata = self.metadata.iter();
        let file = metadata.fold(file, |file, (key, value)| file.with_metadata(key, value));
        file.open("lora.safetensors")
    }
}

struct Case {
    fixture: Fixture,
    model: Model,
    files: Vec<(Arc<LoraFile>, [f32; 2])>,
}

impl Case {
    fn open(name: &str) -> Self {
        let fixture = Fixture::open(&format!("lora_{name}.safetensors"));
        let keys: BTreeMap<String, Vec<usize>> =
            serde_json::from_value(fixture.json("checkpoint")).unwrap();
        let parts = keys.into_iter().map(|(key, shape)| (key, Dtype::F32, shape));
        let checkpoint = Checkpoint::from_parts(name, Default::default(), parts).unwrap();
        let model = recognise(&checkpoint).unwrap();
        let described: Vec<Described> = serde_json::from_value(fixture.json("loras")).unwrap();
        let open = |file: &Described| {
            let opened = LoraFile::new(Arc::new(file.checkpoint()), &model).unwrap();
            assert_eq!(opened.unknown(), [""; 0]);
            (Arc::new(opened), file.strengths)
        };
        let files = described.iter().map(open).collect();
        Self { fixture, model, files }
    }

    fn patch(&self, kind: ComponentKind) -> LoraPatch {
        let strength = |strengths: [f32; 2]| strengths[usize::from(kind != KINDS[0])];
        let add =
            |patch: LoraPatch, (file, strengths): &(_, _)| patch.with(file, strength(*strengths));
        self.files.iter().fold(LoraPatch::new(kind), add)
    }

    fn base(&self, layer: &Layer) -> Vec<(String, TensorData)> {
        let seed = self.fixture.seed();
        let param = |param: &distorch_checkpoint::Param| {
            // A parameter that its parent owns has no name of its own below it.
            let name = match layer.name.rsplit('.').next() == Some(&param.name) {
                true => layer.name.clone(),
                false => format!("{}.{}", layer.name, param.name),
            };
            let values = seeded::weight(&name, &param.shape, seed);
            (param.name.clone(), TensorData::new(values, param.shape.clone()))
        };
        layer.params.iter().map(param).collect()
    }

    fn layers(&self, kind: ComponentKind) -> &[Layer] {
        self.model.component(kind).map_or(&[], |component| &component.layers)
    }

    /// Every merged parameter is the reference's, and no other parameter changes.
    fn check(&self) {
        let mut expected: BTreeSet<String> = self.fixture.names("probe:").collect();
        let mut worst = 0.0_f32;
        for kind in KINDS {
            let patch = self.patch(kind);
            for layer in self.layers(kind) {
                let base = self.base(layer);
                let mut params = base.clone();
                patch.apply(&layer.name, &mut params).unwrap();
                let changed = params != base;
                assert_eq!(patch.key(&layer.name).is_some(), changed, "{}", layer.name);
                for ((name, data), (_, base)) in params.iter().zip(&base) {
                    let probe = format!("probe:{}.{name}", layer.name);
                    if !expected.remove(&probe) {
                        assert_eq!(data, base, "{probe} should be as it was");
                        continue;
                    }
                    let (_, reference) = self.fixture.tensor(&probe);
                    let error = max_error(&project(data, &probe, self.fixture.seed()), &reference);
                    worst = worst.max(error);
                    assert!(error < TOLERANCE, "{probe}: {error}");
                }
            }
        }
        assert!(expected.is_empty(), "not reached: {expected:?}");
        println!("the largest error is {worst:e}");
    }

    /// The diffusion model's layers with merged weights.
    fn scope(&self) -> Scope {
        let kind = ComponentKind::DiffusionModel;
        let patch = self.patch(kind);
        let mut resident = Resident::new(cpu(), DType::F32);
        for layer in self.layers(kind) {
            let mut params = self.base(layer);
            patch.apply(&layer.name, &mut params).unwrap();
            resident.insert(&layer.name, params);
        }
        Scope::new(Arc::new(resident))
    }

    fn check_close(&self, out: &Tensor<4>) {
        let error = max_error(&values(out), &self.fixture.tensor("out").1);
        println!("output: {error:e}");
        assert!(error < OUTPUT_TOLERANCE, "{error}");
    }

    /// The network with merged weights makes the reference's output.
    fn check_output(&self) {
        let scope = self.scope();
        let diffusion = self.model.diffusion.as_ref().unwrap();
        let family = family::of(diffusion.family);
        let network = family.network(&scope, diffusion, &NetworkPatches::default()).unwrap();
        if diffusion.family == Family::Flux {
            let input = flux_case::input(&self.fixture, None);
            return self.check_close(&network.forward(input).unwrap());
        }
        let call = &self.fixture.json("calls")[0];
        let times: Vec<f32> = serde_json::from_value(call["timesteps"].clone()).unwrap();
        // SDXL's class vector has more than a seeded input.
        let vector = match &call["vector"] {
            Value::Null => self.fixture.names("y").next().map(|name| {
                let (shape, values) = self.fixture.tensor(&name);
                tensor(values, shape)
            }),
            shape => Some(self.fixture.input("vector", shape)),
        };
        let input = NetworkInput {
            x: self.fixture.input("x", &call["x"]),
            timesteps: tensor(times.clone(), vec![times.len()]),
            context: self.fixture.input("context", &call["context"]),
            vector,
            guidance: None,
            reference_latents: Vec::new(),
            reference_method: ReferenceMethod::default(),
            reference_slots: Vec::new(),
            skip: SkipLayers::default(),
        };
        self.check_close(&network.forward(input).unwrap());
    }
}

/// A parameter, as a matrix, times the seeded vector of this name.
fn project(data: &TensorData, name: &str, seed: u64) -> Vec<f32> {
    let values = data.as_slice::<f32>().unwrap();
    let width = data.shape.iter().skip(1).product();
    let vector = seeded::uniform(name, width, seed);
    let product = |row: &[f32]| -> f32 {
        row.iter().zip(&vector).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
    };
    values.chunks(width).map(product).collect()
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            Case::open(stringify!($name)).check();
        })*
    };
}

cases! {
    diffusers_sd1,
    rslora_sdxl,
    kohya_sd1,
    kohya_sdxl,
    kohya_text,
    kohya_flux,
    dora_sd1,
    loha_sd1,
    lokr_sd1,
    tucker_sd1,
    weightwise_sd1,
    full_sd1,
    flux,
    diffusers_sd3,
    kohya_sd3,
    onetrainer_sd3,
}

#[test]
fn the_unet_with_two_files_is_diffusers() {
    Case::open("kohya_sd1").check_output();
}

#[test]
fn the_sdxl_unet_with_a_file_is_diffusers() {
    Case::open("kohya_sdxl").check_output();
}

#[test]
fn the_mmdit_with_a_file_is_diffusers() {
    Case::open("diffusers_sd3").check_output();
}

#[test]
fn the_mmdit_with_a_file_for_fused_layers_is_diffusers() {
    Case::open("kohya_sd3").check_output();
}

/// The transformer that takes a control picture's latent too, since the file widens its input.
#[test]
fn flux_with_a_control_lora_is_diffusers() {
    let mut case = Case::open("control_flux");
    let diffusion = case.model.diffusion.as_ref().unwrap();
    let (file, _) = &case.files[0];
    let widened = diffusion.widened(file.widened().unwrap()).unwrap();
    assert_eq!((diffusion.variant, widened.variant), (Variant::Base, Variant::Control));
    case.model.diffusion = Some(widened);
    case.check_output();
}

#[test]
fn flux_with_two_files_is_diffusers() {
    Case::open("kohya_flux").check_output();
}
