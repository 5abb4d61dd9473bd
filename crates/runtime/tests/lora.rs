//! LoRA files as patches: keys, strengths, order, dtypes, damaged files. What they make of weights is
//! compared with other implementations in `crates/models/tests/lora.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use distorch_checkpoint::config::{DiffusionConfig, Heads, UnetConfig};
use distorch_checkpoint::family::{Configs, Model, blank, recognise};
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype};
use distorch_runtime::lora::{LoraFile, LoraPatch};
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, LayerSource, Patch, Resident};
use distorch_test_support::model_file::ModelFile;
use proptest::prelude::*;

const KIND: ComponentKind = ComponentKind::DiffusionModel;
/// A linear layer, 32 × 32 without a bias, and a convolution, 32 × 32 × 3 × 3.
const Q: &str = "input_blocks.1.1.transformer_blocks.0.attn1.to_q";
const CONV: &str = "input_blocks.1.0.in_layers.2";

/// A checkpoint with a tiny UNet whose weights are noise.
fn checkpoint() -> Checkpoint {
    let config = UnetConfig {
        in_channels: 4,
        out_channels: 4,
        model_channels: 32,
        channel_mult: vec![1],
        num_res_blocks: vec![1],
        transformer_depth: vec![1],
        middle_res_blocks: 0,
        transformer_depth_middle: None,
        transformer_depth_output: vec![1, 1],
        context_dim: 16,
        heads: Heads::Count(8),
        linear_projections: false,
        adm_in_channels: None,
    };
    let diffusion = Some(DiffusionConfig::Unet(config));
    let shapes = blank("tiny", &Configs { diffusion, ..Configs::default() }, Dtype::F32).unwrap();
    let tensors = shapes.tensors().enumerate().map(|(at, (key, info))| {
        (key.to_owned(), Dtype::F32, info.shape.clone(), noise(at, info.elements() as usize))
    });
    Checkpoint::from_bytes("tiny.safetensors", safetensors(tensors.collect())).unwrap()
}

fn noise(seed: usize, count: usize) -> Vec<f32> {
    let value = |at: usize| {
        let hash = ((at + 1) * 0x9E37_79B9 + seed * 0x85EB_CA6B) as u32;
        (hash ^ (hash >> 15)).wrapping_mul(0x2C1B_3C6D) as f32 / 2_f32.powi(31) - 1.0
    };
    (0..count).map(value).collect()
}

/// A file of values that the dtypes hold exactly.
fn safetensors(tensors: Vec<(String, Dtype, Vec<usize>, Vec<f32>)>) -> Vec<u8> {
    let mut file = ModelFile::new();
    for (key, dtype, shape, values) in tensors {
        file.add(&key, dtype, &shape, &values);
    }
    file.to_bytes()
}

fn model() -> Model {
    recognise(&checkpoint()).unwrap()
}

/// Tensors of an adapter: what follows the layer's name, the shape, the values.
type Tensors<'t> = &'t [(&'t str, &'t [usize], Vec<f32>)];

fn bytes(layer: &str, dtype: Dtype, tensors: Tensors) -> Vec<u8> {
    let key = |ending: &str| format!("diffusion_model.{layer}.{ending}");
    let tensors = tensors.iter();
    safetensors(tensors.map(|(e, shape, v)| (key(e), dtype, shape.to_vec(), v.clone())).collect())
}

fn lora(layer: &str, dtype: Dtype, tensors: Tensors) -> Arc<LoraFile> {
    let file = Checkpoint::from_bytes("lora.safetensors", bytes(layer, dtype, tensors)).unwrap();
    Arc::new(LoraFile::new(Arc::new(file), &model()).unwrap())
}

/// Adds `value` to all weights of [`Q`].
fn constant(value: f32) -> Arc<LoraFile> {
    let tensors = [
        ("lora_up.weight", &[32, 1][..], vec![value; 32]),
        ("lora_down.weight", &[1, 32], vec![1.0; 32]),
    ];
    lora(Q, Dtype::F32, &tensors)
}

fn patch(files: &[(&Arc<LoraFile>, f32)]) -> LoraPatch {
    files.iter().fold(LoraPatch::new(KIND), |patch, (file, strength)| patch.with(file, *strength))
}

