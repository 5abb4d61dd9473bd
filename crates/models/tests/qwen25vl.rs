//! Qwen2.5-VL as Qwen-Image's text encoder against transformers and diffusers at seeded random weights;
//! `tools/reference/make_qwen25vl.py` made the fixture.
//!
//! Tolerance: 2e-4 of the reference's largest value. Sums in another order differ by about 1e-6 here.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use common::fixture::Fixture;
use common::{max_error, values};
use distorch_checkpoint::config::{DecoderConfig, TextEncoderConfig};
use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_models::decoder::Decoder;
use distorch_models::family;
use distorch_models::prompt::embedding::Embeddings;
use distorch_models::prompt::token::Token;
use distorch_models::text::{Prompt, TextOptions};
use distorch_runtime::{DType, Tensor};

const TOLERANCE: f32 = 2e-4;

fn load() -> (Fixture, DecoderConfig) {
    let fixture = Fixture::open("qwen25vl.safetensors");
    let config = serde_json::from_value(fixture.json("config")).unwrap();
    (fixture, config)
}

fn error(fixture: &Fixture, actual: &Tensor<3>, key: &str) -> f32 {
    let (shape, reference) = fixture.tensor(key);
    assert_eq!(actual.dims().to_vec(), shape, "{key}");
    max_error(&values(actual), &reference)
}

#[test]
fn states_behind_every_layer_are_transformers() {
    let (fixture, config) = load();
    let decoder = Decoder::load(&config, &fixture.component(DType::F32).at("qwen25vl")).unwrap();
    let ids: Vec<u32> = serde_json::from_value(fixture.json("ids")).unwrap();
    let text: Vec<Token> = ids.into_iter().map(Token::Id).collect();
    let states = decoder.states(std::slice::from_ref(&text), &[0, 1, 2]).unwrap();
    for (layers, state) in states.iter().enumerate() {
        let error = error(&fixture, state, &format!("states.{layers}"));
        assert!(error < TOLERANCE, "{layers}: {error}");
    }
    let last = decoder.last_states(&[text]).unwrap();
    let error = error(&fixture, &last, "last");
    assert!(error < TOLERANCE, "{error}");
}

#[test]
fn prompts_for_qwen_image_are_those_of_diffusers() {
    let (fixture, config) = load();
    let encoders = [TextEncoder {
        name: "qwen25vl",
        config: TextEncoderConfig::Decoder(config),
        vocabulary: None,
    }];
    let scope = fixture.component(DType::F32);
    let conditioner = family::of(Family::QwenImage).text(&scope, &encoders).unwrap();
    let prompts: Vec<String> = serde_json::from_value(fixture.json("prompts")).unwrap();
    let encode = |prompt: &str| {
        let prompt = Prompt::Same(prompt.into());
        let options = TextOptions::default();
        conditioner.encode(&prompt, &Embeddings::default(), &options).unwrap().states
    };
    for (number, prompt) in prompts.iter().enumerate() {
        let states = encode(prompt);
        assert!(states.pooled.is_none());
        let error = error(&fixture, &states.context, &format!("qwen_image.{number}"));
        assert!(error < TOLERANCE, "{prompt}: {error}");
    }
    // A chat of one's own is taken as it is; brackets that would be no weights elsewhere are brackets.
    let own = encode("<|im_start|>user\na cat<|im_end|>\n").context;
    assert_eq!(own.dims()[1], 4);
    assert_eq!(values(&encode("\\(a\\)").context), values(&encode("(a)").context));
    let missing = family::of(Family::QwenImage).text(&scope, &[]).err().unwrap().to_string();
    assert!(missing.contains("qwen25vl") && missing.contains("Qwen-Image"), "{missing}");
}
