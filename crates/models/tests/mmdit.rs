//! The MMDiT against diffusers' `SD3Transformer2DModel` (`tools/reference/make_mmdit.py`), with the tolerance of the
//! UNet's tests.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::{Arc, Mutex};

use common::allocations::in_fp8;
use common::fixture::Fixture;
use common::{max_error, mmdit_case, values};
use distorch_checkpoint::config::{DiffusionConfig, MmditConfig};
use distorch_checkpoint::family::{Configs, blank, recognise};
use distorch_checkpoint::{ComponentKind, Dtype};
use distorch_models::ModelError;
use distorch_models::network::{Network, NetworkInput, ReferenceMethod, SkipLayers};
use distorch_models::sd3::Mmdit;
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{
    DType, Device, LayerParams, LayerSource, Resident, Scope, Tensor, WeightError,
};

const TOLERANCE: f32 = 2e-4;

const MEDIUM: &str = "mmdit_sd35_medium.safetensors";

fn assert_equal(name: &str) {
    let errors = mmdit_case::errors(&Fixture::open(name), &cpu(), DType::F32);
    println!("{name}: {errors:?}");
    assert!(errors.iter().all(|error| *error < TOLERANCE), "{name}: {errors:?}");
}

#[test]
fn sd3_has_no_norms_of_queries_and_keys() {
    assert_equal("mmdit_sd3.safetensors");
}

#[test]
fn sd35_large_normalises_queries_and_keys() {
    assert_equal("mmdit_sd35_large.safetensors");
}

#[test]
fn sd35_medium_has_a_second_attention_of_the_picture() {
    assert_equal(MEDIUM);
}

/// bf16 keeps 8 bits of each value: a few per cent over the depth of the model, where wrong norms or
/// scores would be off by far more.
#[test]
fn bf16_is_near() {
    let errors = mmdit_case::errors(&Fixture::open(MEDIUM), &cpu(), DType::BF16);
    println!("bf16: {errors:?}");
    assert!(errors.iter().all(|error| *error < 0.06), "{errors:?}");
}

/// The reference computes with the same weights, which went through 8-bit floats; the tolerance is that of all others.
#[test]
fn scaled_fp8_is_diffusers_with_the_same_weights() {
    let fixture = Fixture::open(MEDIUM);
    let reference = Fixture::open("fp8.safetensors");
    let scope = Scope::new(in_fp8(&fixture));
    let mmdit = Mmdit::load(&scope, &mmdit_case::config(&fixture)).unwrap();
    for call in 0..2 {
        let out = mmdit.forward(mmdit_case::call(&fixture, call)).unwrap();
        let error = max_error(&values(&out), &reference.tensor(&format!("mmdit.{call}")).1);
        println!("{call}: {error:e}");
        assert!(error < TOLERANCE, "{call}: {error}");
    }
}

fn load() -> (Fixture, MmditConfig, Mmdit) {
    let fixture = Fixture::open(MEDIUM);
    let config = mmdit_case::config(&fixture);
    let mmdit = Mmdit::load(&fixture.component(DType::F32), &config).unwrap();
    (fixture, config, mmdit)
}

/// A batch is as its pictures one by one, each with its own text, pooled text and timestep.
#[test]
fn pictures_of_a_batch_do_not_mix() {
    let (fixture, _, mmdit) = load();
    let input = mmdit_case::call(&fixture, 0);
    let both = values(&mmdit.forward(input.clone()).unwrap());
    let one = |at: usize| {
        let NetworkInput { x, timesteps, context, vector, .. } = input.clone();
        let input = NetworkInput {
            x: x.narrow(0, at, 1),
            timesteps: timesteps.narrow(0, at, 1),
            context: context.narrow(0, at, 1),
            vector: vector.map(|vector| vector.narrow(0, at, 1)),
            ..input.clone()
        };
        values(&mmdit.forward(input).unwrap())
    };
    let each: Vec<f32> = [one(0), one(1)].concat();
    let error = common::max_error(&each, &both);
    assert!(error < 1e-5, "{error}");
}

/// Numbers beyond the last block, and those of single blocks, leave nothing out.
#[test]
fn only_blocks_that_are_there_are_left_out() {
    let (fixture, config, mmdit) = load();
    let run = |double: Vec<usize>, single: Vec<usize>| {
        let skip = SkipLayers { double, single };
        let input = NetworkInput { skip, ..mmdit_case::call(&fixture, 1) };
        values(&mmdit.forward(input).unwrap())
    };
    let all = run(vec![], vec![]);
    assert_eq!(run(vec![config.depth, 99], vec![0, 1, 2]), all);
    let mut each: Vec<_> = (0..config.depth).map(|at| run(vec![at], vec![])).collect();
    each.push(all);
    for (i, one) in each.iter().enumerate() {
        assert!(each[..i].iter().all(|other| other != one), "{i}");
    }
}

