//! What text encoders and the transformers of Z-Image, Flux.2, Chroma and Krea 2 take on the CPU beside its weights, held against the estimate.
//!
//! In a process of its own: the allocator's count is of all threads.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::seeded;
use distorch_checkpoint::config::{
    ChromaConfig, DecoderConfig, DecoderKind, DiffusionConfig, Flux2Config, Krea2Config,
    NextDitConfig, NextDitKind, QwenImage21Config, QwenImageConfig, T5Config, TextEncoderConfig,
    VisionConfig, VisionKind,
};
use distorch_checkpoint::family::{Configs, Model, blank, recognise};
use distorch_checkpoint::{ComponentKind, Dtype};
use distorch_models::chroma::ChromaTransformer;
use distorch_models::decoder::{Decoder, Piece};
use distorch_models::estimate::{Compute, Workload};
use distorch_models::family::activation_bytes;
use distorch_models::flux2::Flux2Transformer;
use distorch_models::krea2::Krea2Transformer;
use distorch_models::network::{Network, NetworkInput, ReferenceMethod, SkipLayers};
use distorch_models::next_dit::NextDit;
use distorch_models::prompt::token::Token;
use distorch_models::qwen_image::QwenImageTransformer;
use distorch_models::qwen_image21::QwenImage21Transformer;
use distorch_models::t5::T5Encoder;
use distorch_models::text::PromptPicture;
use distorch_models::vision;
use distorch_runtime::heap::{CountingAllocator, PeakMeter};
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, Resident, Scope, Tensor};

#[global_allocator]
static COUNTING: CountingAllocator = CountingAllocator;

/// A file with these alone, and the seeded weights of a component of it.
fn load(configs: &Configs, kind: ComponentKind) -> (Model, Scope) {
    let model = recognise(&blank("blank", configs, Dtype::F32).unwrap()).unwrap();
    let mut resident = Resident::new(cpu(), DType::F32);
    for layer in &model.component(kind).unwrap().layers {
        let params = layer.params.iter().map(|param| {
            let name = format!("{}.{}", layer.name, param.name);
            let values = seeded::weight(&name, &param.shape, 3);
            (param.name.clone(), TensorData::new(values, param.shape.clone()))
        });
        resident.insert(&layer.name, params.collect());
    }
    (model, Scope::new(Arc::new(resident)))
}

fn text_encoder(name: &'static str, config: TextEncoderConfig) -> (Model, Scope) {
    let configs = Configs { text_encoders: vec![(name, config)], ..Configs::default() };
    let (model, scope) = load(&configs, ComponentKind::TextEncoders);
    (model, scope.at(name))
}

/// What the estimate has for the memory that products pack in, which is kept from the first run on.
const KEPT: u64 = 4 << 20;

/// The estimate is the larger, by less than half.
fn check(
    name: &str,
    model: &Model,
    kind: ComponentKind,
    workload: Workload,
    mut compute: impl FnMut(),
) {
    // Threads take what they keep.
    compute();
    let meter = PeakMeter::begin().unwrap();
    compute();
    let taken = meter.most();
    let host = Compute { element: 4, host: true };
    let estimate = activation_bytes(model, model.component(kind).unwrap(), workload, host);
    println!("{name}: {} of {} KiB", taken >> 10, estimate >> 10);
    assert!(taken <= estimate, "{name}: {taken} of {estimate}");
    assert!(estimate < (taken + KEPT) * 3 / 2, "{name}: {taken} of {estimate}");
}

fn check_text(name: &str, model: &Model, encode: impl FnMut()) {
    check_prompt(name, model, Workload::WORDS, encode);
}

fn check_prompt(name: &str, model: &Model, prompt: Workload, encode: impl FnMut()) {
    check(name, model, ComponentKind::TextEncoders, prompt, encode);
}

#[test]
fn the_estimate_is_what_is_taken_and_a_little_more() {
    t5();
    qwen3();
    qwen25_vl();
    z_image();
    lumina2();
    flux2();
    chroma();
    qwen_image();
    krea2();
    qwen_image21();
}

/// T5 reads 512 tokens in the estimate; XXL has 64 heads of 64 and a width of 4096.
fn t5() {
    let config = T5Config {
        vocab_size: 64,
        width: 1024,
        layers: 3,
        heads: 16,
        head_dim: 64,
        intermediate: 2560,
        relative_buckets: 32,
    };
    let (model, scope) = text_encoder("t5xxl", TextEncoderConfig::T5(config.clone()));
    let encoder = T5Encoder::load(&config, &scope).unwrap();
    let text: Vec<Token> = (0..512).map(|at| Token::Id(at % 64)).collect();
    check_text("T5", &model, || {
        encoder.forward(std::slice::from_ref(&text), 1).unwrap();
    });
}

