//! The text encoders of `tests/fixtures/clip.safetensors`, with transformers' outputs.

use std::collections::HashMap;
use std::sync::Arc;

use distorch_checkpoint::config::{ClipActivation, ClipConfig};
use distorch_models::clip::ClipTextEncoder;
use distorch_models::prompt::token::Token;
use distorch_runtime::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde_json::Value;

use super::{max_error, seeded, values};

const FIXTURE: &[u8] = include_bytes!("../fixtures/clip.safetensors");

/// An encoder of the fixture, with the texts that it is given.
pub struct Case {
    pub name: &'static str,
    pub config: ClipConfig,
    pub shapes: Vec<(String, Vec<usize>)>,
    pub texts: Vec<Vec<Token>>,
}

impl Case {
    pub fn load(name: &'static str) -> Self {
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
        let tokens = tokens
            .map(|id| if id == inversion { Token::Vector(vector.clone()) } else { Token::Id(id) });
        let texts = tokens.collect::<Vec<_>>().chunks_exact(77).map(<[_]>::to_vec).collect();
        Self { name, config, shapes: shapes.unwrap().into_iter().collect(), texts }
    }

    /// The encoder with its seeded weights.
    pub fn encoder(&self, device: &Device, dtype: DType) -> ClipTextEncoder {
        let shapes = self.shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        let scope = seeded::component_on(shapes, 0, device, dtype);
        ClipTextEncoder::load(&self.config, &scope).unwrap()
    }

    /// How far a result is from transformers' `key`.
    #[track_caller]
    pub fn error<const D: usize>(&self, actual: &Tensor<D>, key: &str) -> f32 {
        let fixture = SafeTensors::deserialize(FIXTURE).unwrap();
        let reference = fixture.tensor(&format!("{}.{key}", self.name)).unwrap();
        assert_eq!(actual.dims().to_vec(), reference.shape(), "{}.{key}", self.name);
        let reference = reference.data().chunks_exact(4);
        let reference: Vec<_> =
            reference.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        max_error(&values(actual), &reference)
    }
}
