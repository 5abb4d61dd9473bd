//! T5's tokenizer: text to token ids, by the scores of pieces (Kudo, <https://arxiv.org/abs/1804.10959>).
//!
//! What is done to a text is what the `tokenizer.json` of T5 v1.1 that comes with SD3 and Flux says:
//! special tokens are taken out by their names; what is between is normalised by the vocabulary's own rules
//! (NFKC, and blanks of all kinds to spaces), loses blanks at its end, and is cut before each run of blanks,
//! which the character `▁` stands for. It stands before the text's first word, too.

use std::io::Read;
use std::sync::{Arc, LazyLock};

use super::charsmap::Charsmap;
use super::spiece::{BLANK, Blanks, SpieceAlgorithm, SpieceError, SpieceModel};
use super::unigram::Unigram;
use flate2::read::GzDecoder;

/// The name of the token that ends every text.
const END: &str = "</s>";

/// The names of the other special tokens that a vocabulary may hold.
const SPECIAL: [&str; 2] = ["<pad>", "<unk>"];

/// The tokens `<extra_id_0>`, `<extra_id_1>`, … that follow the vocabulary, from last to first.
const EXTRA: usize = 100;

/// Rows of T5's token table.
const ROWS: usize = 32128;

/// The vocabulary of T5 and T5 v1.1; see the notice beside it.
const VOCABULARY: &[u8] = include_bytes!("../../data/t5/spiece.model.gz");

/// Why there is no tokenizer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The vocabulary is not one of SentencePiece's that its text encoder reads.
    #[error(transparent)]
    Vocabulary(#[from] SpieceError),
    /// The vocabulary is not one of Mistral's.
    #[error("it is no `tekken.json` that can be used: {problem}")]
    Tekken {
        /// What is wrong with it.
        problem: String,
    },
    /// The vocabulary of Qwen that comes with the program is of no use.
    #[error("the vocabulary of Qwen that comes with the program is damaged: {problem}")]
    Damaged {
        /// What is wrong with it.
        problem: String,
    },
    /// The program's own vocabulary could not be unpacked.
    #[error("the vocabulary of T5 that comes with the program cannot be unpacked: {0}")]
    Unpack(Arc<std::io::Error>),
}

/// A T5 tokenizer.
pub struct T5Tokenizer {
    charsmap: Charsmap,
    unigram: Unigram,
    /// Special tokens by their names.
    special: Vec<(String, u32)>,
    end: u32,
    ids: usize,
}

impl T5Tokenizer {
    /// The tokenizer of T5 and T5 v1.1.
    ///
    /// # Errors
    /// Only where the program was built with a damaged vocabulary.
    pub fn standard() -> Result<Arc<Self>, TokenizerError> {
        static STANDARD: LazyLock<Result<Arc<T5Tokenizer>, TokenizerError>> = LazyLock::new(|| {
            let mut bytes = Vec::new();
            let read = GzDecoder::new(VOCABULARY).read_to_end(&mut bytes);
            read.map_err(|error| TokenizerError::Unpack(error.into()))?;
            T5Tokenizer::from_spiece(&bytes, ROWS).map(Arc::new)
        });
        STANDARD.clone()
    }

    /// The tokenizer of a SentencePiece model, such as model files hold under `spiece_model`, for a token table of
    /// `rows` rows: `<extra_id_…>` are tokens where it has room for them.
    ///
    /// # Errors
    /// When the bytes are no Unigram model of T5's kind with an end token.
    pub fn from_spiece(bytes: &[u8], rows: usize) -> Result<Self, TokenizerError> {
        let SpieceModel { algorithm, mut pieces, unknown, byte_fallback, charsmap, blanks, .. } =
            SpieceModel::parse(bytes)?;
        if algorithm != SpieceAlgorithm::Unigram {
            let problem = "T5's kind: its pieces are not chosen by their scores (Unigram)";
            return Err(SpieceError::Kind(problem).into());
        }
        if blanks != Blanks::USUAL {
            return Err(SpieceError::Kind("T5's kind: it treats blanks otherwise").into());
        }
        let charsmap = Charsmap::parse(&charsmap)?;
        let extra = if pieces.len() + EXTRA <= rows { EXTRA } else { 0 };
        pieces.extend((0..extra).rev().map(|extra| (format!("<extra_id_{extra}>"), 0.0)));
        let ids = pieces.len();
        let names = SPECIAL.into_iter().chain([END]).map(str::to_owned);
        let extra = pieces[ids - extra..].iter().map(|(name, _)| name.clone());
        let names: Vec<String> = names.chain(extra).collect();
        let unigram = Unigram::new(pieces, unknown, byte_fallback);
        let special = names.into_iter().filter_map(|name| Some((unigram.id(&name)?, name)));
        let special: Vec<_> = special.map(|(id, name)| (name, id)).collect();
        let end = unigram.id(END).ok_or(SpieceError::Missing(END))?;
        Ok(Self { charsmap, unigram, special, end, ids })
    }

