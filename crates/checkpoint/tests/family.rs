//! Recognising and splitting the true key lists of published models.
//!
//! The lists come from `tools/reference/make_key_lists.py`, which checks them with diffusers' own
//! converters and counts the parameters on the classes of diffusers and transformers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers outside `#[test]`

mod common;

use std::collections::{HashMap, HashSet};

use common::{Fixture, orders};
use distorch_checkpoint::config::{
    ClipActivation, DecoderKind, DiffusionConfig, Heads, NextDitKind, Prediction, TextEncoderConfig,
};
use distorch_checkpoint::family::{Family, Model, Variant, recognise};
use distorch_checkpoint::file::Checkpoint;
use distorch_checkpoint::{ComponentKind, Dtype, LayerKind};

/// (fixture, label, family, variant, text encoders)
const FILES: &[(&str, &str, Family, Variant, &[&str])] = &[
    ("sd15", "SD 1.x", Family::Sd1, Variant::Base, &["clip_l"]),
    ("sd15-ema", "SD 1.x", Family::Sd1, Variant::Base, &["clip_l"]),
    ("sd15-inpaint", "SD 1.x inpainting", Family::Sd1, Variant::Inpaint, &["clip_l"]),
    ("sd15-pix2pix", "SD 1.x instruct-pix2pix", Family::Sd1, Variant::InstructPix2Pix, &["clip_l"]),
    ("sd21-v", "SD 2.x", Family::Sd2, Variant::Base, &["clip_h"]),
    ("sd2-inpaint", "SD 2.x inpainting", Family::Sd2, Variant::Inpaint, &["clip_h"]),
    ("sd2-depth", "SD 2.x depth", Family::Sd2, Variant::Depth, &["clip_h"]),
    ("sdxl-base", "SDXL base", Family::SdxlBase, Variant::Base, &["clip_l", "clip_g"]),
    (
        "sdxl-inpaint",
        "SDXL base inpainting",
        Family::SdxlBase,
        Variant::Inpaint,
        &["clip_l", "clip_g"],
    ),
    ("sdxl-ssd1b", "SDXL base", Family::SdxlBase, Variant::Base, &["clip_l", "clip_g"]),
    ("sdxl-refiner", "SDXL refiner", Family::SdxlRefiner, Variant::Base, &["clip_g"]),
    ("sd3-medium", "SD3", Family::Sd3, Variant::Base, &["clip_l", "clip_g", "t5xxl"]),
    ("sd35-medium", "SD3.5 medium", Family::Sd3, Variant::Base, &[]),
    ("sd35-large", "SD3.5 large", Family::Sd3, Variant::Base, &["clip_l", "clip_g", "t5xxl"]),
    ("flux-dev", "Flux dev", Family::Flux, Variant::Base, &["clip_l", "t5xxl"]),
    ("flux-schnell", "Flux schnell", Family::Flux, Variant::Base, &[]),
    ("flux-fill", "Flux dev inpainting", Family::Flux, Variant::Inpaint, &[]),
    ("flux-depth", "Flux dev control", Family::Flux, Variant::Control, &[]),
    ("lumina2", "Lumina 2", Family::Lumina2, Variant::Base, &["gemma2"]),
    ("tiny-sd1", "SD 1.x", Family::Sd1, Variant::Base, &["clip_l"]),
    ("tiny-sd2", "SD 2.x", Family::Sd2, Variant::Base, &["clip_h"]),
    ("tiny-sdxl", "SDXL base", Family::SdxlBase, Variant::Base, &["clip_l", "clip_g"]),
    ("tiny-sd3", "SD3.5 medium", Family::Sd3, Variant::Base, &["clip_l", "clip_g", "t5xxl"]),
    ("tiny-flux", "Flux dev", Family::Flux, Variant::Base, &[]),
];

const DTYPES: [Dtype; 4] = [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F8E4M3];

fn recognised(fixture: &Fixture, dtype: Dtype) -> Model {
    recognise(&fixture.checkpoint(dtype)).unwrap()
}

