//! The language model of Qwen3-VL as the text encoder of Krea 2 and Qwen-Image 2.1; `tools/reference/make_krea2_text.py` made the fixture.

use distorch_checkpoint::config::{DecoderConfig, TextEncoderConfig};
use distorch_checkpoint::family::{Family, TextEncoder, recognise};
use distorch_checkpoint::{Checkpoint, Dtype};
use distorch_models::decoder::Decoder;
use distorch_models::family;
use distorch_models::prompt::embedding::Embeddings;
use distorch_models::prompt::token::Token;
use distorch_models::text::{Prompt, TextOptions};
use distorch_runtime::DType;

use super::TOLERANCE;
use super::common::fixture::{Fixture, dims};
use super::common::{max_error, values};

fn load() -> (Fixture, DecoderConfig) {
    let fixture = Fixture::open("qwen3vl.safetensors");
    let config = serde_json::from_value(fixture.json("config")).unwrap();
    (fixture, config)
}

#[test]
fn states_behind_every_layer_are_transformers() {
    let (fixture, config) = load();
    let scope = fixture.component(DType::F32).at("qwen3vl");
    let ids: Vec<u32> = serde_json::from_value(fixture.json("ids")).unwrap();
    let text = ids.into_iter().map(Token::Id).collect();
    let layers = [0, 1, 2, 3, 4, 5];
    let states = Decoder::load(&config, &scope).unwrap().states(&[text], &layers).unwrap();
    for (layers, state) in states.iter().enumerate() {
        let (shape, reference) = fixture.tensor(&format!("states.{layers}"));
        assert_eq!(state.dims().to_vec(), shape);
        let error = max_error(&values(state), &reference);
        assert!(error < TOLERANCE, "{layers}: {error}");
    }
}

/// Every third layer of the chat, without its instructions.
#[test]
fn prompts_for_krea_2_are_those_of_diffusers() {
    let (fixture, config) = load();
    let config = TextEncoderConfig::Decoder(config);
    let encoders = [TextEncoder { name: "qwen3vl", config, vocabulary: None }];
    let scope = fixture.component(DType::F32);
    let conditioner = family::of(Family::Krea2).text(&scope, &encoders).unwrap();
    let encode = |prompt: &str| {
        let prompt = Prompt::Same(prompt.into());
        let options = TextOptions::default();
        conditioner.encode(&prompt, &Embeddings::default(), &options).unwrap().states.context
    };
    let prompts: Vec<String> = serde_json::from_value(fixture.json("prompts")).unwrap();
    for (number, prompt) in prompts.iter().enumerate() {
        let context = encode(prompt);
        let (shape, reference) = fixture.tensor(&format!("krea2.{number}"));
        assert_eq!(context.dims().to_vec(), shape);
        let error = max_error(&values(&context), &reference);
        assert!(error < TOLERANCE, "{prompt}: {error}");
    }
    // A prompt that is a chat is taken as it is; of one without a user's turn, all behind the last turn's beginning.
    let chat = |prompt: &str| encode(prompt).dims()[1];
    let user = "<|im_start|>system\nx<|im_end|>\n<|im_start|>user\na cat";
    assert_eq!((chat(user), chat("<|im_start|>x")), (2, 2));
    let missing = family::of(Family::Krea2).text(&scope, &[]).err().unwrap().to_string();
    assert!(missing.contains("qwen3vl") && missing.contains("Krea 2"), "{missing}");
}

/// The states behind the last layer, without the norm, of the user's turn and the beginning of the answer.
#[test]
fn prompts_for_qwen_image_2_1_are_those_of_diffusers() {
    let (fixture, config) = load();
    let config = TextEncoderConfig::Decoder(config);
    let encoders = [TextEncoder { name: "qwen3vl", config, vocabulary: None }];
    let scope = fixture.component(DType::F32);
    let conditioner = family::of(Family::QwenImage21).text(&scope, &encoders).unwrap();
    let encode = |prompt: &str| {
        let prompt = Prompt::Same(prompt.into());
        let options = TextOptions::default();
        conditioner.encode(&prompt, &Embeddings::default(), &options).unwrap().states.context
    };
    let prompts: Vec<String> = serde_json::from_value(fixture.json("prompts")).unwrap();
    for (number, prompt) in prompts.iter().enumerate() {
        // Diffusers' pipeline reads a blank for nothing; here the node does that.
        let context = encode(if prompt.is_empty() { " " } else { prompt });
        let (shape, reference) = fixture.tensor(&format!("qwen21.{number}"));
        assert_eq!(context.dims().to_vec(), shape);
        let error = max_error(&values(&context), &reference);
        assert!(error < TOLERANCE, "{prompt}: {error}");
    }
    // Escaped brackets are brackets; a prompt that is a chat is taken as it is, from its second turn on.
    assert_eq!(values(&encode("a \\(cat\\)")), values(&encode("a (cat)")));
    let chat = |prompt: &str| encode(prompt).dims()[1];
    let turns = "<|im_start|>system\nx<|im_end|>\n<|im_start|>user\na cat";
    assert_eq!((chat(turns), chat("<|im_start|>x")), (5, 2));
}

/// The encoder of pictures tells it from Qwen3; it is left out.
#[test]
fn files_of_qwen3_vl_are_recognised() {
    let (fixture, config) = load();
    let params = fixture.json("params");
    for (root, vision) in [("model.language_model.", "model.visual."), ("model.", "visual.")] {
        let tensors = params.as_object().unwrap().iter().map(|(name, shape)| {
            let name = name.strip_prefix("qwen3vl.model.").unwrap();
            (format!("{root}{name}"), Dtype::BF16, dims(shape))
        });
        let others = [
            (format!("{vision}deepstack_merger_list.0.norm.weight"), Dtype::BF16, vec![96]),
            (format!("{vision}patch_embed.proj.weight"), Dtype::BF16, vec![8, 3, 2, 2, 2]),
        ];
        let tensors = tensors.chain(others);
        let file = Checkpoint::from_parts("qwen", Default::default(), tensors).unwrap();
        let model = recognise(&file).unwrap();
        let [encoder] = &model.text_encoders[..] else { unreachable!("one encoder") };
        assert_eq!(encoder.name, "qwen3vl");
        assert_eq!(encoder.config, TextEncoderConfig::Decoder(config.clone()));
        assert_eq!((model.unknown, model.ignored.len()), (vec![], 2), "{root}");
    }
}
