//! Mistral Small 3 as Flux.2 dev's text encoder, and its tokenizer; `tools/reference/make_mistral.py` made the fixtures.

use distorch_checkpoint::config::{DecoderConfig, TextEncoderConfig};
use distorch_checkpoint::family::{Family, TextEncoder, Vocabulary, recognise};
use distorch_checkpoint::{Checkpoint, Dtype};
use distorch_models::decoder::Decoder;
use distorch_models::family;
use distorch_models::prompt::embedding::Embeddings;
use distorch_models::prompt::tekken::TekkenTokenizer;
use distorch_models::prompt::token::Token;
use distorch_models::text::{Prompt, TextOptions};
use distorch_runtime::DType;
use distorch_test_support::model_file::ModelFile;
use distorch_test_support::tekken;
use serde_json::Value;

use super::TOLERANCE;
use super::common::fixture::{Fixture, dims};
use super::common::{max_error, values};
use super::token_ids;

fn load() -> (Fixture, DecoderConfig) {
    let fixture = Fixture::open("mistral.safetensors");
    let config = serde_json::from_value(fixture.json("config")).unwrap();
    (fixture, config)
}

#[test]
fn states_behind_every_layer_are_transformers() {
    let (fixture, config) = load();
    let scope = fixture.component(DType::F32).at("mistral3");
    let ids: Vec<u32> = serde_json::from_value(fixture.json("ids")).unwrap();
    let text = ids.into_iter().map(Token::Id).collect();
    let states = Decoder::load(&config, &scope).unwrap().states(&[text], &[0, 1, 2]).unwrap();
    for (layers, state) in states.iter().enumerate() {
        let (shape, reference) = fixture.tensor(&format!("states.{layers}"));
        assert_eq!(state.dims().to_vec(), shape);
        let error = max_error(&values(state), &reference);
        assert!(error < TOLERANCE, "{layers}: {error}");
    }
}

fn encoder(config: &DecoderConfig, vocabulary: Option<Vocabulary>) -> [TextEncoder; 1] {
    [TextEncoder {
        name: "mistral3",
        config: TextEncoderConfig::Decoder(config.clone()),
        vocabulary,
    }]
}

/// Three layers' states of the chat with its instructions, behind zeros.
#[test]
fn prompts_for_flux2_dev_are_those_of_diffusers() {
    let (fixture, config) = load();
    let scope = fixture.component(DType::F32);
    let load = |vocabulary| family::of(Family::Flux2).text(&scope, &encoder(&config, vocabulary));
    let conditioner = load(Some(Vocabulary::new(tekken()))).unwrap();
    let encode = |prompt: &str| {
        let prompt = Prompt::Same(prompt.into());
        let options = TextOptions::default();
        conditioner.encode(&prompt, &Embeddings::default(), &options).unwrap().states.context
    };
    let prompts: Vec<String> = serde_json::from_value(fixture.json("prompts")).unwrap();
    for (number, prompt) in prompts.iter().enumerate() {
        let context = encode(prompt);
        assert_eq!(context.dims(), [1, 512, 3 * 24]);
        let (shape, reference) = fixture.tensor(&format!("dev.{number}"));
        // The reference's first tokens are the last of the zeros.
        let zeros = values(&context.clone().narrow(1, 0, 512 - shape[1] + 4));
        assert!(zeros.iter().all(|value| *value == 0.0));
        let found = values(&context.narrow(1, 512 - shape[1], shape[1]));
        let error = max_error(&found, &reference);
        assert!(error < TOLERANCE, "{prompt}: {error}");
    }
    // Longer ones are not cut.
    assert!(encode(&"word ".repeat(600)).dims()[1] > 600);

    let missing = load(None).err().unwrap().to_string();
    assert!(missing.contains("tekken_model"), "{missing}");
    let broken = load(Some(Vocabulary::new(*b"{}"))).err().unwrap().to_string();
    assert!(broken.contains("tekken_model") && broken.contains("tekken.json"), "{broken}");
}

#[test]
fn token_ids_are_those_of_transformers() {
    let texts = token_ids::texts();
    let expected: Vec<Value> =
        token_ids::unpacked(include_bytes!("../fixtures/tekken_tokens.json.gz"));
    assert!(expected.len() > 2000 && texts.len() == expected.len() + 1);
    let tokenizer = TekkenTokenizer::parse(&tekken()).unwrap();
    assert_eq!(tokenizer.ids(), 4096);
    let cases = texts.iter().map(|(text, _)| text).zip(&expected);
    token_ids::check("tekken", cases, |text| tokenizer.tokenize(text));
}

/// ComfyUI's file holds the vocabulary, transformers' the encoder of pictures; a shortened one has no last norm.
#[test]
fn files_of_mistral_are_recognised() {
    let (fixture, config) = load();
    let params = fixture.json("params");
    let tensors = |root: &str| {
        let tensors = params.as_object().unwrap().iter().map(|(name, shape)| {
            let name = name.strip_prefix("mistral3.model.").unwrap();
            (format!("{root}{name}"), dims(shape), vec![0.0; dims(shape).iter().product()])
        });
        ModelFile::of_values(tensors.collect::<Vec<_>>())
    };
    let mut file = tensors("model.");
    let vocabulary = tekken();
    file.add_bytes("tekken_model", Dtype::U8, &[vocabulary.len()], &vocabulary);
    let model = recognise(&file.open("comfy")).unwrap();
    assert_eq!(model.text_encoders, encoder(&config, Some(Vocabulary::new(vocabulary))));
    assert_eq!((model.unknown, model.ignored), (vec![], vec![]));

    // Without it, the size of the table tells.
    let whole = DecoderConfig { vocab_size: 131_072, ..config };
    let root = "language_model.model.";
    let tensors = params.as_object().unwrap().iter().map(|(name, shape)| {
        let name = name.strip_prefix("mistral3.model.").unwrap();
        let mut shape = dims(shape);
        if name.starts_with("embed_tokens") {
            shape[0] = 131_072;
        }
        (format!("{root}{name}"), Dtype::BF16, shape)
    });
    let others = [
        ("language_model.lm_head.weight", vec![131_072, 24]),
        ("language_model.model.norm.weight", vec![24]),
        ("vision_tower.patch_conv.weight", vec![8, 3, 2, 2]),
        ("multi_modal_projector.linear_1.weight", vec![8, 8]),
    ];
    let others = others.map(|(name, shape)| (name.to_owned(), Dtype::BF16, shape));
    let file =
        Checkpoint::from_parts("hf", Default::default(), tensors.chain(others.clone())).unwrap();
    let model = recognise(&file).unwrap();
    assert_eq!(model.text_encoders, encoder(&whole, None));
    assert_eq!((model.unknown, model.ignored.len()), (vec![], others.len()));
}
