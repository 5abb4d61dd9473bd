//! The size of the pictures that a model was trained on, where its file says so.

use indexmap::IndexMap;

/// Keys of safetensors metadata that hold it, the first that can be read counts: that of the ModelSpec
/// standard, `1024x1024`, and that of kohya's trainer, `(1024, 1024)` or `512`.
const KEYS: [&str; 2] = ["modelspec.resolution", "ss_resolution"];

/// Sides that are believed, in pixels.
const SIDES: std::ops::RangeInclusive<u32> = 64..=4096;

/// Pixels of the picture to one of the latent: sides are multiples of it.
const CELL: u32 = 8;

/// Width and height in pixels of the pictures that a model was trained on, as its metadata tell; `None`
/// where they don't, or tell something that cannot be a picture.
pub fn trained_resolution(metadata: &IndexMap<String, String>) -> Option<[u32; 2]> {
    KEYS.iter().find_map(|&key| size(metadata.get(key)?))
}

/// Reads `1024x768`, `1024, 768`, with or without brackets, or one number for both sides.
fn size(text: &str) -> Option<[u32; 2]> {
    let text = text.trim().trim_matches(['(', ')', '[', ']']).to_lowercase();
    let sides: Vec<u32> = text
        .split(['x', '×', ','])
        .map(|side| side.trim().parse().ok().filter(|side| SIDES.contains(side)))
        .collect::<Option<_>>()?;
    let cells = |side: u32| side / CELL * CELL;
    match sides[..] {
        [side] => Some([cells(side); 2]),
        [width, height] => Some([cells(width), cells(height)]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Option<[u32; 2]> {
        trained_resolution(&pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    #[test]
    fn both_keys_in_every_form() {
        for (text, size) in [
            ("1024x1024", [1024, 1024]),
            (" 768X1344 ", [768, 1344]),
            ("512 × 768", [512, 768]),
            ("(1024, 1024)", [1024, 1024]),
            ("640,512", [640, 512]),
            ("[512, 640]", [512, 640]),
            ("512", [512, 512]),
            ("1001x999", [1000, 992]),
        ] {
            assert_eq!(of(&[("modelspec.resolution", text)]), Some(size), "{text}");
            assert_eq!(of(&[("ss_resolution", text)]), Some(size), "{text}");
        }
        let both = [("ss_resolution", "512"), ("modelspec.resolution", "1024x1024")];
        assert_eq!(of(&both), Some([1024, 1024]));
        let unreadable = [("ss_resolution", "512"), ("modelspec.resolution", "large")];
        assert_eq!(of(&unreadable), Some([512, 512]));
    }

    #[test]
    fn what_is_no_size_is_none() {
        let texts = ["", "x", "0x0", "8x8", "1024x", "1x2x3", "-512", "99999x99999", "5e2", "None"];
        for text in texts {
            assert_eq!(of(&[("modelspec.resolution", text)]), None, "{text}");
        }
        assert_eq!(of(&[("resolution", "512")]), None);
    }
}
