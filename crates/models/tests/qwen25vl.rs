//! Qwen2.5-VL as Qwen-Image's text encoder, with its encoder of pictures, against transformers and diffusers at seeded random
//! weights; `tools/reference/make_qwen25vl.py` and `make_qwen25vl_pictures.py` made the fixtures.
//!
//! Tolerance: 2e-4 of the reference's largest value. Sums in another order differ by about 1e-6 here.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use common::fixture::Fixture;
use common::{max_error, seeded, values};
use distorch_checkpoint::config::{DecoderConfig, TextEncoderConfig};
use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_models::decoder::Decoder;
use distorch_models::family;
use distorch_models::prompt::embedding::Embeddings;
use distorch_models::prompt::token::Token;
use distorch_models::text::{PicturePrompt, PictureTask, Prompt, PromptPicture, TextOptions};
use distorch_models::vision;
use distorch_runtime::{DType, Tensor};

const TOLERANCE: f32 = 2e-4;

fn load() -> (Fixture, DecoderConfig) {
    open("qwen25vl.safetensors")
}

fn open(name: &str) -> (Fixture, DecoderConfig) {
    let fixture = Fixture::open(name);
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

/// The seeded pictures that the script makes, too.
fn pictures(fixture: &Fixture) -> Vec<PromptPicture> {
    let sizes: Vec<[usize; 2]> = serde_json::from_value(fixture.json("sizes")).unwrap();
    let picture = |(at, [height, width]): (usize, [usize; 2])| {
        let values = seeded::uniform(&format!("picture.{at}"), height * width * 3, fixture.seed());
        let values: Vec<f32> = values.into_iter().map(|value| (value + 1.0) / 2.0).collect();
        PromptPicture::new([height, width], values).unwrap()
    };
    sizes.into_iter().enumerate().map(picture).collect()
}

/// Of whole windows and of parts, one token high, and smaller than is read.
#[test]
fn pictures_are_encoded_as_transformers_does() {
    let (fixture, config) = open("qwen25vl_pictures.safetensors");
    let scope = fixture.component(DType::F32).at("qwen25vl.visual");
    let tower = vision::load(&config.vision.unwrap(), config.width, &scope).unwrap();
    for (number, picture) in pictures(&fixture).iter().enumerate() {
        let encoded = tower.encode(picture).unwrap();
        assert_eq!(encoded.grid.into_iter().product::<usize>(), encoded.states.dims()[1]);
        let error = error(&fixture, &encoded.states, &format!("picture.{number}"));
        assert!(error < TOLERANCE, "{:?}: {error}", picture.size());
    }
}

/// One picture, and three with their numbers, with the places of their tokens in the language model.
#[test]
fn prompts_with_pictures_are_read_as_transformers_does() {
    let (fixture, config) = open("qwen25vl_pictures.safetensors");
    let encoder = |config| {
        let config = TextEncoderConfig::Decoder(config);
        [TextEncoder { name: "qwen25vl", config, vocabulary: None }]
    };
    let scope = fixture.component(DType::F32);
    let family = family::of(Family::QwenImage);
    let conditioner = family.text(&scope, &encoder(config.clone())).unwrap();
    let pictures = pictures(&fixture);
    let prompts: Vec<(String, Vec<usize>, bool)> =
        serde_json::from_value(fixture.json("prompts")).unwrap();
    let prompt = |text: &str, numbers: &[usize], named: bool| {
        let named = numbers.iter().enumerate().filter(|_| named).map(|(at, _)| {
            format!("Picture {}: <|vision_start|><|image_pad|><|vision_end|>", at + 1)
        });
        let text = named.chain([text.to_owned()]).collect::<String>();
        let pictures = numbers.iter().map(|number| pictures[*number].clone()).collect();
        let text = text.as_str().into();
        Prompt::WithPictures(PicturePrompt { text, task: PictureTask::Own, pictures })
    };
    let (embeddings, options) = (Embeddings::default(), TextOptions::default());
    for (number, (text, numbers, named)) in prompts.iter().enumerate() {
        let prompt = prompt(text, numbers, *named);
        let context = conditioner.encode(&prompt, &embeddings, &options).unwrap().states.context;
        let error = error(&fixture, &context, &format!("prompt.{number}"));
        assert!(error < TOLERANCE, "{text}: {error}");
    }
    // Without its encoder of pictures it reads none.
    let blind = encoder(DecoderConfig { vision: None, ..config });
    let blind = family.text(&scope, &blind).unwrap();
    assert!(conditioner.sees_pictures() && !blind.sees_pictures());
    let problem = blind.encode(&prompt("x", &[0], false), &embeddings, &options).unwrap_err();
    assert!(problem.to_string().contains("see no pictures"), "{problem}");
}