/// What a patch makes of a weight of this shape whose values are all `value`.
fn patched(patch: &LoraPatch, layer: &str, shape: &[usize], value: f32) -> Vec<f32> {
    let values = vec![value; shape.iter().product()];
    let mut params = vec![("weight".to_owned(), TensorData::new(values, shape.to_vec()))];
    patch.apply(layer, &mut params).unwrap();
    params.remove(0).1.to_vec::<f32>().unwrap()
}

#[test]
fn strengths_add_up_over_files() {
    let (one, two) = (constant(1.0), constant(2.0));
    let of = |files: &[_]| patched(&patch(files), Q, &[32, 32], 10.0);
    assert_eq!(of(&[(&one, 1.0)]), vec![11.0; 1024]);
    assert_eq!(of(&[(&one, -0.5), (&two, 1.5)]), vec![12.5; 1024]);
    assert_eq!(of(&[(&one, 1.0), (&one, 1.0)]), vec![12.0; 1024]);
}

#[test]
fn a_strength_of_0_is_no_patch() {
    let one = constant(1.0);
    let none = patch(&[(&one, 0.0)]);
    assert!(none.is_empty());
    assert_eq!(none.key(Q), None);
    assert_eq!(patched(&none, Q, &[32, 32], 3.0), vec![3.0; 1024]);
}

#[test]
fn keys_tell_contents_strength_and_order() {
    let (one, two) = (constant(1.0), constant(2.0));
    let key = |files: &[_]| patch(files).key(Q).unwrap();
    let keys = [
        key(&[(&one, 1.0)]),
        key(&[(&two, 1.0)]),
        key(&[(&one, 0.5)]),
        key(&[(&one, 1.0), (&two, 1.0)]),
        key(&[(&two, 1.0), (&one, 1.0)]),
    ];
    for (at, key) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(key), "{at}");
    }
    // The same file once more is the same patch; layers that it leaves alone have no key.
    assert_eq!(key(&[(&constant(1.0), 1.0)]), keys[0]);
    assert_eq!(patch(&[(&one, 1.0)]).key(CONV), None);
    let text = LoraPatch::new(ComponentKind::TextEncoders).with(&one, 1.0);
    assert_eq!(text.key(Q), None);
}

#[test]
fn dora_at_half_strength_is_half_way() {
    let tensors = [
        ("lora_up.weight", &[32, 1][..], vec![1.0; 32]),
        ("lora_down.weight", &[1, 32], vec![2.0; 32]),
        ("dora_scale", &[32, 1], vec![6.0 * 32_f32.sqrt(); 32]),
    ];
    let dora = lora(Q, Dtype::F32, &tensors);
    // All weights are 1, then 3; the norm of a row is that of ones, so that each 3 becomes 18.
    for (strength, expected) in [(1.0, 18.0), (0.5, 9.5), (-1.0, -16.0)] {
        let weights = patched(&patch(&[(&dora, strength)]), Q, &[32, 32], 1.0);
        assert!(weights.iter().all(|w| (w - expected).abs() < 1e-5), "{strength}: {weights:?}");
    }
}

#[test]
fn adapters_are_stored_in_any_float() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8E5M2] {
        let up = (0..32).map(|at| (at % 4) as f32 * 0.5).collect();
        let tensors =
            [("lora_up.weight", &[32, 1][..], up), ("lora_down.weight", &[1, 32], vec![1.5; 32])];
        let weights = patched(&patch(&[(&lora(Q, dtype, &tensors), 1.0)]), Q, &[32, 32], 1.0);
        let expected = (0..1024).map(|at| 1.0 + (at / 32 % 4) as f32 * 0.75);
        assert!(weights.into_iter().eq(expected), "{dtype}");
    }
}

#[test]
fn a_resident_component_takes_it_and_gives_it_back() {
    let (checkpoint, model) = (checkpoint(), model());
    let component = model.component(KIND).unwrap();
    let mut resident = Resident::load(&checkpoint, component, cpu(), DType::F32, |_| {}).unwrap();
    let index = resident.find(Q).unwrap();
    let weight = |resident: &Resident| -> Vec<f32> {
        let weight = resident.fetch(index).unwrap().get::<2>("weight").unwrap();
        weight.into_data().to_vec().unwrap()
    };
    let base = weight(&resident);
    let patch = patch(&[(&constant(1.0), 0.25)]);
    resident.set_patch(&checkpoint, component, Some(&patch)).unwrap();
    let expected: Vec<_> = base.iter().map(|value| value + 0.25).collect();
    assert_eq!(weight(&resident), expected);
    resident.set_patch(&checkpoint, component, None).unwrap();
    assert_eq!(weight(&resident), base);
}

