//! Gemma 2 as Lumina 2's text encoder, and its tokenizer; `tools/reference/make_gemma2.py` made the fixtures.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use distorch_checkpoint::config::{DecoderConfig, TextEncoderConfig};
use distorch_checkpoint::family::{Family, TextEncoder, Vocabulary, recognise};
use distorch_checkpoint::{ComponentKind, Dtype};
use distorch_models::decoder::Decoder;
use distorch_models::family;
use distorch_models::prompt::embedding::Embeddings;
use distorch_models::prompt::gemma_tokenizer::GemmaTokenizer;
use distorch_models::prompt::token::Token;
use distorch_models::text::{Prompt, TextOptions};
use distorch_runtime::{DType, LayerSource, Scope};
use distorch_test_support::gemma;
use distorch_test_support::model_file::ModelFile;
use serde::Deserialize;
use serde_json::Value;

use super::TOLERANCE;
use super::common::allocations::check_bits;
use super::common::fixture::{Fixture, dims};
use super::common::recording::Recording;
use super::common::{max_error, values};
use super::token_ids;

fn load() -> (Fixture, DecoderConfig) {
    let fixture = Fixture::open("gemma2.safetensors");
    let config = serde_json::from_value(fixture.json("config")).unwrap();
    (fixture, config)
}

fn text(fixture: &Fixture) -> Vec<Token> {
    let ids: Vec<u32> = serde_json::from_value(fixture.json("ids")).unwrap();
    ids.into_iter().map(Token::Id).collect()
}

#[test]
fn states_behind_every_layer_are_transformers() {
    let (fixture, config) = load();
    let scope = fixture.component(DType::F32).at("gemma2");
    let decoder = Decoder::load(&config, &scope).unwrap();
    let states = decoder.states(&[text(&fixture)], &[0, 1, 2, 3]).unwrap();
    for (layers, state) in states.iter().enumerate() {
        let (shape, reference) = fixture.tensor(&format!("states.{layers}"));
        assert_eq!(state.dims().to_vec(), shape);
        let error = max_error(&values(state), &reference);
        println!("{layers}: {error:.1e}");
        assert!(error < TOLERANCE, "{layers}: {error}");
    }
}

#[test]
fn gemma_computes_the_same_bits_for_every_allocation() {
    let (fixture, config) = load();
    check_bits(&fixture, |source| {
        let decoder = Decoder::load(&config, &Scope::new(source).at("gemma2")).unwrap();
        let states = decoder.states(&[text(&fixture)], &[3]).unwrap();
        values(&states[0]).into_iter().map(f32::to_bits).collect()
    });
}

fn encoder(config: &DecoderConfig, vocabulary: Option<Vocabulary>) -> [TextEncoder; 1] {
    [TextEncoder { name: "gemma2", config: TextEncoderConfig::Decoder(config.clone()), vocabulary }]
}

/// An empty prompt, one whose words weigh the same, and one of several weights.
#[test]
fn prompts_for_lumina_2_are_those_of_transformers() {
    let (fixture, config) = load();
    let scope = fixture.component(DType::F32);
    let load = |vocabulary| family::of(Family::Lumina2).text(&scope, &encoder(&config, vocabulary));
    let conditioner = load(Some(Vocabulary::new(gemma()))).unwrap();
    let encode = |prompt: &str, clip_skip| {
        let options = TextOptions { clip_skip, ..TextOptions::default() };
        let prompt = Prompt::Same(prompt.into());
        conditioner.encode(&prompt, &Embeddings::default(), &options).unwrap().states
    };
    let prompts: Vec<String> = serde_json::from_value(fixture.json("prompts")).unwrap();
    assert_eq!(prompts.len(), 3);
    for (number, prompt) in prompts.iter().enumerate() {
        let (shape, reference) = fixture.tensor(&format!("lumina2.{number}"));
        for clip_skip in [None, Some(2), Some(9)] {
            let states = encode(prompt, clip_skip);
            assert!(states.pooled.is_none());
            assert_eq!(states.context.dims().to_vec(), shape);
            let error = max_error(&values(&states.context), &reference);
            println!("{prompt:?}: {error:.1e}");
            assert!(error < TOLERANCE, "{prompt}: {error}");
        }
        // A layer earlier is another.
        let earlier = max_error(&values(&encode(prompt, Some(3)).context), &reference);
        assert!(earlier > 100.0 * TOLERANCE, "{earlier}");
    }
    let none = family::of(Family::Lumina2).text(&scope, &[]).err().unwrap().to_string();
    assert!(none.contains("gemma2") && none.contains("Lumina 2"), "{none}");
    let missing = load(None).err().unwrap().to_string();
    assert!(missing.contains("spiece_model") && missing.contains("take"), "{missing}");
    let broken = load(Some(Vocabulary::new(*b"{}"))).err().unwrap().to_string();
    assert!(broken.contains("spiece_model") && broken.contains("SentencePiece"), "{broken}");
    let small = DecoderConfig { vocab_size: 2000, ..config.clone() };
    let vocabulary = Some(Vocabulary::new(gemma()));
    let small = family::of(Family::Lumina2).text(&scope, &encoder(&small, vocabulary));
    let small = small.err().unwrap().to_string();
    assert!(small.contains("2000") && small.contains("2048"), "{small}");
}

