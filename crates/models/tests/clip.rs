//! CLIP text encoders against transformers at seeded random weights, in f32;
//! `tools/reference/make_clip.py` made the fixture.
//!
//! Tolerance: 2e-4 of the reference's largest value. Sums in another order differ by about 1e-6 here.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use std::collections::HashMap;
use std::sync::Arc;

use common::{max_error, seeded, values};
use distorch_checkpoint::config::{ClipActivation, ClipConfig};
use distorch_models::clip::{ClipOutput, ClipRequest, ClipTextEncoder, ClipToken};
use distorch_runtime::{DType, Tensor};
use safetensors::SafeTensors;
use serde_json::Value;

const FIXTURE: &[u8] = include_bytes!("fixtures/clip.safetensors");
const TOLERANCE: f32 = 2e-4;

struct Case {
    name: &'static str,
    config: ClipConfig,
    shapes: Vec<(String, Vec<usize>)>,
    texts: Vec<Vec<ClipToken>>,
}

impl Case {
    fn load(name: &'static str) -> Self {
        let (_, metadata) = SafeTensors::read_metadata(FIXTURE).unwrap();
        let about: HashMap<_, _> = metadata.metadata().clone().unwrap();
        let about: Value = serde_json::from_str(&about[name]).unwrap();
        let config = &about["config"];
        let size = |key: &str| config[key].as_u64().map(|size| size as usize);
        let config = ClipConfig {
            vocab_size: 49408,
            max_positions: 77,
            width: size("width").unwrap(),
            layers: size("layers").unwrap(),
            heads: size("heads").unwrap(),
            intermediate: size("intermediate").unwrap(),
            activation: match config["act"].as_str().unwrap() {
                "gelu" => ClipActivation::Gelu,
                _ => ClipActivation::QuickGelu,
            },
            projection: size("projection"),
        };
        let shapes = serde_json::from_value::<HashMap<String, Vec<usize>>>(about["shapes"].clone());
        let vector = seeded::uniform(&format!("{name}.vector"), config.width, 0);
        let vector: Arc<[f32]> = vector.iter().map(|value| value * 0.2).collect();
        let inversion = about["inversion"].as_u64().unwrap() as u32;
        let tokens = SafeTensors::deserialize(FIXTURE).unwrap();
        let tokens = tokens.tensor(&format!("{name}.tokens")).unwrap();
        let tokens =
            tokens.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
        let tokens = tokens.map(|id| {
            if id == inversion { ClipToken::Vector(vector.clone()) } else { ClipToken::Id(id) }
        });
        let texts = tokens.collect::<Vec<_>>().chunks_exact(77).map(<[_]>::to_vec).collect();
        Self { name, config, shapes: shapes.unwrap().into_iter().collect(), texts }
    }

    fn encoder(&self, dtype: DType) -> ClipTextEncoder {
        let shapes = self.shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        ClipTextEncoder::load(&self.config, &seeded::component_as(shapes, 0, dtype)).unwrap()
    }

    fn encode(&self, layer_from_end: usize, final_layer_norm: bool) -> ClipOutput {
        let request = ClipRequest { layer_from_end, final_layer_norm, pooled: true };
        self.encoder(DType::F32).forward(&self.texts, request).unwrap()
    }

    #[track_caller]
    fn check<const D: usize>(&self, actual: &Tensor<D>, key: &str) {
        let error = self.error(actual, key);
        assert!(error < TOLERANCE, "{}.{key}: {error}", self.name);
    }

    #[track_caller]
    fn error<const D: usize>(&self, actual: &Tensor<D>, key: &str) -> f32 {
        let fixture = SafeTensors::deserialize(FIXTURE).unwrap();
        let reference = fixture.tensor(&format!("{}.{key}", self.name)).unwrap();
        assert_eq!(actual.dims().to_vec(), reference.shape(), "{}.{key}", self.name);
        let reference = reference.data().chunks_exact(4);
        let reference: Vec<_> =
            reference.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        max_error(&values(actual), &reference)
    }
}

#[track_caller]
fn check_all(name: &'static str) {
    let case = Case::load(name);
    for layer in [1, 2] {
        let output = case.encode(layer, false);
        case.check(&output.hidden, &format!("hidden.{layer}"));
        case.check(&output.pooled.unwrap(), "pooled");
        let output = case.encode(layer, true);
        case.check(&output.hidden, &format!("normed.{layer}"));
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
    let request = ClipRequest { layer_from_end: 2, final_layer_norm: false, pooled: false };
    let output = case.encoder(DType::F32).forward(&case.texts, request).unwrap();
    assert!(output.pooled.is_none());
    case.check(&output.hidden, "hidden.2");
}

/// Weights and products in bf16 keep 8 bits each; over 4 layers that stays below 3 %.
#[test]
fn bf16_is_near() {
    let case = Case::load("clip_g");
    let request = ClipRequest { layer_from_end: 1, final_layer_norm: true, pooled: true };
    let output = case.encoder(DType::BF16).forward(&case.texts, request).unwrap();
    assert_eq!(output.hidden.dtype(), DType::F32);
    let error = case.error(&output.hidden, "normed.1");
    assert!((1e-4..3e-2).contains(&error), "{error}");
    assert!(case.error(&output.pooled.unwrap(), "pooled") < 3e-2);
}

#[test]
fn texts_that_do_not_fit_are_errors() {
    let case = Case::load("clip_l");
    let encoder = case.encoder(DType::F32);
    let request = ClipRequest { layer_from_end: 1, final_layer_norm: true, pooled: true };
    let id = |id| vec![ClipToken::Id(id)];
    let error = |texts: &[Vec<ClipToken>]| encoder.forward(texts, request).unwrap_err().to_string();
    assert!(error(&[]).contains("1 to 77 tokens"));
    assert!(error(&[vec![]]).contains("1 to 77 tokens"));
    assert!(error(&[vec![ClipToken::Id(1); 78]]).contains("78"));
    assert!(error(&[id(1), vec![ClipToken::Id(1); 2]]).contains("1 tokens each"));
    assert!(error(&[id(49408)]).contains("below 49408"));
    assert!(error(&[vec![ClipToken::Vector([0.0; 5].into())]]).contains("32 values"));
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