#[test]
fn a_weight_of_another_size_is_an_error_that_names_the_file() {
    let patch = patch(&[(&constant(1.0), 1.0)]);
    let mut params = vec![("weight".to_owned(), TensorData::new(vec![0.0_f32; 4], [2, 2]))];
    let error = patch.apply(Q, &mut params).unwrap_err().to_string();
    assert!(error.contains(Q) && error.contains("lora.safetensors"), "{error}");
    let error = patch.apply(Q, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("no `weight`"), "{error}");
}

#[test]
fn a_file_that_is_cut_short_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.safetensors");
    let tensors = [
        ("lora_up.weight", &[32, 1][..], vec![1.0; 32]),
        ("lora_down.weight", &[1, 32], vec![1.0; 32]),
    ];
    let contents = bytes(Q, Dtype::F32, &tensors);
    std::fs::write(&path, &contents).unwrap();
    let file = Arc::new(LoraFile::open(&path, &model()).unwrap());
    let patch = patch(&[(&file, 1.0)]);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let mut params = vec![("weight".to_owned(), TensorData::new(vec![0.0_f32; 1024], [32, 32]))];
    let error = patch.apply(Q, &mut params).unwrap_err().to_string();
    assert!(error.contains("cut.safetensors"), "{error}");

    let missing = LoraFile::open(Path::new("/nowhere/x.safetensors"), &model()).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/x.safetensors"), "{missing}");
    let other = folder.path().join("other.safetensors");
    std::fs::write(&other, safetensors(vec![("w".into(), Dtype::F32, vec![1], vec![1.0])]))
        .unwrap();
    let error = LoraFile::open(&other, &model()).unwrap_err().to_string();
    assert!(error.contains("other.safetensors") && error.contains("no LoRA"), "{error}");
}

const ENDINGS: [&str; 29] = [
    "lora_up.weight",
    "lora_down.weight",
    "lora_mid.weight",
    "lora_B.bias",
    "alpha",
    "dora_scale",
    "lora_magnitude_vector",
    "hada_w1_a",
    "hada_w1_b",
    "hada_t1",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t2",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
    "diff",
    "diff_b",
    "w_norm",
    "a1.weight",
    "a2.weight",
    "b1.weight",
    "b2.weight",
    "oft_blocks",
    "rescale",
];

/// Tensors of one kind of adapter, so that some fit, or of all kinds.
fn damaged() -> impl Strategy<Value = Vec<(&'static str, Vec<usize>)>> {
    let size = prop::sample::select(vec![0_usize, 1, 2, 3, 4, 8, 16, 32, 32, 32, 288]);
    let shape = prop::collection::vec(size, 0..5)
        .prop_filter("too large", |shape| shape.iter().product::<usize>() <= 1 << 16);
    let kind = prop::sample::select(vec![
        &ENDINGS[..7],
        &ENDINGS[7..13],
        &ENDINGS[13..20],
        &ENDINGS[23..27],
        &ENDINGS[27..],
        &ENDINGS,
    ]);
    kind.prop_flat_map(move |endings| {
        let tensor = (prop::sample::select(endings.to_vec()), shape.clone());
        prop::collection::hash_map(tensor.0, tensor.1, 1..6)
            .prop_map(|tensors| tensors.into_iter().collect())
    })
}

proptest! {
    /// Whatever the shapes, reading ends in an error or in adapters that fit.
    #[test]
    fn damaged_files_are_errors_or_fit(tensors in damaged(), conv in any::<bool>()) {
        let (layer, shape) = if conv { (CONV, vec![32, 32, 3, 3]) } else { (Q, vec![32, 32]) };
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(ending, shape)| (*ending, shape.as_slice(), noise(1, shape.iter().product())))
            .collect();
        let file = bytes(layer, Dtype::F32, &tensors);
        let Ok(file) = Checkpoint::from_bytes("damaged.safetensors", file) else { return Ok(()) };
        let Ok(lora) = LoraFile::new(Arc::new(file), &MODEL) else { return Ok(()) };
        let mut params = vec![("weight".to_owned(), TensorData::zeros::<f32, _>(shape))];
        if conv {
            params.push(("bias".to_owned(), TensorData::zeros::<f32, _>([32])));
        }
        patch(&[(&Arc::new(lora), 0.5)]).apply(layer, &mut params).unwrap();
    }
}

static MODEL: std::sync::LazyLock<Model> = std::sync::LazyLock::new(model);