#[test]
fn each_published_file_gets_its_family() {
    for (name, label, family, variant, encoders) in FILES {
        let model = recognised(&Fixture::load(name), Dtype::F16);
        let diffusion = model.diffusion.as_ref().unwrap();
        assert_eq!(model.label(), *label, "{name}");
        assert_eq!((diffusion.family, diffusion.variant), (*family, *variant), "{name}");
        let flow = matches!(family, Family::Sd3 | Family::Flux | Family::Lumina2);
        assert_eq!(diffusion.prediction == Prediction::Flow, flow, "{name}");
        let found: Vec<_> = model.text_encoders.iter().map(|encoder| encoder.name).collect();
        assert_eq!(found, *encoders, "{name}");
    }
}

#[test]
fn each_tensor_is_accounted_for_in_every_dtype() {
    for (name, ..) in FILES {
        let fixture = Fixture::load(name);
        for dtype in DTYPES {
            let model = recognised(&fixture, dtype);
            assert_exact(name, &fixture, &model);
            let bytes = fixture.parameters.values().sum::<u64>() * dtype.size() as u64;
            assert_eq!(model.components.iter().map(|c| c.bytes()).sum::<u64>(), bytes, "{name}");
        }
    }
}

#[test]
fn dtypes_may_be_mixed() {
    for (name, ..) in FILES {
        let fixture = Fixture::load(name);
        let mixed = |key: &str| DTYPES[key.len() % DTYPES.len()];
        let checkpoint = fixture.checkpoint_with(mixed, |_| {});
        let model = recognise(&checkpoint).unwrap();
        assert_exact(name, &fixture, &model);
        for layer in model.components.iter().flat_map(|component| &component.layers) {
            for param in &layer.params {
                assert_eq!(param.dtype, mixed(&param.key), "{}", param.key);
            }
        }
    }
}

/// Parameters as counted elsewhere; every key used or ignored, and none of them twice.
fn assert_exact(name: &str, fixture: &Fixture, model: &Model) {
    assert_eq!(model.unknown, Vec::<String>::new(), "{name}");
    for (kind, count) in &fixture.parameters {
        let component = model.components.iter().find(|c| c.kind.short_name() == kind);
        assert_eq!(component.map_or(0, |c| c.parameters()), *count, "{name} {kind}");
    }

    let ignored: Vec<_> = model.ignored.iter().map(|ignored| ignored.key.as_str()).collect();
    assert_eq!(ignored, fixture.extra, "{name}");

    let mut covered: HashMap<&str, u64> = HashMap::new();
    for component in &model.components {
        let mut use_indices: Vec<_> = component.layers.iter().map(|l| l.use_index).collect();
        use_indices.sort_unstable();
        assert_eq!(use_indices, (0..component.layers.len()).collect::<Vec<_>>(), "{name}");
        let names: HashSet<_> = component.layers.iter().map(|layer| &layer.name).collect();
        assert_eq!(names.len(), component.layers.len(), "{name}");
        for param in component.layers.iter().flat_map(|layer| &layer.params) {
            *covered.entry(&param.key).or_default() += param.elements();
        }
    }
    for (key, shape) in &fixture.tensors {
        let elements = shape.iter().product::<usize>() as u64;
        let expected = if fixture.extra.contains(key) { None } else { Some(&elements) };
        assert_eq!(covered.get(key.as_str()), expected, "{name} {key}");
    }
}

#[test]
fn the_order_of_use_is_that_of_a_forward_pass() {
    let order = |model: &Model, kind, root: &str| -> Vec<String> {
        let mut layers: Vec<_> = model.component(kind).unwrap().layers.iter().collect();
        layers.sort_by_key(|layer| layer.use_index);
        layers.iter().filter_map(|l| l.name.strip_prefix(root)).map(str::to_owned).collect()
    };
    let recorded = &orders()["use"];
    for name in ["tiny-sd1", "tiny-sd2", "tiny-sdxl"] {
        let model = recognised(&Fixture::load(name), Dtype::F32);
        assert_eq!(order(&model, ComponentKind::DiffusionModel, ""), recorded[name], "{name}");
        assert_eq!(order(&model, ComponentKind::Vae, ""), recorded["vae"], "{name}");
    }
    // The same encoder once in OpenCLIP's layout and once in that of transformers.
    for name in ["tiny-sdxl", "tiny-sd3"] {
        let model = recognised(&Fixture::load(name), Dtype::F32);
        let found = order(&model, ComponentKind::TextEncoders, "clip_g.");
        assert_eq!(found, recorded["clip_g"], "{name}");
    }
    let model = recognised(&Fixture::load("tiny-sd3"), Dtype::F32);
    assert_eq!(order(&model, ComponentKind::TextEncoders, "t5xxl."), recorded["t5xxl"]);
}