/// Plans and prefetching count with the order that the checkpoint crate states.
#[test]
fn layers_of_gemma_are_used_in_the_stated_order() {
    let (fixture, config) = load();
    let (component, ..) = files(&fixture, "model.", Some(&gemma()));
    let mut stated: Vec<_> = component.iter().collect();
    stated.sort_by_key(|layer| layer.use_index);
    let stated = stated.into_iter().map(|layer| layer.name.clone());
    // Nobody reads the last layer, and what is behind it.
    let last = format!("gemma2.model.layers.{}.", config.layers - 1);
    let read = |name: &String| !name.starts_with(&last) && name != "gemma2.model.norm";
    let stated: Vec<_> = stated.filter(read).collect();
    let inner = Arc::clone(fixture.component(DType::F32).source());
    let recording = Arc::new(Recording::new(inner));
    let scope = Scope::new(Arc::clone(&recording) as Arc<dyn LayerSource>);
    let vocabulary = Some(Vocabulary::new(gemma()));
    let conditioner =
        family::of(Family::Lumina2).text(&scope, &encoder(&config, vocabulary)).unwrap();
    let options = TextOptions::default();
    conditioner.encode(&Prompt::Same("a cat".into()), &Embeddings::default(), &options).unwrap();
    assert_eq!(recording.fetched(), stated);
}

type Layers = Vec<distorch_checkpoint::Layer>;

/// The layers of a file with these names, its encoders, and how many tensors nobody uses.
fn files(
    fixture: &Fixture,
    root: &str,
    vocabulary: Option<&[u8]>,
) -> (Layers, Vec<TextEncoder>, usize) {
    let params = fixture.json("params");
    let tensors = params.as_object().unwrap().iter().map(|(name, shape)| {
        let name = name.strip_prefix("gemma2.model.").unwrap();
        (format!("{root}{name}"), dims(shape))
    });
    let norm = (format!("{root}norm.weight"), vec![24]);
    let tensors = tensors.chain([norm]).map(|(name, shape)| {
        let values = vec![0.0; shape.iter().product()];
        (name, shape, values)
    });
    let mut file = ModelFile::of_values(tensors.collect::<Vec<_>>());
    if let Some(vocabulary) = vocabulary {
        file.add_bytes("spiece_model", Dtype::U8, &[vocabulary.len()], vocabulary);
    }
    let model = recognise(&file.open("gemma")).unwrap();
    assert_eq!(model.unknown, Vec::<String>::new());
    let component = model.component(ComponentKind::TextEncoders).unwrap().layers.clone();
    (component, model.text_encoders.clone(), model.ignored.len())
}

/// With the vocabulary as ComfyUI's file holds it, and without, as transformers saves it.
#[test]
fn files_of_gemma_are_recognised() {
    let (fixture, config) = load();
    let vocabulary = gemma();
    for (root, vocabulary) in [("model.", Some(&vocabulary[..])), ("", None)] {
        let (_, encoders, ignored) = files(&fixture, root, vocabulary);
        let vocabulary = vocabulary.map(Vocabulary::new);
        assert_eq!(encoders, encoder(&config, vocabulary));
        assert_eq!(ignored, 0);
    }
}

/// A model, where it is not the one of the tests, and its ids for the texts.
#[derive(Deserialize)]
struct Tokens {
    model: Option<String>,
    ids: Vec<Value>,
}

/// Of a model with Gemma's settings, of one that normalises and has no bytes, and of one with pieces that are not used.
#[test]
fn token_ids_are_those_of_sentencepiece() {
    let texts = token_ids::texts();
    let models: Vec<Tokens> =
        token_ids::unpacked(include_bytes!("../fixtures/gemma_tokens.json.gz"));
    assert_eq!(models.len(), 3);
    for (number, Tokens { model, ids }) in models.into_iter().enumerate() {
        assert!(ids.len() > 2000 && texts.len() == ids.len() + 1);
        let model = model.map_or_else(gemma, |model| STANDARD.decode(model).unwrap());
        let tokenizer = GemmaTokenizer::from_spiece(&model).unwrap();
        let cases = texts.iter().map(|(text, _)| text).zip(&ids);
        token_ids::check(&format!("model {number}"), cases, |text| tokenizer.tokenize(text));
    }
}

/// As ComfyUI has it: of the marks of a chat, that which ends a turn is read by its name, the others are text.
#[test]
fn of_a_chats_marks_the_end_of_a_turn_is_one() {
    let tokenizer = GemmaTokenizer::from_spiece(&gemma()).unwrap();
    assert_eq!((tokenizer.start(), tokenizer.pad(), tokenizer.ids()), (2, 0, 2048));
    let ids = |text: &str| tokenizer.tokenize(text);
    assert_eq!(ids("cat<end_of_turn>cat"), [ids("cat"), vec![5], ids("cat")].concat());
    for mark in ["<start_of_turn>", "<bos>", "<pad>"] {
        assert!(ids(mark).len() > 1, "{mark}");
    }
    let error = |bytes: &[u8]| GemmaTokenizer::from_spiece(bytes).err().unwrap().to_string();
    assert!(error(b"").contains("unknown"));
}
