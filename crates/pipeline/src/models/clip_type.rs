//! What text encoders that come without a diffusion model are for: ComfyUI's types of them.

use distorch_checkpoint::family::{Family, TextEncoder};
use thiserror::Error;

/// What text encoders are loaded for, by ComfyUI's name: `flux`, `stable_diffusion`, …
///
/// The files say which encoders there are; the type decides only where the same ones serve several families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipType<'a>(pub &'a str);

/// Text encoders of which nothing here makes use together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the text encoders {encoders} are of no model that distorch runs as the type `{kind}`; these are: {known}"
)]
pub struct NoFamily {
    /// The type.
    pub kind: String,
    /// The encoders.
    pub encoders: String,
    /// What there is, in words.
    pub known: String,
}

/// Text encoders that go together.
struct Row {
    /// The types that mean them.
    types: &'static [&'static str],
    /// The encoders; each is there once at most.
    encoders: &'static [&'static str],
    /// Whether some of them are enough.
    some: bool,
    family: Family,
}

/// The first row that fits counts.
const ROWS: &[Row] = &[
    Row {
        types: &["sd3"],
        encoders: &["clip_l", "clip_g", "t5xxl"],
        some: true,
        family: Family::Sd3,
    },
    Row { types: &["flux"], encoders: &["clip_l", "t5xxl"], some: false, family: Family::Flux },
    Row { types: &["lumina2"], encoders: &["qwen3"], some: false, family: Family::ZImage },
    Row { types: &["lumina2"], encoders: &["gemma2"], some: false, family: Family::Lumina2 },
    Row { types: &["flux2"], encoders: &["qwen3"], some: false, family: Family::Flux2 },
    Row { types: &["flux2"], encoders: &["mistral3"], some: false, family: Family::Flux2 },
    Row { types: &["krea2"], encoders: &["qwen3vl"], some: false, family: Family::Krea2 },
    Row { types: &["qwen_image"], encoders: &["qwen25vl"], some: false, family: Family::QwenImage },
    Row {
        types: &["qwen_image"],
        encoders: &["qwen3vl"],
        some: false,
        family: Family::QwenImage21,
    },
    Row { types: &["chroma"], encoders: &["t5xxl"], some: false, family: Family::Chroma },
    Row { types: &SD, encoders: &["clip_l"], some: false, family: Family::Sd1 },
    Row { types: &SD, encoders: &["clip_h"], some: false, family: Family::Sd2 },
    Row { types: &SD, encoders: &["clip_g"], some: false, family: Family::SdxlRefiner },
    Row { types: &SD, encoders: &["clip_l", "clip_g"], some: false, family: Family::SdxlBase },
];

/// The types of CLIP's encoders alone.
const SD: [&str; 2] = ["stable_diffusion", "sdxl"];

impl ClipType<'_> {
    /// The family of diffusion models that text encoders are for.
    ///
    /// # Errors
    /// When nothing here makes use of them together.
    pub fn family(self, encoders: &[TextEncoder]) -> Result<Family, NoFamily> {
        let names: Vec<&str> = encoders.iter().map(|encoder| encoder.name).collect();
        let fits = |row: &&Row| {
            let known = names.iter().all(|name| row.encoders.contains(name));
            let whole = row.some || row.encoders.len() == names.len();
            row.types.contains(&self.0) && known && whole && !names.is_empty()
        };
        let row = ROWS.iter().find(fits).ok_or_else(|| NoFamily {
            kind: self.0.to_owned(),
            encoders: names.join(", "),
            known: known(),
        })?;
        Ok(row.family)
    }
}

/// All rows in words.
fn known() -> String {
    let row = |row: &Row| {
        let more = if row.some { " or some of them" } else { "" };
        format!("{} as {} ({}{more})", row.encoders.join(" + "), row.types.join(" or "), row.family)
    };
    ROWS.iter().map(row).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use distorch_checkpoint::config::{T5Config, TextEncoderConfig};

    use super::*;

    fn encoder(name: &'static str) -> TextEncoder {
        // Only names count.
        let config = T5Config {
            vocab_size: 1,
            width: 1,
            layers: 1,
            heads: 1,
            head_dim: 1,
            intermediate: 1,
            relative_buckets: 1,
        };
        TextEncoder { name, config: TextEncoderConfig::T5(config), vocabulary: None }
    }

    fn family(kind: &str, names: &[&'static str]) -> Option<Family> {
        let encoders: Vec<_> = names.iter().map(|name| encoder(name)).collect();
        ClipType(kind).family(&encoders).ok()
    }

    #[test]
    fn the_type_decides_where_the_encoders_do_not() {
        assert_eq!(family("stable_diffusion", &["clip_l"]), Some(Family::Sd1));
        assert_eq!(family("stable_diffusion", &["clip_h"]), Some(Family::Sd2));
        assert_eq!(family("stable_diffusion", &["clip_g"]), Some(Family::SdxlRefiner));
        assert_eq!(family("sdxl", &["clip_l", "clip_g"]), Some(Family::SdxlBase));
        assert_eq!(family("sd3", &["clip_l", "clip_g"]), Some(Family::Sd3));
        assert_eq!(family("sd3", &["t5xxl"]), Some(Family::Sd3));
        assert_eq!(family("sd3", &["clip_l", "clip_g", "t5xxl"]), Some(Family::Sd3));
        assert_eq!(family("flux", &["clip_l", "t5xxl"]), Some(Family::Flux));
        assert_eq!(family("lumina2", &["qwen3"]), Some(Family::ZImage));
        assert_eq!(family("lumina2", &["gemma2"]), Some(Family::Lumina2));
        assert_eq!(family("flux2", &["qwen3"]), Some(Family::Flux2));
        assert_eq!(family("flux2", &["mistral3"]), Some(Family::Flux2));
        assert_eq!(family("krea2", &["qwen3vl"]), Some(Family::Krea2));
        assert_eq!(family("qwen_image", &["qwen25vl"]), Some(Family::QwenImage));
        assert_eq!(family("qwen_image", &["qwen3vl"]), Some(Family::QwenImage21));
        assert_eq!(family("chroma", &["t5xxl"]), Some(Family::Chroma));
        assert_eq!(family("flux", &["clip_l"]), None);
        assert_eq!(family("wan", &["t5xxl"]), None);
    }

    #[test]
    fn what_is_not_there_is_an_error_with_what_is() {
        let error = ClipType("wan").family(&[encoder("t5xxl")]).unwrap_err().to_string();
        assert!(error.contains("t5xxl are of no model"), "{error}");
        assert!(error.contains("clip_l + t5xxl as flux (Flux)"), "{error}");
    }
}