#[test]
fn text_encoders_are_listed_in_the_order_of_definition() {
    let model = recognised(&Fixture::load("tiny-sd3"), Dtype::F32);
    let layers = &model.component(ComponentKind::TextEncoders).unwrap().layers;
    for (name, expected) in &orders()["definition"] {
        let root = format!("{name}.");
        let found: Vec<_> = layers.iter().filter_map(|l| l.name.strip_prefix(&root)).collect();
        assert_eq!(&found, expected);
    }
}

#[test]
fn unets_list_modules_as_the_original_defines_them() {
    let model = recognised(&Fixture::load("tiny-sdxl"), Dtype::F32);
    let layers = &model.component(ComponentKind::DiffusionModel).unwrap().layers;
    let block: Vec<_> = layers
        .iter()
        .filter_map(|l| l.name.strip_prefix("middle_block.1.transformer_blocks.2."))
        .collect();
    let expected = "attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0 ff.net.0.proj ff.net.2 \
                    attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0 norm1 norm2 norm3";
    assert_eq!(block, expected.split(' ').collect::<Vec<_>>());
    let first: Vec<_> = layers.iter().take(5).map(|layer| layer.name.as_str()).collect();
    let expected = ["time_embed.0", "time_embed.2", "label_emb.0.0", "label_emb.0.2"];
    assert_eq!(first[..4], expected);
    assert_eq!(first[4], "input_blocks.0.0");
    assert_eq!(layers.last().unwrap().name, "out.2");
}

#[test]
fn heads_are_the_embedding_tables_of_text_encoders() {
    let model = recognised(&Fixture::load("sd3-medium"), Dtype::F16);
    let heads: Vec<_> = model
        .components
        .iter()
        .flat_map(|component| &component.layers)
        .filter(|layer| layer.head)
        .map(|layer| layer.name.as_str())
        .collect();
    let expected = [
        "clip_l.text_model.embeddings.token_embedding",
        "clip_l.text_model.embeddings.position_embedding",
        "clip_g.text_model.embeddings.token_embedding",
        "clip_g.text_model.embeddings.position_embedding",
        "t5xxl.shared",
    ];
    assert_eq!(heads, expected);
}

#[test]
fn open_clip_is_renamed_and_cut_into_query_key_and_value() {
    let model = recognised(&Fixture::load("sdxl-base"), Dtype::F16);
    let layers = &model.component(ComponentKind::TextEncoders).unwrap().layers;
    let find = |name: &str| layers.iter().find(|layer| layer.name == name).unwrap();

    let value = find("clip_g.text_model.encoder.layers.31.self_attn.v_proj");
    assert_eq!(value.kind, LayerKind::Linear);
    let weight = value.param("weight").unwrap();
    let key = "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight";
    assert_eq!((weight.key.as_str(), weight.rows), (key, Some((2560, 3840))));
    assert_eq!((weight.shape.as_slice(), weight.transposed), ([1280, 1280].as_slice(), false));
    assert_eq!(value.param("bias").unwrap().rows, Some((2560, 3840)));

    let projection = find("clip_g.text_projection").param("weight").unwrap();
    assert_eq!(projection.key, "conditioner.embedders.1.model.text_projection");
    assert!(projection.transposed);
    let position = find("clip_g.text_model.embeddings.position_embedding").param("weight").unwrap();
    assert_eq!(position.key, "conditioner.embedders.1.model.positional_embedding");
}

fn unet(model: &Model) -> &distorch_checkpoint::config::UnetConfig {
    match &model.diffusion.as_ref().unwrap().config {
        DiffusionConfig::Unet(config) => config,
        other => panic!("{other:?} is no UNet"),
    }
}

