//! CLIP text encoders against transformers at seeded random weights, in f32;
//! `tools/reference/make_clip.py` made the fixture.
//!
//! Tolerance: 2e-4 of the reference's largest value. Sums in another order differ by about 1e-6 here.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use common::clip_case::Case;
use common::seeded;
use distorch_models::clip::{ClipOutput, ClipRequest, ClipTextEncoder, Pooling};
use distorch_models::prompt::token::Token;
use distorch_runtime::tensor::cpu;
use distorch_runtime::{DType, Tensor};

const TOLERANCE: f32 = 2e-4;

fn encode(case: &Case, layer_from_end: usize, final_layer_norm: bool) -> ClipOutput {
    let request =
        ClipRequest { layer_from_end, final_layer_norm, pooled: Some(Pooling::Projected) };
    case.encoder(&cpu(), DType::F32).forward(&case.texts, request).unwrap()
}

#[track_caller]
fn check<const D: usize>(case: &Case, actual: &Tensor<D>, key: &str) {
    let error = case.error(actual, key);
    assert!(error < TOLERANCE, "{}.{key}: {error}", case.name);
}

#[track_caller]
fn check_all(name: &'static str) {
    let case = Case::load(name);
    for layer in [1, 2] {
        let output = encode(&case, layer, false);
        check(&case, &output.hidden, &format!("hidden.{layer}"));
        check(&case, &output.pooled.unwrap(), "pooled");
        let output = encode(&case, layer, true);
        check(&case, &output.hidden, &format!("normed.{layer}"));
    }
}

#[test]
fn clip_l_is_transformers() {
    check_all("clip_l");
}

#[test]
fn open_clip_is_transformers() {
    check_all("clip_g");
}

#[test]
fn hidden_states_do_not_need_the_pooled_output() {
    let case = Case::load("clip_g");
    let request = ClipRequest { layer_from_end: 2, final_layer_norm: false, pooled: None };
    let output = case.encoder(&cpu(), DType::F32).forward(&case.texts, request).unwrap();
    assert!(output.pooled.is_none());
    check(&case, &output.hidden, "hidden.2");
}

/// Weights and products in bf16 keep 8 bits each; over 4 layers that stays below 3 %.
#[test]
fn bf16_is_near() {
    let case = Case::load("clip_g");
    let request =
        ClipRequest { layer_from_end: 1, final_layer_norm: true, pooled: Some(Pooling::Projected) };
    let output = case.encoder(&cpu(), DType::BF16).forward(&case.texts, request).unwrap();
    assert_eq!(output.hidden.dtype(), DType::F32);
    let error = case.error(&output.hidden, "normed.1");
    assert!((1e-4..3e-2).contains(&error), "{error}");
    assert!(case.error(&output.pooled.unwrap(), "pooled") < 3e-2);
}

#[test]
fn texts_that_do_not_fit_are_errors() {
    let case = Case::load("clip_l");
    let encoder = case.encoder(&cpu(), DType::F32);
    let request =
        ClipRequest { layer_from_end: 1, final_layer_norm: true, pooled: Some(Pooling::Projected) };
    let id = |id| vec![Token::Id(id)];
    let error = |texts: &[Vec<Token>]| encoder.forward(texts, request).unwrap_err().to_string();
    assert!(error(&[]).contains("1 to 77 tokens"));
    assert!(error(&[vec![]]).contains("1 to 77 tokens"));
    assert!(error(&[vec![Token::Id(1); 78]]).contains("78"));
    assert!(error(&[id(1), vec![Token::Id(1); 2]]).contains("1 tokens each"));
    assert!(error(&[id(49408)]).contains("below 49408"));
    assert!(error(&[vec![Token::Vector([0.0; 5].into())]]).contains("32 values"));
    for layer_from_end in [0, 5] {
        let request = ClipRequest { layer_from_end, ..request };
        let error = encoder.forward(&[id(1)], request).unwrap_err().to_string();
        assert!(error.contains("1 to 4"), "{error}");
    }
}

#[test]
fn a_missing_layer_is_named() {
    let case = Case::load("clip_l");
    let shapes = case.shapes.iter().filter(|(name, _)| !name.contains("layers.2.mlp.fc1"));
    let shapes = shapes.map(|(name, shape)| (name.as_str(), shape.as_slice()));
    let error = ClipTextEncoder::load(&case.config, &seeded::component(shapes, 0)).err().unwrap();
    assert!(error.to_string().contains("text_model.encoder.layers.2.mlp.fc1"), "{error}");
}
