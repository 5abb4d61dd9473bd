//! CLIP's byte-pair tokenizer: text to token ids.
//!
//! The vocabulary and the merges come from `instant-clip-tokenizer`. Around it stands what
//! `transformers`' `CLIPTokenizer` does before the merges: Unicode NFC, lower case by character,
//! the split into words, and the two special tokens by their names. OpenAI's own tokenizer also
//! mends broken Unicode and unescapes HTML entities; this one leaves both as they are, as
//! `transformers` does.

use std::sync::LazyLock;

use instant_clip_tokenizer::Tokenizer;
use regex::Regex;
use unicode_normalization::UnicodeNormalization;

/// The token that starts every text: `<|startoftext|>`.
pub const START: u32 = 49406;

/// The token that ends every text: `<|endoftext|>`. It is the highest id.
pub const END: u32 = 49407;

/// The special tokens and their names in a text.
const SPECIAL: [(&str, u32); 2] = [("<|startoftext|>", START), ("<|endoftext|>", END)];

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::new);

/// English contractions, runs of letters, single digits, runs of anything else but white space.
static WORDS: LazyLock<Result<Regex, regex::Error>> =
    LazyLock::new(|| Regex::new(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"));

/// The token ids of a text, without the start and end tokens.
pub fn tokenize(text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = text;
    while let Some((at, name, id)) = first_special(rest) {
        tokenize_plain(&rest[..at], &mut ids);
        ids.push(id);
        rest = &rest[at + name.len()..];
    }
    tokenize_plain(rest, &mut ids);
    ids
}

/// The first special token of the text: where it is, its name and its id.
fn first_special(text: &str) -> Option<(usize, &'static str, u32)> {
    SPECIAL
        .iter()
        .filter_map(|&(name, id)| text.find(name).map(|at| (at, name, id)))
        .min_by_key(|&(at, ..)| at)
}

fn tokenize_plain(text: &str, ids: &mut Vec<u32>) {
    let Ok(words) = WORDS.as_ref() else { return };
    // By character, so that a final sigma is lowered as any other.
    let text: String = text.nfc().flat_map(char::to_lowercase).collect();
    let mut tokens = Vec::new();
    for word in words.find_iter(&text) {
        // Word by word, since the crate has special tokens of other names, which are text here.
        TOKENIZER.encode(word.as_str(), &mut tokens);
    }
    ids.extend(tokens.into_iter().map(|token| u32::from(token.to_u16())));
}