#[test]
fn configurations_are_those_published() {
    let model = recognised(&Fixture::load("sd15"), Dtype::F16);
    let config = unet(&model);
    assert_eq!((config.model_channels, config.context_dim), (320, 768));
    assert_eq!(config.channel_mult, [1, 2, 4, 4]);
    assert_eq!(config.num_res_blocks, [2; 4]);
    assert_eq!(config.transformer_depth, [1, 1, 1, 1, 1, 1, 0, 0]);
    assert_eq!(config.transformer_depth_output, [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    assert_eq!((config.middle_res_blocks, config.transformer_depth_middle), (2, Some(1)));
    assert_eq!((config.heads, config.linear_projections), (Heads::Count(8), false));
    assert_eq!(config.adm_in_channels, None);
    let vae = model.vae.as_ref().unwrap();
    assert_eq!((vae.channels, vae.channel_mult.as_slice()), (128, [1, 2, 4, 4].as_slice()));
    assert_eq!((vae.num_res_blocks, vae.latent_channels, vae.downscale()), (2, 4, 8));
    assert_eq!((vae.scaling_factor, vae.shift_factor, vae.quant_conv), (0.18215, 0.0, true));

    let model = recognised(&Fixture::load("sdxl-base"), Dtype::F16);
    let config = unet(&model);
    assert_eq!(config.transformer_depth, [0, 0, 2, 2, 10, 10]);
    assert_eq!(config.transformer_depth_output, [10, 10, 10, 2, 2, 2, 0, 0, 0]);
    assert_eq!((config.heads, config.adm_in_channels), (Heads::Width(64), Some(2816)));
    assert_eq!(model.vae.as_ref().unwrap().scaling_factor, 0.13025);

    let model = recognised(&Fixture::load("sdxl-ssd1b"), Dtype::F16);
    let config = unet(&model);
    assert_eq!((config.middle_res_blocks, config.transformer_depth_middle), (1, None));
    assert_eq!(config.transformer_depth_output, [4, 4, 10, 2, 1, 1, 0, 0, 0]);

    let model = recognised(&Fixture::load("sdxl-refiner"), Dtype::F16);
    let config = unet(&model);
    assert_eq!((config.model_channels, config.context_dim), (384, 1280));
    assert_eq!(config.adm_in_channels, Some(2560));
}

#[test]
fn text_encoder_configurations_are_those_published() {
    let clip = |model: &Model, at: usize| match &model.text_encoders[at].config {
        TextEncoderConfig::Clip(config) => config.clone(),
        other => panic!("{other:?} is no CLIP"),
    };
    let model = recognised(&Fixture::load("sd35-large"), Dtype::F16);
    let left = clip(&model, 0);
    assert_eq!((left.width, left.layers, left.heads, left.intermediate), (768, 12, 12, 3072));
    assert_eq!((left.activation, left.projection), (ClipActivation::QuickGelu, Some(768)));
    let right = clip(&model, 1);
    assert_eq!((right.width, right.layers, right.heads, right.intermediate), (1280, 32, 20, 5120));
    assert_eq!((right.activation, right.projection), (ClipActivation::Gelu, Some(1280)));
    let TextEncoderConfig::T5(t5) = &model.text_encoders[2].config else { panic!("no T5") };
    assert_eq!((t5.vocab_size, t5.width, t5.layers), (32128, 4096, 24));
    assert_eq!((t5.heads, t5.head_dim, t5.intermediate, t5.relative_buckets), (64, 64, 10240, 32));

    let model = recognised(&Fixture::load("sd21-v"), Dtype::F16);
    let clip_h = clip(&model, 0);
    assert_eq!((clip_h.width, clip_h.layers, clip_h.heads), (1024, 24, 16));
    assert_eq!((clip_h.vocab_size, clip_h.max_positions), (49408, 77));
    let model = recognised(&Fixture::load("sd15"), Dtype::F16);
    assert_eq!(clip(&model, 0).projection, None);
}

#[test]
fn transformer_configurations_are_those_published() {
    let model = recognised(&Fixture::load("sd35-medium"), Dtype::BF16);
    let DiffusionConfig::Mmdit(config) = &model.diffusion.as_ref().unwrap().config else {
        panic!("no MMDiT")
    };
    assert_eq!((config.depth, config.width, config.heads), (24, 1536, 24));
    assert_eq!((config.pos_embed_max_size, config.qk_norm), (384, true));
    assert_eq!(config.dual_attention_layers, (0..13).collect::<Vec<_>>());
    assert_eq!((config.in_channels, config.out_channels, config.patch_size), (16, 16, 2));
    let vae = model.vae.as_ref().unwrap();
    assert_eq!((vae.scaling_factor, vae.shift_factor, vae.quant_conv), (1.5305, 0.0609, false));

    let model = recognised(&Fixture::load("flux-dev"), Dtype::BF16);
    let DiffusionConfig::Flux(config) = &model.diffusion.as_ref().unwrap().config else {
        panic!("no Flux")
    };
    assert_eq!((config.depth, config.depth_single, config.width), (19, 38, 3072));
    assert_eq!((config.heads, config.mlp_width, config.guidance_embed), (24, 12288, true));
    assert_eq!((config.context_dim, config.vec_dim), (4096, 768));
    let vae = model.vae.as_ref().unwrap();
    assert_eq!((vae.scaling_factor, vae.shift_factor), (0.3611, 0.1159));

    let model = recognised(&Fixture::load("lumina2"), Dtype::BF16);
    let DiffusionConfig::NextDit(config) = &model.diffusion.as_ref().unwrap().config else {
        panic!("no NextDiT")
    };
    assert_eq!(config.kind, NextDitKind::Lumina2);
    assert_eq!((config.depth, config.refiner_depth, config.width), (26, 2, 2304));
    assert_eq!((config.heads, config.kv_heads, config.mlp_width), (24, 8, 9216));
    assert_eq!(
        (config.context_dim, config.time_width, config.modulation_width),
        (2304, 1024, 1024)
    );
    assert_eq!((config.in_channels, config.out_channels, config.patch_size), (16, 16, 2));
    let TextEncoderConfig::Decoder(config) = &model.text_encoders[0].config else {
        panic!("no Gemma")
    };
    assert_eq!((config.kind, config.layers, config.width), (DecoderKind::Gemma2, 26, 2304));
    assert_eq!((config.heads, config.kv_heads, config.head_dim), (8, 4, 256));
    let vae = model.vae.as_ref().unwrap();
    assert_eq!((vae.scaling_factor, vae.shift_factor), (0.3611, 0.1159));
}

#[test]
fn sparse_files_are_opened_and_split_like_key_lists() {
    let folder = tempfile::tempdir().unwrap();
    for (name, dtype) in
        [("sdxl-base", Dtype::F16), ("sd15", Dtype::F8E4M3), ("flux-dev", Dtype::BF16)]
    {
        let fixture = Fixture::load(name);
        let path = folder.path().join(format!("{name}.safetensors"));
        fixture.write_sparse(&path, dtype, &[]);
        let model = recognise(&Checkpoint::open(&path).unwrap()).unwrap();
        let mut from_parts = recognised(&fixture, dtype);
        from_parts.ignored.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(model, from_parts, "{name}");
    }
}

#[test]
fn sd2_predicts_v_where_its_weights_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::load("sd21-v");
    let key = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
    // Standard deviation: 0.2 in the first and 0.05 in the second.
    for (spread, prediction) in [(0.2, Prediction::V), (0.05, Prediction::Epsilon)] {
        let path = folder.path().join("sd2.safetensors");
        let start = fixture.write_sparse(&path, Dtype::F16, &[])[key];
        let values: Vec<u8> = (0..320)
            .flat_map(|n| {
                half::f16::from_f64(if n % 2 == 0 { spread } else { -spread }).to_le_bytes()
            })
            .collect();
        common::write_at(&path, start, &values);
        let model = recognise(&Checkpoint::open(&path).unwrap()).unwrap();
        assert_eq!(model.diffusion.unwrap().prediction, prediction);
        assert_eq!(model.notes, Vec::<String>::new());
    }
}
