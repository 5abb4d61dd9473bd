//! SD3's, Flux's and Chroma's conditioners: against diffusers' pipelines at seeded random weights
//! (`tools/reference/make_text.py`), and ComfyUI's rules beside the encoders themselves.
//!
//! Tolerance: 2e-4 of the reference's largest value.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use std::sync::Arc;

use common::text_case::Case;
use common::{max_error, values};
use distorch_checkpoint::family::Vocabulary;
use distorch_models::chroma::text::ChromaText;
use distorch_models::clip::{ClipOutput, ClipRequest, ClipTextEncoder, Pooling};
use distorch_models::flux::text::FluxText;
use distorch_models::prompt::embedding::Embeddings;
use distorch_models::prompt::token::Token;
use distorch_models::prompt::{t5_tokenizer::T5Tokenizer, tokenizer};
use distorch_models::sd3::text::Sd3Text;
use distorch_models::t5::T5Encoder;
use distorch_models::text::{Prompt, TextConditioner, TextOptions, TextStates};
use distorch_runtime::{DType, Tensor};

const TOLERANCE: f32 = 2e-4;

/// Widths of the fixture's CLIP-L, CLIP-G and T5, and of CLIP-G's projection.
const L: usize = 16;
const G: usize = 24;
const T5: usize = 48;
const PROJECTION: usize = 20;

fn sd3(case: &Case, names: &[&str]) -> Sd3Text {
    let text = Sd3Text::load(&case.scope(DType::F32), &case.only(names)).unwrap();
    text.for_widths(T5, L + PROJECTION)
}

fn flux(case: &Case) -> FluxText {
    FluxText::load(&case.scope(DType::F32), &case.encoders).unwrap()
}

fn same(text: &str) -> Prompt {
    Prompt::Same(text.into())
}

fn each(clip_l: &str, clip_g: &str, t5xxl: &str) -> Prompt {
    Prompt::Each(vec![
        ("clip_l", clip_l.into()),
        ("clip_g", clip_g.into()),
        ("t5xxl", t5xxl.into()),
    ])
}

fn encode(text: &dyn TextConditioner, prompt: &Prompt, options: TextOptions) -> TextStates {
    let encoded = text.encode(prompt, &Embeddings::default(), &options).unwrap();
    assert!(encoded.warnings.is_empty(), "{:?}", encoded.warnings);
    encoded.states
}

fn pooled(states: &TextStates) -> Vec<f32> {
    values(states.pooled.as_ref().unwrap())
}

/// Some tokens and values of the context.
fn part(
    context: &Tensor<3>,
    tokens: std::ops::Range<usize>,
    width: std::ops::Range<usize>,
) -> Vec<f32> {
    values(&context.clone().slice([0..1, tokens, width]))
}

#[track_caller]
fn near(actual: &[f32], expected: &[f32]) {
    let error = max_error(actual, expected);
    assert!(error < 1e-5, "{error}");
}

#[track_caller]
fn zeros(actual: &[f32]) {
    assert!(!actual.is_empty() && actual.iter().all(|value| *value == 0.0), "{actual:?}");
}

/// What a CLIP encoder makes of a chunk with these tokens between start and end.
fn clip(case: &Case, name: &str, ids: &[u32], layer_from_end: usize) -> ClipOutput {
    let pad = if name == "clip_l" { tokenizer::END } else { 0 };
    let mut tokens = vec![tokenizer::START];
    tokens.extend(ids);
    tokens.push(tokenizer::END);
    tokens.resize(77, pad);
    let pooled = if name == "clip_l" { Pooling::State } else { Pooling::Projected };
    let request = ClipRequest { layer_from_end, final_layer_norm: false, pooled: Some(pooled) };
    let encoder = ClipTextEncoder::load(&case.clip(name), &case.scope(DType::F32).at(name));
    encoder.unwrap().forward(&[tokens.into_iter().map(Token::Id).collect()], request).unwrap()
}

/// What T5 makes of these tokens.
fn t5(case: &Case, ids: &[u32], layer_from_end: usize) -> Vec<f32> {
    let encoder = T5Encoder::load(&case.t5(), &case.scope(DType::F32).at("t5xxl")).unwrap();
    let tokens = ids.iter().map(|&id| Token::Id(id)).collect();
    values(&encoder.forward(&[tokens], layer_from_end).unwrap())
}