#[test]
fn wrong_inputs_are_errors_that_name_them() {
    let (fixture, config, mmdit) = load();
    let call = |x: [usize; 4], t: usize, context: [usize; 3], vector: Option<[usize; 2]>| {
        let input = |name: &str, shape: Vec<usize>| fixture.input(name, &shape.into());
        mmdit.forward(NetworkInput {
            x: input("x", x.to_vec()),
            timesteps: common::fixture::tensor(vec![1.0; t], vec![t]),
            context: fixture.input("context", &context.to_vec().into()),
            vector: vector.map(|shape| fixture.input("pooled", &shape.to_vec().into())),
            guidance: None,
            reference_latents: Vec::new(),
            reference_method: ReferenceMethod::default(),
            reference_slots: Vec::new(),
            skip: SkipLayers::default(),
        })
    };
    let name = |result: Result<Tensor<4>, ModelError>| match result.unwrap_err() {
        ModelError::Input { input, .. } => input,
        error => panic!("{error}"),
    };
    let (text, pooled) = (config.context_dim, config.adm_in_channels);
    assert_eq!(name(call([1, 4, 8, 8], 1, [1, 2, text], Some([1, pooled]))), "latent");
    assert_eq!(name(call([1, 16, 0, 8], 1, [1, 2, text], Some([1, pooled]))), "latent");
    assert_eq!(name(call([2, 16, 8, 8], 1, [2, 2, text], Some([2, pooled]))), "timesteps");
    assert_eq!(name(call([1, 16, 8, 8], 1, [2, 2, text], Some([1, pooled]))), "context");
    assert_eq!(name(call([1, 16, 8, 8], 1, [1, 0, text], Some([1, pooled]))), "context");
    assert_eq!(name(call([1, 16, 8, 8], 1, [1, 2, text + 1], Some([1, pooled]))), "context");
    assert_eq!(name(call([1, 16, 8, 8], 1, [1, 2, text], None)), "pooled text");
    assert_eq!(name(call([1, 16, 8, 8], 1, [1, 2, text], Some([1, pooled + 1]))), "pooled text");
    // 14 patches of two pixels are in the table; an odd side is filled up.
    assert!(call([1, 16, 28, 27], 1, [1, 2, text], Some([1, pooled])).is_ok());
    let large = call([1, 16, 28, 29], 1, [1, 2, text], Some([1, pooled])).unwrap_err();
    let large = large.to_string();
    assert!(large.contains("at most 28×28") && large.contains("28×30"), "{large}");
}

#[test]
fn a_configuration_that_contradicts_itself_is_an_error() {
    let fixture = Fixture::open(MEDIUM);
    let scope = fixture.component(DType::F32);
    let good = mmdit_case::config(&fixture);
    let broken: [fn(&mut MmditConfig); 6] = [
        |config| config.depth = 0,
        |config| config.heads = 0,
        |config| config.heads = 5,
        |config| config.patch_size = 0,
        |config| config.pos_embed_max_size = 0,
        |config| config.dual_attention_layers = vec![4],
    ];
    for change in broken {
        let mut config = good.clone();
        change(&mut config);
        assert!(matches!(Mmdit::load(&scope, &config), Err(ModelError::Config { .. })));
    }
    let missing = MmditConfig { dual_attention_layers: vec![3], ..good.clone() };
    let error = Mmdit::load(&scope, &missing).err().unwrap().to_string();
    assert!(error.contains("joint_blocks.3.x_block.attn2.qkv"), "{error}");
    // Found, but of another size.
    let mut wrong: Vec<MmditConfig> = Vec::new();
    wrong.push(MmditConfig { width: 32, ..good.clone() });
    wrong.push(MmditConfig { heads: 4, ..good.clone() });
    wrong.push(MmditConfig { out_channels: 4, ..good.clone() });
    wrong.push(MmditConfig { patch_size: 1, ..good.clone() });
    wrong.push(MmditConfig { pos_embed_max_size: 13, ..good });
    for config in wrong {
        let mmdit = Mmdit::load(&scope, &config).unwrap();
        let error = mmdit.forward(mmdit_case::call(&fixture, 1)).unwrap_err();
        let of_layer = matches!(error, ModelError::Layer { .. } | ModelError::Output { .. });
        assert!(of_layer, "{config:?}: {error}");
    }
}

/// Hands out layers and writes down which.
struct Recorded {
    layers: Resident,
    names: Mutex<Vec<String>>,
}

impl LayerSource for Recorded {
    fn find(&self, name: &str) -> Option<usize> {
        self.layers.find(name)
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        self.layers.has_prefix(prefix)
    }

    fn fetch(&self, index: usize) -> Result<LayerParams, WeightError> {
        let params = self.layers.fetch(index)?;
        self.names.lock().unwrap().push(params.layer().to_owned());
        Ok(params)
    }

    fn device(&self) -> &Device {
        self.layers.device()
    }

    fn dtype(&self) -> DType {
        self.layers.dtype()
    }
}

/// What is prefetched before the order is learned, and how `interleave` spreads layers, follow from the order of use
/// that a checkpoint's layout declares.
#[test]
fn layers_are_fetched_in_the_declared_order_of_use() {
    for name in ["mmdit_sd3.safetensors", "mmdit_sd35_large.safetensors", MEDIUM] {
        let fixture = Fixture::open(name);
        let config = mmdit_case::config(&fixture);
        let diffusion = Some(DiffusionConfig::Mmdit(config.clone()));
        let configs = Configs { diffusion, ..Configs::default() };
        let model = recognise(&blank("blank", &configs, Dtype::F32).unwrap()).unwrap();
        let component = model.component(ComponentKind::DiffusionModel).unwrap();
        let mut layers: Vec<_> = component.layers.iter().collect();
        layers.sort_by_key(|layer| layer.use_index);
        let mut resident = Resident::new(cpu(), DType::F32);
        for layer in &layers {
            let params = layer.params.iter().map(|param| {
                let values = vec![0.0_f32; param.shape.iter().product()];
                (param.name.clone(), TensorData::new(values, param.shape.clone()))
            });
            resident.insert(&layer.name, params.collect());
        }
        let source = Arc::new(Recorded { layers: resident, names: Mutex::default() });
        let scope = Scope::new(Arc::clone(&source) as Arc<dyn LayerSource>);
        let mmdit = Mmdit::load(&scope, &config).unwrap();
        mmdit.forward(mmdit_case::call(&fixture, 0)).unwrap();
        let declared: Vec<_> = layers.iter().map(|layer| layer.name.clone()).collect();
        assert_eq!(*source.names.lock().unwrap(), declared, "{name}");
    }
}