/// 512 tokens; the 4B model has 32 heads of 128 on a width of 2560, and 9728 features within.
fn qwen3() {
    let config = DecoderConfig {
        kind: DecoderKind::Qwen3,
        vocab_size: 64,
        width: 640,
        layers: 2,
        heads: 8,
        kv_heads: 2,
        head_dim: 128,
        intermediate: 2432,
        vision: None,
    };
    let (model, scope) = text_encoder("qwen3", TextEncoderConfig::Decoder(config.clone()));
    let decoder = Decoder::load(&config, &scope).unwrap();
    let text: Vec<Token> = (0..512).map(|at| Token::Id(at % 64)).collect();
    check_text("Qwen3", &model, || {
        decoder.states(std::slice::from_ref(&text), &[2]).unwrap();
    });
}

/// 512 tokens, without a picture, with one of a megapixel, which is 1369 tokens, and with two that are 588; the published encoder of pictures has 16 heads of 80 and 3420
/// features within.
fn qwen25_vl() {
    let vision = VisionConfig {
        kind: VisionKind::Qwen25Vl,
        width: 160,
        layers: 8,
        heads: 2,
        intermediate: 428,
        patch_size: 14,
        positions: 0,
        deepstack: 0,
    };
    let config = DecoderConfig {
        kind: DecoderKind::Qwen25Vl,
        vocab_size: 64,
        width: 448,
        layers: 2,
        heads: 4,
        kv_heads: 1,
        head_dim: 128,
        intermediate: 2368,
        vision: Some(vision),
    };
    let (model, scope) = text_encoder("qwen25vl", TextEncoderConfig::Decoder(config.clone()));
    let tower = vision::load(&vision, config.width, &scope.at("visual")).unwrap();
    let decoder = Decoder::load(&config, &scope).unwrap();
    let text: Vec<Token> = (0..512).map(|at| Token::Id(at % 64)).collect();
    let picture = PromptPicture::new([1024, 1024], vec![0.5; 3 << 20]).unwrap();
    let small = PromptPicture::new([392, 588], vec![0.5; 3 * 392 * 588]).unwrap();
    for pictures in [&[][..], std::slice::from_ref(&picture), &[small.clone(), small]] {
        let prompt = Workload::of_prompt(pictures.iter().map(PromptPicture::size));
        let name = format!("Qwen2.5-VL with {} pictures", pictures.len());
        check_prompt(&name, &model, prompt, || {
            let seen = pictures.iter().map(|one| Piece::Picture(tower.encode(one).unwrap()));
            let pieces: Vec<_> = [Piece::Words(text.clone())].into_iter().chain(seen).collect();
            decoder.states_with_pictures(pieces, &[2]).unwrap();
        });
    }
    let prompt = Workload::WORDS_AND_PICTURE;
    check_prompt("Qwen2.5-VL's encoder of pictures", &model, prompt, || {
        tower.encode(&picture).unwrap();
    });
}

fn z_image() {
    let config = NextDitConfig {
        kind: NextDitKind::ZImage,
        in_channels: 16,
        out_channels: 16,
        patch_size: 2,
        width: 512,
        heads: 4,
        kv_heads: 4,
        context_dim: 96,
        mlp_width: 1365,
        time_width: 64,
        modulation_width: 64,
        refiner_depth: 1,
        depth: 2,
    };
    next_dit("Z-Image", &config);
}

fn lumina2() {
    let config = NextDitConfig {
        kind: NextDitKind::Lumina2,
        in_channels: 16,
        out_channels: 16,
        patch_size: 2,
        width: 576,
        heads: 6,
        kv_heads: 2,
        context_dim: 96,
        mlp_width: 2304,
        time_width: 576,
        modulation_width: 576,
        refiner_depth: 1,
        depth: 2,
    };
    next_dit("Lumina 2", &config);
}

fn next_dit(name: &str, config: &NextDitConfig) {
    let diffusion = Some(DiffusionConfig::NextDit(config.clone()));
    let configs = Configs { diffusion, ..Configs::default() };
    let (model, scope) = load(&configs, ComponentKind::DiffusionModel);
    let network = NextDit::load(&scope, config).unwrap();
    check_network(name, &model, &network, [16, 8, 96]);
}