/// T5's ids of the parts of a text, the end token and padding.
fn t5_ids(parts: &[&str], length: usize) -> Vec<u32> {
    let tokenizer = T5Tokenizer::standard().unwrap();
    let mut ids: Vec<u32> = parts.iter().flat_map(|part| tokenizer.tokenize(part)).collect();
    ids.push(1);
    ids.resize(length.max(ids.len()), 0);
    ids
}

#[test]
fn sd3_is_diffusers() {
    let case = Case::load();
    let text = sd3(&case, &["clip_l", "clip_g", "t5xxl"]);
    for (i, prompt) in case.prompts().iter().enumerate() {
        for prompt in [same(prompt), each(prompt, prompt, prompt)] {
            let states = encode(&text, &prompt, TextOptions::default());
            let error = case.error(&states.context, &format!("sd3.context.{i}"));
            assert!(error < TOLERANCE, "context {i}: {error}");
            let error = case.error(states.pooled.as_ref().unwrap(), &format!("sd3.pooled.{i}"));
            assert!(error < TOLERANCE, "pooled {i}: {error}");
        }
    }
}

#[test]
fn flux_is_diffusers() {
    let case = Case::load();
    let text = flux(&case);
    for (i, prompt) in case.prompts().iter().enumerate() {
        let states = encode(&text, &same(prompt), TextOptions::default());
        let error = case.error(&states.context, &format!("flux.context.{i}"));
        assert!(error < TOLERANCE, "context {i}: {error}");
        let error = case.error(states.pooled.as_ref().unwrap(), &format!("flux.pooled.{i}"));
        assert!(error < TOLERANCE, "pooled {i}: {error}");
    }
}

/// 77 tokens for SD3 and 256 for Flux at least, and all tokens of longer texts; CLIP in chunks of 77.
#[test]
fn token_counts() {
    let case = Case::load();
    let (sd3, flux) = (sd3(&case, &["clip_l", "clip_g", "t5xxl"]), flux(&case));
    // `▁`, `a` and the end; 76 and 255 words with it are full.
    for (words, in_clip, in_sd3, in_flux) in
        [(0, 77, 77, 256), (38, 77, 77, 256), (76, 154, 153, 256), (150, 154, 301, 301)]
    {
        let text = same(&"a ".repeat(words));
        let [_, tokens, width] = encode(&sd3, &text, TextOptions::default()).context.dims();
        assert_eq!((tokens, width), (in_clip + in_sd3, T5), "{words}");
        let [_, tokens, width] = encode(&flux, &text, TextOptions::default()).context.dims();
        assert_eq!((tokens, width), (in_flux, T5), "{words}");
    }
}

/// Parts of different weights are cut into tokens each for themselves; a token of weight w is at `e + (z - e) w`,
/// e from the empty text filled up to as many tokens, for T5 as for CLIP.
#[test]
fn weights_move_states_from_those_of_the_empty_text() {
    let case = Case::load();
    let states = encode(&flux(&case), &same("a (red:1.5) cat(s)"), TextOptions::default());
    let tokenizer = T5Tokenizer::standard().unwrap();
    let parts = [("a ", 1.0), ("red", 1.5), (" cat", 1.0), ("s", 1.1_f64)];
    let mut weights = Vec::new();
    for (part, weight) in parts {
        weights.resize(weights.len() + tokenizer.tokenize(part).len(), weight as f32);
    }
    weights.resize(256, 1.0);
    assert!(weights.iter().filter(|weight| **weight != 1.0).count() >= 2);
    let z = t5(&case, &t5_ids(&parts.map(|(part, _)| part), 256), 1);
    let e = t5(&case, &t5_ids(&[], 256), 1);
    let expected: Vec<f32> = z
        .chunks(T5)
        .zip(e.chunks(T5))
        .zip(&weights)
        .flat_map(|((z, e), w)| z.iter().zip(e).map(move |(z, e)| e + (z - e) * w))
        .collect();
    near(&values(&states.context), &expected);
    assert!(max_error(&values(&states.context), &z) > 1e-3);
    // The pooled vector knows no weights.
    let plain = encode(&flux(&case), &same("a red cat(s:1.0)"), TextOptions::default());
    near(&pooled(&states), &pooled(&plain));

    // Longer than T5 reads at least: the empty text is as long.
    let words = "a ".repeat(140);
    let states = encode(&flux(&case), &same(&format!("{words}(b:0.5)")), TextOptions::default());
    let ids = t5_ids(&[&words, "b"], 0);
    let last = ids.len() - 2;
    let (z, e) = (t5(&case, &ids, 1), t5(&case, &t5_ids(&[], ids.len()), 1));
    let at = |states: &[f32]| states[last * T5..(last + 1) * T5].to_vec();
    let expected: Vec<f32> = at(&z).iter().zip(at(&e)).map(|(z, e)| e + (z - e) * 0.5).collect();
    near(&part(&states.context, last..last + 1, 0..T5), &expected);
}

