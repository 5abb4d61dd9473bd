//! The time that a LoRA adds to reading one layer of SDXL's size.
//!
//!     cargo bench -p distorch-runtime --bench lora

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use distorch_checkpoint::config::{DiffusionConfig, Heads, UnetConfig};
use distorch_checkpoint::family::{Configs, Model, blank, recognise};
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype};
use distorch_runtime::Patch;
use distorch_runtime::lora::{LoraFile, LoraPatch};
use distorch_runtime::tensor::TensorData;
use distorch_test_support::model_file::ModelFile;

const BLOCK: &str = "input_blocks.1.1.transformer_blocks.0";

/// Name, layer, the shape of its weight, the adapter's tensors.
type Case<'c> = (&'c str, &'c str, &'c [usize], &'c [(&'c str, &'c [usize])]);

/// A UNet of one level, as wide as SDXL's widest.
fn model() -> Model {
    let config = UnetConfig {
        in_channels: 4,
        out_channels: 4,
        model_channels: 1280,
        channel_mult: vec![1],
        num_res_blocks: vec![1],
        transformer_depth: vec![1],
        middle_res_blocks: 0,
        transformer_depth_middle: None,
        transformer_depth_output: vec![1, 1],
        context_dim: 2048,
        heads: Heads::Width(64),
        linear_projections: true,
        adm_in_channels: None,
    };
    let diffusion = Some(DiffusionConfig::Unet(config));
    let checkpoint = blank("SDXL", &Configs { diffusion, ..Configs::default() }, Dtype::F16);
    recognise(&checkpoint.unwrap()).unwrap()
}

/// A file of F16 tensors of one layer.
fn file(layer: &str, tensors: &[(&str, &[usize])]) -> Checkpoint {
    let mut file = ModelFile::new();
    for (ending, shape) in tensors {
        let values = (0..shape.iter().product::<usize>()).map(|at| (at % 17) as f32 / 170.0);
        let key = format!("diffusion_model.{layer}.{ending}");
        file.add(&key, Dtype::F16, shape, &values.collect::<Vec<_>>());
    }
    file.open("lora.safetensors")
}

fn bench(criterion: &mut Criterion) {
    let model = model();
    let (attention, wide) = (format!("{BLOCK}.attn1.to_q"), format!("{BLOCK}.ff.net.0.proj"));
    let conv = "input_blocks.1.0.in_layers.2".to_owned();
    let cases: [Case; 5] = [
        (
            "lora 1280 × 1280, rank 32",
            &attention,
            &[1280, 1280],
            &[("lora_up.weight", &[1280, 32]), ("lora_down.weight", &[32, 1280])],
        ),
        (
            "lora 10240 × 1280, rank 32",
            &wide,
            &[10240, 1280],
            &[("lora_up.weight", &[10240, 32]), ("lora_down.weight", &[32, 1280])],
        ),
        (
            "lora 1280 × 1280 × 3 × 3, rank 32",
            &conv,
            &[1280, 1280, 3, 3],
            &[("lora_up.weight", &[1280, 32, 1, 1]), ("lora_down.weight", &[32, 1280, 3, 3])],
        ),
        (
            "dora 1280 × 1280, rank 32",
            &attention,
            &[1280, 1280],
            &[
                ("lora_up.weight", &[1280, 32]),
                ("lora_down.weight", &[32, 1280]),
                ("dora_scale", &[1280, 1]),
            ],
        ),
        (
            "loha 1280 × 1280, rank 16",
            &attention,
            &[1280, 1280],
            &[
                ("hada_w1_a", &[1280, 16]),
                ("hada_w1_b", &[16, 1280]),
                ("hada_w2_a", &[1280, 16]),
                ("hada_w2_b", &[16, 1280]),
            ],
        ),
    ];
    for (name, layer, shape, tensors) in cases {
        let lora = Arc::new(LoraFile::new(Arc::new(file(layer, tensors)), &model).unwrap());
        let patch = LoraPatch::new(ComponentKind::DiffusionModel).with(&lora, 0.8);
        let weight = TensorData::new(vec![0.5_f32; shape.iter().product()], shape.to_vec());
        criterion.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || vec![("weight".to_owned(), weight.clone())],
                |params| patch.apply(layer, params).unwrap(),
                BatchSize::LargeInput,
            );
        });
    }
}

criterion_group! { name = benches; config = Criterion::default().sample_size(20); targets = bench }
criterion_main!(benches);
