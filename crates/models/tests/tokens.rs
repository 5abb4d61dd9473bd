//! Token ids against transformers' `CLIPTokenizer`; `tools/reference/make_tokens.py` made the
//! fixture.

use std::io::Read;

use distorch_models::prompt::tokenizer::tokenize;

#[test]
fn ids_are_those_of_transformers() {
    let file = include_bytes!("fixtures/tokens.json.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&file[..]).read_to_string(&mut text).unwrap();
    let cases: Vec<(String, Vec<u32>)> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 400);
    let wrong: Vec<_> = cases
        .iter()
        .map(|(prompt, expected)| (prompt, expected, tokenize(prompt)))
        .filter(|(_, expected, actual)| *expected != actual)
        .collect();
    for (prompt, expected, actual) in &wrong {
        eprintln!("{prompt:?}\n  expected {expected:?}\n  got      {actual:?}");
    }
    assert!(wrong.is_empty(), "{} of {} prompts differ", wrong.len(), cases.len());
}
