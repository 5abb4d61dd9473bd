//! The language model of Qwen3-VL as the text encoder of Krea 2 and Qwen-Image 2.1; `tools/reference/make_krea2_text.py` and
//! `make_qwen3vl_pictures.py` made the fixtures.

use distorch_checkpoint::config::{DecoderConfig, TextEncoderConfig, VisionConfig};
use distorch_checkpoint::family::{Family, TextEncoder, recognise};
use distorch_checkpoint::{Checkpoint, Dtype};
use distorch_models::decoder::Decoder;
use distorch_models::family;
use distorch_models::prompt::embedding::Embeddings;
use distorch_models::prompt::token::Token;
use distorch_models::text::{PicturePrompt, PictureTask, Prompt, PromptPicture, TextOptions};
use distorch_models::vision;
use distorch_runtime::{DType, Tensor};

use super::TOLERANCE;
use super::common::fixture::{Fixture, dims};
use super::common::{max_error, seeded, values};

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

fn assert_near(fixture: &Fixture, actual: &Tensor<3>, key: &str) {
    let (shape, reference) = fixture.tensor(key);
    assert_eq!(actual.dims().to_vec(), shape, "{key}");
    let error = max_error(&values(actual), &reference);
    assert!(error < TOLERANCE, "{key}: {error}");
}

/// With the states that go to the first layers of the language model.
#[test]
fn pictures_are_encoded_as_transformers_does() {
    let fixture = Fixture::open("qwen3vl_pictures.safetensors");
    let config: DecoderConfig = serde_json::from_value(fixture.json("config")).unwrap();
    let scope = fixture.component(DType::F32).at("qwen3vl.visual");
    let tower = vision::load(&config.vision.unwrap(), config.width, &scope).unwrap();
    for (number, picture) in pictures(&fixture).iter().enumerate() {
        let encoded = tower.encode(picture).unwrap();
        assert_near(&fixture, &encoded.states, &format!("picture.{number}"));
        assert_eq!(encoded.added.len(), 3);
        for (layer, states) in encoded.added.iter().enumerate() {
            assert_near(&fixture, states, &format!("added.{number}.{layer}"));
        }
    }
}

/// With the pictures' tokens, and without them but with their places.
#[test]
fn prompts_with_pictures_are_read_as_transformers_does() {
    let fixture = Fixture::open("qwen3vl_pictures.safetensors");
    let config: DecoderConfig = serde_json::from_value(fixture.json("config")).unwrap();
    let encoder = |config| {
        let config = TextEncoderConfig::Decoder(config);
        [TextEncoder { name: "qwen3vl", config, vocabulary: None }]
    };
    let scope = fixture.component(DType::F32);
    let family = family::of(Family::QwenImage21);
    let conditioner = family.text(&scope, &encoder(config.clone())).unwrap();
    assert!(conditioner.sees_pictures());
    let pictures = pictures(&fixture);
    let prompts: Vec<(String, Vec<usize>, Vec<usize>)> =
        serde_json::from_value(fixture.json("prompts")).unwrap();
    for (number, (text, numbers, slots)) in prompts.iter().enumerate() {
        let pictures = numbers.iter().map(|number| pictures[*number].clone()).collect();
        let (text, task) = (text.as_str().into(), PictureTask::Own);
        let prompt = Prompt::WithPictures(PicturePrompt { text, task, pictures });
        let encode = |leave_pictures_out| {
            let options = TextOptions { leave_pictures_out, ..TextOptions::default() };
            conditioner.encode(&prompt, &Embeddings::default(), &options).unwrap().states
        };
        let whole = encode(false);
        assert_near(&fixture, &whole.context, &format!("prompt.{number}"));
        assert!(whole.picture_slots.is_empty());
        let left = encode(true);
        assert_near(&fixture, &left.context, &format!("left.{number}"));
        assert_eq!(left.picture_slots, *slots);
    }
    // A file without the encoder of pictures reads none.
    let blind = DecoderConfig { vision: None, ..config };
    assert!(!family.text(&scope, &encoder(blind)).unwrap().sees_pictures());
}

/// Behind the instructions to describe the picture, the states of each layer with what pictures add to them.
#[test]
fn prompts_with_pictures_for_krea_2_are_read_as_transformers_does() {
    let fixture = Fixture::open("qwen3vl_pictures.safetensors");
    let config: DecoderConfig = serde_json::from_value(fixture.json("config")).unwrap();
    let config = TextEncoderConfig::Decoder(config);
    let encoders = [TextEncoder { name: "qwen3vl", config, vocabulary: None }];
    let scope = fixture.component(DType::F32);
    let conditioner = family::of(Family::Krea2).text(&scope, &encoders).unwrap();
    assert!(conditioner.sees_pictures());
    let pictures = pictures(&fixture);
    let prompts: Vec<(String, Vec<usize>, Vec<usize>)> =
        serde_json::from_value(fixture.json("prompts")).unwrap();
    for (number, (text, numbers, _)) in prompts.iter().enumerate() {
        let pictures = numbers.iter().map(|number| pictures[*number].clone()).collect();
        let (text, task) = (text.as_str().into(), PictureTask::Own);
        let prompt = Prompt::WithPictures(PicturePrompt { text, task, pictures });
        let options = TextOptions::default();
        let states = conditioner.encode(&prompt, &Embeddings::default(), &options).unwrap().states;
        assert_near(&fixture, &states.context, &format!("krea2.{number}"));
        assert!(states.picture_slots.is_empty());
    }
}

/// As it lies in files beside the language model.
#[test]
fn files_with_an_encoder_of_pictures_are_recognised() {
    let fixture = Fixture::open("qwen3vl_pictures.safetensors");
    let mut config: DecoderConfig = serde_json::from_value(fixture.json("config")).unwrap();
    // No tensor tells the heads: the published ones have 16.
    config.vision = config.vision.map(|vision| VisionConfig { heads: 16, ..vision });
    let params = fixture.json("params");
    let tensors = params.as_object().unwrap().iter().map(|(name, shape)| {
        (name.strip_prefix("qwen3vl.").unwrap().to_owned(), Dtype::BF16, dims(shape))
    });
    let file = Checkpoint::from_parts("qwen", Default::default(), tensors).unwrap();
    let model = recognise(&file).unwrap();
    let [encoder] = &model.text_encoders[..] else { unreachable!("one encoder") };
    assert_eq!(encoder.config, TextEncoderConfig::Decoder(config));
    assert_eq!((model.unknown, model.ignored.len()), (vec![], 0));
}
