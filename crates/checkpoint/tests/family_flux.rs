//! Flux in one file, as it is published for ComfyUI: transformer, CLIP-L, T5 and VAE, in scaled FP8.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers outside `#[test]`

mod common;

use common::{Fixture, Tensors, parts};
use distorch_checkpoint::config::{DiffusionConfig, TextEncoderConfig};
use distorch_checkpoint::family::{Family, Model, Variant, recognise};
use distorch_checkpoint::{ComponentKind, Dtype, LayerKind};

const TRANSFORMER: &str = "model.diffusion_model.";
const T5: &str = "text_encoders.t5xxl.transformer.";

/// A small transformer with a small SD3's encoders and VAE, under Flux's names.
fn one_file() -> Tensors {
    let others = Fixture::load("tiny-sd3").tensors.into_iter().filter_map(|(key, shape)| {
        if let Some(name) = key.strip_prefix("first_stage_model.") {
            return Some((format!("vae.{name}"), shape));
        }
        let ours = ["text_encoders.clip_l.", T5].iter().any(|prefix| key.starts_with(prefix));
        ours.then_some((key, shape))
    });
    let all = Fixture::load("tiny-flux").tensors.into_iter().chain(others);
    all.map(|(key, shape)| (key, (Dtype::F16, shape))).collect()
}

/// Matrices of the transformer and of T5 in FP8, each with scales of its own.
fn scaled(tensors: Tensors) -> Tensors {
    let mut all = Tensors::new();
    for (key, (dtype, shape)) in tensors {
        let eight = (key.starts_with(TRANSFORMER) || key.starts_with(T5))
            && shape.len() == 2
            && !["shared.weight", "relative_attention_bias.weight"]
                .iter()
                .any(|e| key.ends_with(e));
        if let (true, Some(layer)) = (eight, key.strip_suffix(".weight")) {
            all.insert(format!("{layer}.scale_weight"), (Dtype::F32, vec![]));
            all.insert(format!("{layer}.scale_input"), (Dtype::F32, vec![]));
        }
        all.insert(key, (if eight { Dtype::F8E4M3 } else { dtype }, shape));
    }
    all.insert(format!("{TRANSFORMER}scaled_fp8"), (Dtype::F8E4M3, vec![2]));
    all.insert(format!("{T5}scaled_fp8"), (Dtype::F8E4M3, vec![2]));
    all
}

fn recognised(tensors: Tensors) -> Model {
    recognise(&parts(tensors, &[])).unwrap()
}

#[test]
fn one_file_in_scaled_fp8_has_all_parts() {
    let plain = recognised(one_file());
    let mut tensors = scaled(one_file());
    // What some of these files hold besides: the tied copy of the token table, and CLIP's unused head.
    let table = tensors[format!("{T5}shared.weight").as_str()].clone();
    tensors.insert(format!("{T5}encoder.embed_tokens.weight"), table);
    tensors.insert("text_encoders.clip_l.logit_scale".to_owned(), (Dtype::F16, vec![]));
    let model = recognised(tensors);
    assert_eq!(model.unknown, [""; 0]);
    assert_eq!(model.family(), Some(Family::Flux));
    let encoders: Vec<_> = model.text_encoders.iter().map(|encoder| encoder.name).collect();
    assert_eq!(encoders, ["clip_l", "t5xxl"]);
    assert!(matches!(model.text_encoders[1].config, TextEncoderConfig::T5(_)));
    assert_eq!(model.vae.as_ref().unwrap().latent_channels, 16);
    assert_eq!(model.diffusion, plain.diffusion);
    for (plain, model) in plain.components.iter().zip(&model.components) {
        assert_eq!(plain.kind, model.kind);
        let names = |component: &distorch_checkpoint::Component| {
            component.layers.iter().map(|layer| layer.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(plain), names(model));
        for layer in &model.layers {
            let scales = layer.param("scale_weight").is_some();
            let weight = layer.param("weight");
            let eight = weight.is_some_and(|weight| weight.dtype == Dtype::F8E4M3);
            assert_eq!(scales, eight, "{}", layer.name);
        }
    }
}

/// T5's table of tokens and CLIP's tables stay where the encoders compute.
#[test]
fn tables_of_text_encoders_are_heads() {
    for tensors in [one_file(), scaled(one_file())] {
        let model = recognised(tensors);
        let text = model.component(ComponentKind::TextEncoders).unwrap();
        let heads: Vec<_> =
            text.layers.iter().filter(|layer| layer.head).map(|layer| &*layer.name).collect();
        let expected = [
            "clip_l.text_model.embeddings.token_embedding",
            "clip_l.text_model.embeddings.position_embedding",
            "t5xxl.shared",
        ];
        assert_eq!(heads, expected);
        let relative = text.layers.iter().filter(|layer| {
            layer.kind == LayerKind::Embedding && !heads.contains(&layer.name.as_str())
        });
        // The first block's relative positions are the only other table.
        assert_eq!(relative.count(), 1);
    }
}

#[test]
fn variants_are_told_by_what_goes_in() {
    for (channels, variant, label) in [
        (64, Variant::Base, "Flux dev"),
        (384, Variant::Inpaint, "Flux dev inpainting"),
        (128, Variant::Control, "Flux dev control"),
    ] {
        for guidance in [true, false] {
            let mut tensors = scaled(one_file());
            let img_in = format!("{TRANSFORMER}img_in.weight");
            tensors[img_in.as_str()].1[1] = channels;
            if !guidance {
                tensors.retain(|key, _| !key.contains(".guidance_in."));
            }
            let model = recognised(tensors);
            let diffusion = model.diffusion.as_ref().unwrap();
            assert_eq!((diffusion.family, diffusion.variant), (Family::Flux, variant));
            let DiffusionConfig::Flux(config) = &diffusion.config else { panic!() };
            assert_eq!((config.in_channels, config.guidance_embed), (channels, guidance));
            if guidance {
                assert_eq!(model.label(), label);
            }
        }
    }
}
