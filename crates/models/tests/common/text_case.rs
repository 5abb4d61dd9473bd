//! The text encoders of `tests/fixtures/text.safetensors`, with what transformers and diffusers make of prompts.

use distorch_checkpoint::config::{ClipConfig, T5Config, TextEncoderConfig};
use distorch_checkpoint::family::TextEncoder;
use distorch_runtime::{DType, Scope, Tensor};

use super::fixture::Fixture;
use super::{max_error, values};

pub struct Case {
    pub fixture: Fixture,
    pub encoders: Vec<TextEncoder>,
}

impl Case {
    pub fn load() -> Self {
        let fixture = Fixture::open("text.safetensors");
        let configs: Vec<(String, TextEncoderConfig)> =
            serde_json::from_value(fixture.json("encoders")).unwrap();
        let encoder = |(name, config): (String, TextEncoderConfig)| {
            let names = ["clip_l", "clip_g", "t5xxl"];
            let name = names.into_iter().find(|known| *known == name).unwrap();
            TextEncoder { name, config, vocabulary: None }
        };
        let encoders = configs.into_iter().map(encoder).collect();
        Self { fixture, encoders }
    }

    pub fn scope(&self, dtype: DType) -> Scope {
        self.fixture.component(dtype)
    }

    /// Some of the encoders.
    pub fn only(&self, names: &[&str]) -> Vec<TextEncoder> {
        self.encoders.iter().filter(|encoder| names.contains(&encoder.name)).cloned().collect()
    }

    pub fn clip(&self, name: &str) -> ClipConfig {
        match self.only(&[name]).remove(0).config {
            TextEncoderConfig::Clip(config) => config,
            _ => unreachable!("{name} is no CLIP"),
        }
    }

    pub fn t5(&self) -> T5Config {
        match self.only(&["t5xxl"]).remove(0).config {
            TextEncoderConfig::T5(config) => config,
            _ => unreachable!("T5 is another"),
        }
    }

    pub fn prompts(&self) -> Vec<String> {
        serde_json::from_value(self.fixture.json("prompts")).unwrap()
    }

    /// How far a result is from the fixture's.
    #[track_caller]
    pub fn error<const D: usize>(&self, actual: &Tensor<D>, key: &str) -> f32 {
        let (shape, reference) = self.fixture.tensor(key);
        assert_eq!(actual.dims().to_vec(), shape, "{key}");
        max_error(&values(actual), &reference)
    }
}
