//! Decoder-only language models as text encoders: Qwen3 against transformers and diffusers at seeded random weights, and its tokenizer against
//! transformers'; `tools/reference/make_qwen3.py` and `make_qwen_tokens.py` made the fixtures.
//!
//! Tolerance: 2e-4 of the reference's largest value. Sums in another order differ by about 1e-6 here.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;
#[path = "decoders/gemma2.rs"]
mod gemma2;
#[path = "decoders/mistral.rs"]
mod mistral;
#[path = "decoders/qwen3_vl.rs"]
mod qwen3_vl;
#[path = "decoders/token_ids.rs"]
mod token_ids;

use std::sync::Arc;

use common::fixture::{Fixture, dims};
use common::recording::Recording;
use common::{max_error, values};
use distorch_checkpoint::config::{DecoderConfig, TextEncoderConfig};
use distorch_checkpoint::family::{Family, TextEncoder, recognise};
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype};
use distorch_models::decoder::Decoder;
use distorch_models::family;
use distorch_models::prompt::embedding::Embeddings;
use distorch_models::prompt::qwen_tokenizer::QwenTokenizer;
use distorch_models::prompt::token::Token;
use distorch_models::text::{Prompt, TextOptions};
use distorch_runtime::{DType, LayerSource, Scope, Tensor};
use serde_json::Value;

const TOLERANCE: f32 = 2e-4;

struct Case {
    fixture: Fixture,
    config: DecoderConfig,
}

impl Case {
    fn load() -> Self {
        let fixture = Fixture::open("qwen3.safetensors");
        let config = serde_json::from_value(fixture.json("config")).unwrap();
        Self { fixture, config }
    }

    fn decoder(&self, dtype: DType) -> Decoder {
        Decoder::load(&self.config, &self.fixture.component(dtype).at("qwen3")).unwrap()
    }

    fn text(&self) -> Vec<Token> {
        let ids: Vec<u32> = serde_json::from_value(self.fixture.json("ids")).unwrap();
        ids.into_iter().map(Token::Id).collect()
    }

    fn error(&self, actual: &Tensor<3>, key: &str) -> f32 {
        let (shape, reference) = self.fixture.tensor(key);
        assert_eq!(actual.dims().to_vec(), shape, "{key}");
        max_error(&values(actual), &reference)
    }
}

#[test]
fn states_behind_every_layer_are_transformers() {
    let case = Case::load();
    let states = case.decoder(DType::F32).states(&[case.text()], &[0, 1, 2, 3]).unwrap();
    for (layers, state) in states.iter().enumerate() {
        assert_eq!(state.dtype(), DType::F32);
        let error = case.error(state, &format!("states.{layers}"));
        assert!(error < TOLERANCE, "{layers}: {error}");
    }
    let both = [case.text().into_iter().rev().collect(), case.text()];
    let state = case.decoder(DType::F32).states(&both, &[3]).unwrap().remove(0);
    let error = case.error(&state.narrow(0, 1, 1), "states.3");
    assert!(error < TOLERANCE, "second of two: {error}");
}

/// Weights and products in bf16 keep 8 bits each.
#[test]
fn bf16_is_near() {
    let case = Case::load();
    let state = case.decoder(DType::BF16).states(&[case.text()], &[3]).unwrap().remove(0);
    let error = case.error(&state, "states.3");
    assert!((1e-4..6e-2).contains(&error), "{error}");
}

#[test]
fn what_does_not_fit_is_an_error() {
    let case = Case::load();
    let decoder = case.decoder(DType::F32);
    let error =
        |ids: Vec<Token>, layers: &[usize]| decoder.states(&[ids], layers).unwrap_err().to_string();
    assert!(error(vec![Token::Id(151_936)], &[1]).contains("below 151936"));
    assert!(error(vec![], &[1]).contains("1 to 32768 tokens"));
    assert!(error(vec![Token::Id(0)], &[5]).contains("0 to 4"));
    assert!(error(vec![Token::Id(0)], &[2, 1]).contains("in order"));
    let broken = DecoderConfig { kv_heads: 3, ..case.config.clone() };
    let scope = case.fixture.component(DType::F32).at("qwen3");
    assert!(Decoder::load(&broken, &scope).err().unwrap().to_string().contains("do not share 3"));
}

/// Layers behind the last that is read are not fetched; the others are in the order that the checkpoint crate states.
#[test]
fn layers_are_used_in_the_stated_order() {
    let case = Case::load();
    let model = recognise(&file(&case.fixture, "model.")).unwrap();
    let component = model.component(ComponentKind::TextEncoders).unwrap();
    let mut stated: Vec<_> = component.layers.iter().collect();
    stated.sort_by_key(|layer| layer.use_index);
    let read = |name: &&String| !name.contains("layers.3.") && !name.ends_with("model.norm");
    let stated: Vec<_> = stated.into_iter().map(|layer| &layer.name).filter(read).collect();
    let inner = Arc::clone(case.fixture.component(DType::F32).source());
    let recording = Arc::new(Recording::new(inner));
    let scope = Scope::new(Arc::clone(&recording) as Arc<dyn LayerSource>).at("qwen3");
    Decoder::load(&case.config, &scope).unwrap().states(&[case.text()], &[3]).unwrap();
    assert_eq!(recording.fetched().iter().collect::<Vec<_>>(), stated);
}