/// Each encoder has its text; of CLIP's the states before the last layer, side by side, then zeros.
#[test]
fn each_encoder_reads_its_own_text() {
    let case = Case::load();
    let text = sd3(&case, &["clip_l", "clip_g", "t5xxl"]);
    let states = encode(&text, &each("a cat", "a dog", "a bird"), TextOptions::default());
    let (l, g) = (
        clip(&case, "clip_l", &tokenizer::tokenize("a cat"), 2),
        clip(&case, "clip_g", &tokenizer::tokenize("a dog"), 2),
    );
    near(&part(&states.context, 0..77, 0..L), &values(&l.hidden));
    near(&part(&states.context, 0..77, L..L + G), &values(&g.hidden));
    zeros(&part(&states.context, 0..77, L + G..T5));
    near(&part(&states.context, 77..154, 0..T5), &t5(&case, &t5_ids(&["a bird"], 77), 1));
    let summaries = [values(&l.pooled.unwrap()), values(&g.pooled.unwrap())].concat();
    near(&pooled(&states), &summaries);
    let states = encode(&flux(&case), &each("a cat", "", "a bird"), TextOptions::default());
    near(&values(&states.context), &t5(&case, &t5_ids(&["a bird"], 256), 1));
}

/// For texts of their own the shorter one of CLIP's is followed by empty chunks; for the same text states are cut.
#[test]
fn clip_encoders_are_made_equally_long() {
    let case = Case::load();
    let long = "cat ".repeat(80);
    for names in [&["clip_l", "clip_g"][..], &["clip_g"]] {
        let text = sd3(&case, names);
        let states = encode(&text, &each(&long, "a dog", ""), TextOptions::default());
        assert_eq!(states.context.dims(), [1, 154, T5]);
        let empty = clip(&case, "clip_g", &[], 2);
        near(&part(&states.context, 77..154, L..L + G), &values(&empty.hidden));
        let dog = clip(&case, "clip_g", &tokenizer::tokenize("a dog"), 2);
        near(&pooled(&states)[L..], &values(&dog.pooled.unwrap()));
    }
}

/// Zeros stand for what is absent.
#[test]
fn absent_encoders_are_zeros() {
    let case = Case::load();
    let prompt = same("a cat");
    let all = encode(&sd3(&case, &["clip_l", "clip_g", "t5xxl"]), &prompt, TextOptions::default());
    let of = |names: &[&str]| encode(&sd3(&case, names), &prompt, TextOptions::default());

    let states = of(&["clip_g", "t5xxl"]);
    assert_eq!(states.context.dims(), [1, 154, T5]);
    zeros(&part(&states.context, 0..77, 0..L));
    assert_eq!(part(&states.context, 0..77, L..T5), part(&all.context, 0..77, L..T5));
    assert_eq!(part(&states.context, 77..154, 0..T5), part(&all.context, 77..154, 0..T5));
    zeros(&pooled(&states)[..L]);
    assert_eq!(pooled(&states)[L..], pooled(&all)[L..]);

    let states = of(&["clip_l", "t5xxl"]);
    assert_eq!(part(&states.context, 0..77, 0..L), part(&all.context, 0..77, 0..L));
    zeros(&part(&states.context, 0..77, L..T5));
    assert_eq!(pooled(&states)[..L], pooled(&all)[..L]);
    zeros(&pooled(&states)[L..]);
    assert_eq!(pooled(&states).len(), L + PROJECTION);

    let states = of(&["clip_l", "clip_g"]);
    assert_eq!(values(&states.context), part(&all.context, 0..77, 0..T5));
    assert_eq!(pooled(&states), pooled(&all));

    let states = of(&["t5xxl"]);
    assert_eq!(values(&states.context), part(&all.context, 77..154, 0..T5));
    zeros(&pooled(&states));
    assert_eq!(pooled(&states).len(), L + PROJECTION);

    // The published widths, where nothing says otherwise.
    let text = Sd3Text::load(&case.scope(DType::F32), &case.only(&["clip_l"])).unwrap();
    let states = encode(&text, &prompt, TextOptions::default());
    assert_eq!((states.context.dims(), pooled(&states).len()), ([1, 77, 4096], L + 1280));

    for (names, missing) in [(&["t5xxl", "clip_g"][..], "clip_l"), (&["clip_l"], "t5xxl")] {
        let error = FluxText::load(&case.scope(DType::F32), &case.only(names)).err().unwrap();
        assert!(error.to_string().contains(&format!("with {missing}")), "{error}");
    }
    let error = Sd3Text::load(&case.scope(DType::F32), &[]).err().unwrap().to_string();
    assert!(error.contains("clip_l, clip_g or t5xxl") && error.contains("none"), "{error}");
}

