//! The text of a workflow file: what programs write that is not quite JSON in UTF-8.

use std::borrow::Cow;

use crate::graph::PromptError;

/// The text of a file: UTF-8, or the UTF-16 that Windows PowerShell writes, with or without a
/// byte-order mark.
///
/// # Errors
/// When the bytes are neither.
pub fn decode(bytes: &[u8]) -> Result<String, PromptError> {
    let wide = match bytes {
        [0xff, 0xfe, rest @ ..] => Some((rest, u16::from_le_bytes as fn([u8; 2]) -> u16)),
        [0xfe, 0xff, rest @ ..] => Some((rest, u16::from_be_bytes as fn([u8; 2]) -> u16)),
        // Without a mark: JSON begins with an ASCII character.
        [first, 0, ..] if *first != 0 => Some((bytes, u16::from_le_bytes as _)),
        [0, second, ..] if *second != 0 => Some((bytes, u16::from_be_bytes as _)),
        _ => None,
    };
    let Some((bytes, unit)) = wide else {
        let text = std::str::from_utf8(bytes).map_err(|error| PromptError::Text(error.to_string()));
        return text.map(|text| without_mark(text).to_owned());
    };
    let (pairs, rest) = bytes.as_chunks::<2>();
    let text = char::decode_utf16(pairs.iter().map(|pair| unit(*pair))).collect::<Result<_, _>>();
    match text {
        Ok(text) if rest.is_empty() => Ok(text),
        Ok(_) => Err(PromptError::Text("UTF-16 with half a character at the end".to_owned())),
        Err(error) => Err(PromptError::Text(error.to_string())),
    }
}

/// A text without its byte-order mark.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// JSON with null for NaN, Infinity and -Infinity, which Python writes and JSON has not.
pub fn without_non_finite(text: &str) -> Cow<'_, str> {
    let mut result: Option<String> = None;
    let mut copied = 0;
    let mut in_string = false;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => _ = bytes.next(),
            b'N' | b'I' | b'-' if !in_string => {
                let rest = text.get(at..).unwrap_or_default();
                let word = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| {
                    let after = rest.strip_prefix(word).map(|after| after.bytes().next());
                    after.is_some_and(|next| !next.is_some_and(is_of_word))
                });
                let before = at.checked_sub(1).and_then(|before| text.as_bytes().get(before));
                if let Some(word) = word
                    && !before.copied().is_some_and(is_of_word)
                {
                    let result = result.get_or_insert_with(String::new);
                    *result += text.get(copied..at).unwrap_or_default();
                    *result += "null";
                    copied = at + word.len();
                    // The word's own letters begin no other.
                    _ = bytes.nth(word.len() - 2);
                }
            }
            _ => {}
        }
    }
    match result {
        Some(result) => Cow::Owned(result + text.get(copied..).unwrap_or_default()),
        None => Cow::Borrowed(text),
    }
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'+') || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;

    #[test]
    fn marks_and_wide_characters_are_read() {
        let text = r#"{"a": "ä😀"}"#;
        let wide = |unit: fn(u16) -> [u8; 2], mark: &str| {
            format!("{mark}{text}").encode_utf16().flat_map(unit).collect::<Vec<u8>>()
        };
        for bytes in [
            text.as_bytes().to_vec(),
            format!("\u{feff}{text}").into_bytes(),
            wide(u16::to_le_bytes, "\u{feff}"),
            wide(u16::to_be_bytes, "\u{feff}"),
            wide(u16::to_le_bytes, ""),
            wide(u16::to_be_bytes, ""),
        ] {
            assert_eq!(decode(&bytes).unwrap(), text, "{bytes:?}");
        }
        assert!(decode(b"{\"a\": \"\xff\"}").is_err());
        assert!(decode(&[0xff, 0xfe, 0x7b]).is_err(), "half a character");
        assert!(decode(&[0xff, 0xfe, 0x00, 0xd8]).is_err(), "half a pair");
        assert_eq!(decode(b"").unwrap(), "");
    }

    #[test]
    fn what_is_not_finite_is_null() {
        let text =
            r#"{"a": [NaN, -Infinity,Infinity], "NaN": "a NaN \" Infinity", "b": -1, "c":NaN}"#;
        let read: Json = serde_json::from_str(&without_non_finite(text)).unwrap();
        let expected =
            json!({"a": [null, null, null], "NaN": "a NaN \" Infinity", "b": -1, "c": null});
        assert_eq!(read, expected);
        for text in ["{\"a\": NaNs}", "{\"a\": xNaN}", "{\"a\": --Infinity}", "{\"a\": \"NaN"] {
            assert_eq!(without_non_finite(text), text);
        }
        assert_eq!(without_non_finite("NaN"), "null");
    }

    proptest! {
        /// JSON stays as it is.
        #[test]
        fn json_stays(texts in prop::collection::vec("[NaInfity\"\\\\ -]{0,12}", 0..4), number: f64) {
            let text = json!({"a": texts, "b": number}).to_string();
            prop_assert_eq!(&*without_non_finite(&text), &*text);
        }

        #[test]
        fn any_text_is_answered(text in ".{0,40}", bytes: Vec<u8>) {
            let _ = without_non_finite(&text);
            let _ = decode(&bytes);
        }
    }
}
