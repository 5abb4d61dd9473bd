//! T5's encoder against transformers at seeded random weights, and its tokenizer against `tokenizers`;
//! `tools/reference/make_text.py` and `make_t5_tokens.py` made the fixtures.
//!
//! Tolerance: 2e-4 of the reference's largest value. Sums in another order differ by about 1e-6 here.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use std::io::Read;

use common::text_case::Case;
use distorch_models::prompt::t5_tokenizer::T5Tokenizer;
use distorch_models::prompt::token::Token;
use distorch_models::t5::T5Encoder;
use distorch_runtime::DType;

const TOLERANCE: f32 = 2e-4;

fn encoder(case: &Case, dtype: DType) -> T5Encoder {
    T5Encoder::load(&case.t5(), &case.scope(dtype).at("t5xxl")).unwrap()
}

fn text(case: &Case) -> Vec<Token> {
    let ids: Vec<u32> = serde_json::from_value(case.fixture.json("ids")).unwrap();
    ids.into_iter().map(Token::Id).collect()
}

/// Over 200 tokens, beyond the distance at which all keys are the same.
#[test]
fn states_are_transformers() {
    let case = Case::load();
    let encoder = encoder(&case, DType::F32);
    for layer in [1, 2] {
        let hidden = encoder.forward(&[text(&case)], layer).unwrap();
        assert_eq!(hidden.dtype(), DType::F32);
        let error = case.error(&hidden, &format!("t5.{layer}"));
        assert!(error < TOLERANCE, "{layer}: {error}");
    }
}

#[test]
fn texts_are_encoded_side_by_side() {
    let case = Case::load();
    let encoder = encoder(&case, DType::F32);
    let [a, b] = [text(&case), text(&case).into_iter().rev().collect()];
    let both = encoder.forward(&[b, a], 1).unwrap();
    let [_, tokens, width] = both.dims();
    let error = case.error(&both.slice([1..2, 0..tokens, 0..width]), "t5.1");
    assert!(error < TOLERANCE, "{error}");
}

/// Weights and products in bf16 keep 8 bits each; over 3 layers, whose scores are not scaled down, that stays below
/// 8 %.
#[test]
fn bf16_is_near() {
    let case = Case::load();
    let hidden = encoder(&case, DType::BF16).forward(&[text(&case)], 1).unwrap();
    let error = case.error(&hidden, "t5.1");
    assert!((1e-4..8e-2).contains(&error), "{error}");
}

#[test]
fn texts_that_do_not_fit_are_errors() {
    let case = Case::load();
    let encoder = encoder(&case, DType::F32);
    let error =
        |texts: &[Vec<Token>], layer| encoder.forward(texts, layer).unwrap_err().to_string();
    let id = |id| vec![Token::Id(id)];
    assert!(error(&[], 1).contains("T5 text encoder"));
    assert!(error(&[vec![Token::Id(1); 4097]], 1).contains("1 to 4096 tokens"));
    assert!(error(&[id(32128)], 1).contains("below 32128"));
    assert!(error(&[vec![Token::Vector([0.0; 5].into())]], 1).contains("48 values"));
    assert!(error(&[id(1)], 0).contains("1 to 4") && error(&[id(1)], 5).contains("1 to 4"));
}

#[test]
fn token_ids_are_those_of_tokenizers() {
    let file = include_bytes!("fixtures/t5_tokens.json.gz");
    let mut json = String::new();
    flate2::read::GzDecoder::new(&file[..]).read_to_string(&mut json).unwrap();
    let cases: Vec<(String, Vec<u32>)> = serde_json::from_str(&json).unwrap();
    assert!(cases.len() > 450);
    let tokenizer = T5Tokenizer::standard().unwrap();
    let wrong: Vec<_> = cases
        .iter()
        .map(|(text, expected)| (text, expected, tokenizer.tokenize(text)))
        .filter(|(_, expected, actual)| *expected != actual)
        .collect();
    for (text, expected, actual) in &wrong {
        eprintln!("{text:?}\n  expected {expected:?}\n  got      {actual:?}");
    }
    assert!(wrong.is_empty(), "{} of {} texts differ", wrong.len(), cases.len());
}