    /// The id of the token that ends every text.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// How many ids there are, those of `<extra_id_…>` included.
    pub fn ids(&self) -> usize {
        self.ids
    }

    /// The token ids of a text, without the end token.
    pub fn tokenize(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut start = 0;
        for (at, _) in text.match_indices('<') {
            // Not within the name of the one before.
            let rest = text.get(at..).filter(|_| at >= start).unwrap_or_default();
            if let Some((name, id)) = self.special.iter().find(|(name, _)| rest.starts_with(name)) {
                self.tokenize_plain(&text[start..at], start == 0, &mut ids);
                ids.push(*id);
                start = at + name.len();
            }
        }
        self.tokenize_plain(&text[start..], start == 0, &mut ids);
        ids
    }

    /// The ids of a text between special tokens.
    fn tokenize_plain(&self, text: &str, is_first: bool, ids: &mut Vec<u32>) {
        let text = self.charsmap.normalise(text);
        let mut marked = String::with_capacity(text.len() + BLANK.len_utf8());
        let mut was_space = false;
        for c in text.trim_end().chars() {
            let is_space = c == ' ';
            match (is_space, was_space) {
                (false, _) => marked.push(c),
                (true, false) => marked.push(BLANK),
                (true, true) => {}
            }
            was_space = is_space;
        }
        if is_first && !marked.is_empty() && !marked.starts_with(BLANK) {
            marked.insert(0, BLANK);
        }
        let mut start = 0;
        for (at, _) in marked.match_indices(BLANK).filter(|(at, _)| *at > 0) {
            self.unigram.cut(&marked[start..at], ids);
            start = at;
        }
        self.unigram.cut(&marked[start..], ids);
    }
}

#[cfg(test)]
mod tests {
    use super::super::spiece::written;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_vocabulary_is_t5s() {
        let tokenizer = T5Tokenizer::standard().unwrap();
        assert_eq!((tokenizer.end(), tokenizer.ids()), (1, 32100));
        let ids = |text| tokenizer.tokenize(text);
        assert_eq!(ids("a photo of a cat"), [3, 9, 1202, 13, 3, 9, 1712]);
        assert_eq!(ids("  a  cat \n"), [3, 9, 1712]);
        assert_eq!(ids("<extra_id_0> a</s>"), [32099, 3, 9, 1]);
        assert!(ids("").is_empty() && ids(" \n").is_empty());
    }

    /// Of two ways to cut a word the one with the higher sum of scores; what no piece covers is unknown.
    #[test]
    fn pieces_are_chosen_by_their_scores() {
        let pieces = [
            ("<pad>", 0.0, 3),
            ("</s>", 0.0, 3),
            ("<unk>", 0.0, 2),
            ("▁", -1.0, 1),
            ("▁ab", -3.0, 1),
            ("a", -1.0, 1),
            ("b", -0.5, 1),
            ("ab", -1.75, 1),
        ];
        let tokenizer = T5Tokenizer::from_spiece(&written(&pieces, 1, b""), 8).unwrap();
        // ▁ a b: -2.5; ▁ ab: -2.75; ▁ab: -3.
        assert_eq!(tokenizer.tokenize("ab"), [3, 5, 6]);
        assert_eq!(tokenizer.tokenize("aab xy b"), [3, 5, 5, 6, 3, 2, 3, 6]);
        assert_eq!((tokenizer.end(), tokenizer.ids()), (1, 8));
        let without_end = T5Tokenizer::from_spiece(&written(&pieces[2..], 1, b""), 8);
        assert!(without_end.err().unwrap().to_string().contains("</s>"));
        let pairs = T5Tokenizer::from_spiece(&written(&pieces, 2, b""), 8);
        assert!(pairs.err().unwrap().to_string().contains("Unigram"));
        // `add_dummy_prefix: false`.
        let mut without_prefix = written(&pieces, 1, b"");
        without_prefix.extend([3 << 3 | 2, 2, 3 << 3, 0]);
        let without_prefix = T5Tokenizer::from_spiece(&without_prefix, 8);
        assert!(without_prefix.err().unwrap().to_string().contains("blanks"));
    }

    proptest! {
        #[test]
        fn any_text_is_cut(text in "(.|\\s|<pad>|</s>|▁| ){0,40}") {
            let tokenizer = T5Tokenizer::standard().unwrap();
            let ids = tokenizer.tokenize(&text);
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.ids()));
        }
    }
}