/// A file of the fixture's tensors, without data, under this prefix; its output layer is of no use.
fn file(fixture: &Fixture, root: &str) -> Checkpoint {
    let params = fixture.json("params");
    let tensors = params.as_object().unwrap().iter().map(|(name, shape)| {
        let name = name.strip_prefix("qwen3.model.").unwrap();
        (format!("{root}{name}"), Dtype::BF16, dims(shape))
    });
    let head = [("lm_head.weight".to_owned(), Dtype::BF16, vec![151_936, 24])];
    Checkpoint::from_parts("qwen", Default::default(), tensors.chain(head)).unwrap()
}

#[test]
fn files_of_transformers_are_recognised() {
    let case = Case::load();
    for root in ["model.", ""] {
        let model = recognise(&file(&case.fixture, root)).unwrap();
        let [encoder] = &model.text_encoders[..] else { unreachable!("one encoder") };
        assert_eq!(encoder.name, "qwen3");
        assert_eq!(encoder.config, TextEncoderConfig::Decoder(case.config.clone()));
        let unknown: Vec<String> = Vec::new();
        assert_eq!((model.unknown, model.ignored.len()), (unknown, 1), "{root}");
    }
}

#[test]
fn prompts_for_z_image_are_those_of_diffusers() {
    let case = Case::load();
    let encoders = [TextEncoder {
        name: "qwen3",
        config: TextEncoderConfig::Decoder(case.config.clone()),
        vocabulary: None,
    }];
    let scope = case.fixture.component(DType::F32);
    let conditioner = family::of(Family::ZImage).text(&scope, &encoders).unwrap();
    let prompts: Vec<String> = serde_json::from_value(case.fixture.json("prompts")).unwrap();
    let encode = |prompt: &str, clip_skip| {
        let options = TextOptions { clip_skip, ..TextOptions::default() };
        let prompt = Prompt::Same(prompt.into());
        conditioner.encode(&prompt, &Embeddings::default(), &options).unwrap().states
    };
    for (number, prompt) in prompts.iter().enumerate() {
        for clip_skip in [None, Some(2), Some(9)] {
            let states = encode(prompt, clip_skip);
            assert!(states.pooled.is_none());
            let error = case.error(&states.context, &format!("z_image.{number}"));
            assert!(error < TOLERANCE, "{prompt}: {error}");
        }
        // A layer earlier is another.
        let earlier = case.error(&encode(prompt, Some(3)).context, &format!("z_image.{number}"));
        assert!(earlier > 100.0 * TOLERANCE, "{earlier}");
    }
    let missing = family::of(Family::ZImage).text(&scope, &[]).err().unwrap().to_string();
    assert!(missing.contains("qwen3") && missing.contains("Z-Image"), "{missing}");
}

/// The states behind three layers, with padding that nothing sees.
#[test]
fn prompts_for_klein_are_those_of_diffusers() {
    let case = Case::load();
    let encoders = [TextEncoder {
        name: "qwen3",
        config: TextEncoderConfig::Decoder(case.config.clone()),
        vocabulary: None,
    }];
    let scope = case.fixture.component(DType::F32);
    let conditioner = family::of(Family::Flux2).text(&scope, &encoders).unwrap();
    let prompts: Vec<String> = serde_json::from_value(case.fixture.json("prompts")).unwrap();
    let encode = |prompt: &str| {
        let prompt = Prompt::Same(prompt.into());
        let options = TextOptions::default();
        conditioner.encode(&prompt, &Embeddings::default(), &options).unwrap().states.context
    };
    for (number, prompt) in prompts.iter().enumerate() {
        let (key, context) = (format!("klein.{number}"), encode(prompt));
        assert_eq!(context.dims(), [1, 512, 3 * 24]);
        let shown = case.fixture.tensor(&key).0[1];
        let error = case.error(&context.narrow(1, 0, shown), &key);
        assert!(error < TOLERANCE, "{prompt}: {error}");
    }
    // Longer ones are not cut.
    assert!(encode(&"word ".repeat(600)).dims()[1] > 600);
}

#[test]
fn token_ids_are_those_of_transformers() {
    let mut cases = token_ids::texts();
    assert!(cases.len() > 2000);
    let tokenizer = QwenTokenizer::standard().unwrap();
    let (prompt, chat) = cases.pop().unwrap();
    let turn = format!("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(Value::from(tokenizer.tokenize(&turn)), chat);
    let cases = cases.iter().map(|(text, expected)| (text, expected));
    token_ids::check("Qwen", cases, |text| tokenizer.tokenize(text));
}