fn flux2() {
    let config = Flux2Config {
        in_channels: 64,
        out_channels: 64,
        width: 512,
        heads: 4,
        context_dim: 96,
        depth: 1,
        depth_single: 2,
        mlp_width: 1536,
        guidance_embed: false,
    };
    let diffusion = Some(DiffusionConfig::Flux2(config.clone()));
    let configs = Configs { diffusion, ..Configs::default() };
    let (model, scope) = load(&configs, ComponentKind::DiffusionModel);
    let network = Flux2Transformer::load(&scope, &config).unwrap();
    check_network("Flux.2", &model, &network, [64, 16, 96]);
}

fn chroma() {
    let config = ChromaConfig {
        in_channels: 64,
        out_channels: 64,
        width: 512,
        heads: 4,
        context_dim: 96,
        depth: 1,
        depth_single: 2,
        mlp_width: 2048,
        approximator_channels: 64,
        approximator_width: 64,
        approximator_depth: 2,
    };
    let diffusion = Some(DiffusionConfig::Chroma(config.clone()));
    let configs = Configs { diffusion, ..Configs::default() };
    let (model, scope) = load(&configs, ComponentKind::DiffusionModel);
    let network = ChromaTransformer::load(&scope, &config).unwrap();
    check_network("Chroma", &model, &network, [16, 8, 96]);
}

fn krea2() {
    let config = Krea2Config {
        in_channels: 16,
        out_channels: 16,
        patch_size: 2,
        width: 768,
        heads: 6,
        kv_heads: 2,
        mlp_width: 2048,
        depth: 2,
        time_frequencies: 64,
        text_width: 64,
        text_layers: 4,
        text_heads: 2,
        text_kv_heads: 2,
        text_mlp_width: 172,
        layerwise_depth: 1,
        refiner_depth: 1,
    };
    let diffusion = Some(DiffusionConfig::Krea2(config.clone()));
    let configs = Configs { diffusion, ..Configs::default() };
    let (model, scope) = load(&configs, ComponentKind::DiffusionModel);
    let network = Krea2Transformer::load(&scope, &config).unwrap();
    check_network("Krea 2", &model, &network, [16, 8, 4 * 64]);
}

fn qwen_image() {
    let config = QwenImageConfig {
        in_channels: 16,
        out_channels: 16,
        width: 512,
        heads: 4,
        context_dim: 96,
        mlp_width: 2048,
        depth: 2,
        references_at_zero: false,
    };
    let diffusion = Some(DiffusionConfig::QwenImage(config.clone()));
    let configs = Configs { diffusion, ..Configs::default() };
    let (model, scope) = load(&configs, ComponentKind::DiffusionModel);
    let network = QwenImageTransformer::load(&scope, &config).unwrap();
    check_network("Qwen-Image", &model, &network, [16, 8, 96]);
}

fn qwen_image21() {
    let config = QwenImage21Config {
        in_channels: 64,
        out_channels: 64,
        width: 512,
        heads: 4,
        context_dim: 96,
        mlp_width: 1536,
        depth: 2,
        fused_gate: true,
    };
    let diffusion = Some(DiffusionConfig::QwenImage21(config.clone()));
    let configs = Configs { diffusion, ..Configs::default() };
    let (model, scope) = load(&configs, ComponentKind::DiffusionModel);
    let network = QwenImage21Transformer::load(&scope, &config).unwrap();
    check_network("Qwen-Image 2.1", &model, &network, [64, 16, 96]);
}

/// Of latents of so many channels, each of whose pixels are so many of the picture, with 512 tokens of text of a width.
fn check_network(
    name: &str,
    model: &Model,
    network: &dyn Network,
    [channels, downscale, context]: [usize; 3],
) {
    for (batch, side) in [(1, 512), (2, 384)] {
        let input = |name: &str, shape: Vec<usize>| {
            let values = seeded::uniform(name, shape.iter().product(), 0);
            TensorData::new(values, shape)
        };
        let (latent, rows) = (side as usize / downscale, batch as usize);
        let given = NetworkInput {
            x: Tensor::from_data(input("x", vec![rows, channels, latent, latent]), &cpu()),
            timesteps: Tensor::ones([rows], (&cpu(), DType::F32)) * 0.5,
            context: Tensor::from_data(input("context", vec![rows, 512, context]), &cpu()),
            vector: None,
            guidance: None,
            reference_latents: Vec::new(),
            reference_method: ReferenceMethod::default(),
            reference_slots: Vec::new(),
            skip: SkipLayers::default(),
        };
        let workload = Workload { width: side, height: side, batch, cfg_batch: 1 };
        check(name, model, ComponentKind::DiffusionModel, workload, || {
            network.forward(given.clone()).unwrap();
        });
    }
}