/// `empty_padding: none` of CLIPTextEncodeSD3.
#[test]
fn empty_texts_can_be_left_out() {
    let case = Case::load();
    let text = sd3(&case, &["clip_l", "clip_g", "t5xxl"]);
    let skip = || TextOptions { skip_empty: true, ..TextOptions::default() };
    let end_alone = t5(&case, &[1], 1);

    // T5's end token alone, behind CLIP's.
    let states = encode(&text, &each("a cat", "a cat", ""), skip());
    assert_eq!(states.context.dims(), [1, 78, T5]);
    near(&part(&states.context, 77..78, 0..T5), &end_alone);

    // Without both of CLIP's texts only T5's, and a pooled vector of zeros.
    let states = encode(&text, &each("", "", "a cat"), skip());
    near(&values(&states.context), &t5(&case, &t5_ids(&["a cat"], 77), 1));
    zeros(&pooled(&states));

    // An empty text beside one that is not is filled up with an empty chunk.
    let states = encode(&text, &each("", "a cat", "a cat"), skip());
    let padded = encode(&text, &each("", "a cat", "a cat"), TextOptions::default());
    assert_eq!(values(&states.context), values(&padded.context));
    assert_eq!(pooled(&states), pooled(&padded));

    let states = encode(&text, &same(""), skip());
    near(&values(&states.context), &end_alone);
    let states = encode(&sd3(&case, &["clip_l", "clip_g"]), &same(""), skip());
    assert_eq!(states.context.dims(), [1, 77, T5]);
    zeros(&values(&states.context));
    zeros(&pooled(&states));
}

/// It counts for every encoder; where one has fewer layers, its last is read.
#[test]
fn clip_skip_is_every_encoders() {
    let case = Case::load();
    let text = sd3(&case, &["clip_l", "clip_g", "t5xxl"]);
    let at = |clip_skip| {
        let options = TextOptions { clip_skip: Some(clip_skip), ..TextOptions::default() };
        encode(&text, &same("a cat"), options)
    };
    let ids = tokenizer::tokenize("a cat");
    let states = at(3);
    near(&part(&states.context, 0..77, 0..L), &values(&clip(&case, "clip_l", &ids, 3).hidden));
    near(&part(&states.context, 77..154, 0..T5), &t5(&case, &t5_ids(&["a cat"], 77), 3));
    let states = at(4);
    let g = values(&clip(&case, "clip_g", &ids, 4).hidden);
    near(&part(&states.context, 0..77, L..L + G), &g);
    near(&part(&states.context, 77..154, 0..T5), &t5(&case, &t5_ids(&["a cat"], 77), 1));
    let options = TextOptions { clip_skip: Some(0), ..TextOptions::default() };
    assert!(text.encode(&same(""), &Embeddings::default(), &options).is_err());
}

