//! Token ids of the texts of `tools/reference/make_qwen_tokens.py`, which every tokenizer here is compared with others' on.

use std::io::Read;

use distorch_test_support::seeded::fnv1a64;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What a packed file of JSON says.
pub fn unpacked<T: DeserializeOwned>(file: &[u8]) -> T {
    let mut json = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut json).unwrap();
    serde_json::from_str(&json).unwrap()
}

/// The texts, each with its ids by Qwen's tokenizer; the last one is a prompt, whose ids are those of a chat.
pub fn texts() -> Vec<(String, Value)> {
    unpacked(include_bytes!("../fixtures/qwen_tokens.json.gz"))
}

/// Cuts texts and compares the ids, or their hash where the file has that. `of` says whose they are.
pub fn check<'a>(
    of: &str,
    cases: impl IntoIterator<Item = (&'a String, &'a Value)>,
    tokenize: impl Fn(&str) -> Vec<u32>,
) {
    let (mut wrong, mut all) = (0, 0);
    for (text, expected) in cases {
        let ids = tokenize(text);
        let found = match expected {
            Value::Array(_) => Value::from(ids.clone()),
            _ => {
                let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
                Value::from(fnv1a64(&bytes).to_string())
            }
        };
        all += 1;
        if found != *expected {
            wrong += 1;
            eprintln!("{of}: {text:?}\n  expected {expected}\n  got      {ids:?}");
        }
    }
    assert_eq!(wrong, 0, "of {all} texts, {of}");
}