/// Vectors stand in T5's text where its key or the only tensor is for it; others are left out with a warning.
#[test]
fn textual_inversions_are_read_for_t5() {
    let case = Case::load();
    let folder = tempfile::tempdir().unwrap();
    let vectors: Vec<f32> = (0..2 * T5).map(|i| (i as f32 * 0.7).sin()).collect();
    let bytes: Vec<u8> = vectors.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, T5], &bytes);
    let path = folder.path().join("style.safetensors");
    safetensors::serialize_to_file([("t5xxl", view.unwrap())], None, &path).unwrap();
    let embeddings = Embeddings::from_files([("style.safetensors".to_owned(), path)]);
    let text = flux(&case);
    let prompt = same("a embedding:style cat");
    let encoded = text.encode(&prompt, &embeddings, &TextOptions::default()).unwrap();
    // CLIP-L finds no tensor of its own, and this one is too wide.
    let warnings: Vec<_> = encoded.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("clip_l"), "{warnings:?}");

    let tokenizer = T5Tokenizer::standard().unwrap();
    let id = |text| tokenizer.tokenize(text).into_iter().map(Token::Id);
    let mut tokens: Vec<Token> = id("a").collect();
    tokens.extend(vectors.chunks(T5).map(|vector| Token::Vector(Arc::from(vector))));
    tokens.extend(id("cat"));
    tokens.push(Token::Id(1));
    tokens.resize(256, Token::Id(0));
    let encoder = T5Encoder::load(&case.t5(), &case.scope(DType::F32).at("t5xxl")).unwrap();
    let expected = encoder.forward(&[tokens], 1).unwrap();
    near(&values(&encoded.states.context), &values(&expected));
}

/// A vocabulary in the file is used instead of T5's own, and has to be one.
#[test]
fn the_files_vocabulary_wins() {
    let case = Case::load();
    let mut encoders = case.encoders.clone();
    let t5xxl = encoders.iter_mut().find(|encoder| encoder.name == "t5xxl").unwrap();
    // `<unk>`, `</s>` and `▁a`, each with score and kind.
    let mut spiece = Vec::new();
    for (text, kind) in [("<unk>", 2), ("</s>", 3), ("▁a", 1)] {
        spiece.extend([0x0a, text.len() as u8 + 9, 0x0a, text.len() as u8]);
        spiece.extend(text.bytes());
        spiece.extend([0x15, 0, 0, 0, 0, 0x18, kind]);
    }
    t5xxl.vocabulary = Some(Vocabulary::new(spiece));
    let text = FluxText::load(&case.scope(DType::F32), &encoders).unwrap();
    let states = encode(&text, &same("a cat a"), TextOptions::default());
    let mut ids = vec![2, 0, 2, 1];
    ids.resize(256, 0);
    near(&values(&states.context), &t5(&case, &ids, 1));

    let t5xxl = encoders.iter_mut().find(|encoder| encoder.name == "t5xxl").unwrap();
    t5xxl.vocabulary = Some(Vocabulary::new(*b"no vocabulary"));
    let error = FluxText::load(&case.scope(DType::F32), &encoders).err().unwrap().to_string();
    assert!(error.contains("t5xxl") && error.contains("spiece_model"), "{error}");
}

/// ComfyUI fills nothing up for Chroma, and its empty text is padding alone.
#[test]
fn chroma_reads_the_prompts_tokens_and_the_end_alone() {
    let case = Case::load();
    let scope = case.scope(DType::F32);
    let text = ChromaText::load(&scope, &case.only(&["t5xxl"])).unwrap();
    let encoder = T5Encoder::load(&case.t5(), &scope.at("t5xxl")).unwrap();
    let states = |ids: Vec<u32>| {
        let tokens: Vec<Token> = ids.into_iter().map(Token::Id).collect();
        values(&encoder.forward(&[tokens], 1).unwrap())
    };
    let tokenizer = T5Tokenizer::standard().unwrap();
    let of = |prompt: &str| {
        let states = encode(&text, &same(prompt), TextOptions::default());
        assert!(states.pooled.is_none());
        states.context
    };
    for prompt in ["a photo of a cat", ""] {
        let mut ids = tokenizer.tokenize(prompt);
        ids.push(tokenizer.end());
        let context = of(prompt);
        assert_eq!(context.dims(), [1, ids.len(), T5]);
        assert_eq!(values(&context), states(ids), "{prompt:?}");
    }
    // Away from the padding's states at the same places, by half as much again.
    let mut ids = tokenizer.tokenize("cat");
    ids.push(tokenizer.end());
    let (plain, empty) = (states(ids.clone()), states(vec![0; ids.len()]));
    let weighted = ids.len() - 1;
    let expected = plain
        .iter()
        .zip(&empty)
        .enumerate()
        .map(|(at, (z, e))| if at < weighted * T5 { e + (z - e) * 1.5 } else { *z });
    let error = max_error(&values(&of("(cat:1.5)")), &expected.collect::<Vec<f32>>());
    assert!(error < 1e-5, "{error}");
    let missing = ChromaText::load(&scope, &case.only(&["clip_l"])).err().unwrap().to_string();
    assert!(missing.contains("Chroma") && missing.contains("t5xxl"), "{missing}");
}
