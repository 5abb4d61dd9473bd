//! SentencePiece's model files (Kudo & Richardson, <https://arxiv.org/abs/1808.06226>): a protocol buffer
//! with a vocabulary and the rules by which text is normalised before it is cut into pieces.
//!
//! Fields and their numbers are those of SentencePiece's `sentencepiece_model.proto`; fields that T5's
//! tokenizer does not depend on are passed over.

use super::protobuf::{Damaged, Fields, Value};

/// Bytes of a file at most; the largest in use have 5 MB.
const MOST_BYTES: usize = 16 << 20;

/// Bytes of all pieces at most; 250,000 of them have 2 MB.
const MOST_PIECE_BYTES: usize = 4 << 20;

/// Bytes of a piece at most; the longest in use have 48.
const LONGEST_PIECE: usize = 512;

/// `ModelProto.TrainerSpec.ModelType.UNIGRAM`.
const UNIGRAM: u64 = 1;

/// `ModelProto.SentencePiece.Type.NORMAL`.
const NORMAL: u64 = 1;

/// `ModelProto.SentencePiece.Type.UNKNOWN`.
const UNKNOWN: u64 = 2;

/// Why a SentencePiece model cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpieceError {
    /// The file is no SentencePiece model, or a damaged one.
    #[error("it cannot be read as a SentencePiece model: it ends early or is damaged")]
    Format,
    /// The file is larger than any that is in use.
    #[error("it has {found} bytes of {what}, and at most {limit} are read")]
    Size {
        /// Bytes of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many are read.
        limit: usize,
    },
    /// The model is of a kind that T5 does not use.
    #[error("it is no model of T5's kind: {0}")]
    Kind(&'static str),
    /// A piece that cannot be.
    #[error("its piece {index} {problem}")]
    Piece {
        /// Which piece.
        index: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A piece that has to be there.
    #[error("it has no piece {0}")]
    Missing(&'static str),
    /// The rules for normalising text are damaged.
    #[error("its rules for normalising text are damaged: {0}")]
    Charsmap(&'static str),
}

impl From<Damaged> for SpieceError {
    fn from(_: Damaged) -> Self {
        Self::Format
    }
}

/// A vocabulary of pieces with their scores (Kudo, <https://arxiv.org/abs/1804.10959>), and how text is
/// normalised.
#[derive(Clone, Debug)]
pub struct SpieceModel {
    /// Pieces by their ids, with logarithms of their probabilities.
    pub pieces: Vec<(String, f64)>,
    /// The id of what no piece covers.
    pub unknown: usize,
    /// Whether what no piece covers is written byte by byte where there are pieces for that.
    pub byte_fallback: bool,
    /// The rules of normalising in SentencePiece's form; empty for none.
    pub charsmap: Vec<u8>,
}

/// What of a model file is looked at.
#[derive(Default)]
struct Header<'a> {
    model_type: Option<u64>,
    byte_fallback: bool,
    charsmap: &'a [u8],
    /// Whether blanks are treated otherwise than T5's model treats them.
    other_blanks: bool,
}

impl<'a> Header<'a> {
    fn read_trainer(&mut self, message: &'a [u8]) -> Result<(), Damaged> {
        for field in Fields::of(message) {
            match field? {
                (3, Value::Number(kind)) => self.model_type = Some(kind),
                // Whether `▁` stands behind words.
                (24, Value::Number(1..)) => self.other_blanks = true,
                (35, Value::Number(fallback)) => self.byte_fallback = fallback != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normaliser(&mut self, message: &'a [u8]) -> Result<(), Damaged> {
        for field in Fields::of(message) {
            match field? {
                (2, Value::Bytes(charsmap)) => self.charsmap = charsmap,
                // Whether `▁` stands before a text, runs of blanks are one, and blanks are written as `▁`.
                (3..=5, Value::Number(0)) => self.other_blanks = true,
                _ => {}
            }
        }
        Ok(())
    }
}

/// A piece as it is written.
struct Piece<'a> {
    text: &'a [u8],
    score: f32,
    kind: u64,
}

impl<'a> Piece<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Damaged> {
        let mut piece = Self { text: b"", score: 0.0, kind: NORMAL };
        for field in Fields::of(message) {
            match field? {
                (1, Value::Bytes(text)) => piece.text = text,
                (2, Value::Four(score)) => piece.score = f32::from_le_bytes(score),
                (3, Value::Number(kind)) => piece.kind = kind,
                _ => {}
            }
        }
        Ok(piece)
    }
}

impl SpieceModel {
    /// Reads a SentencePiece model.
    ///
    /// # Errors
    /// When it is damaged or too large, or not a Unigram model that treats blanks as T5's does.
    pub fn parse(bytes: &[u8]) -> Result<Self, SpieceError> {
        fits("data", bytes.len(), MOST_BYTES)?;
        let mut header = Header::default();
        let mut pieces = Vec::new();
        let mut unknown = None;
        let mut piece_bytes = 0;
        for field in Fields::of(bytes) {
            match field? {
                (1, Value::Bytes(message)) => {
                    let piece = Piece::read(message)?;
                    let problem = |problem| SpieceError::Piece { index: pieces.len(), problem };
                    if piece.kind == UNKNOWN && unknown.is_none() {
                        unknown = Some(pieces.len());
                    }
                    if !(1..=LONGEST_PIECE).contains(&piece.text.len()) {
                        return Err(problem("is empty, or longer than any in use"));
                    }
                    if !piece.score.is_finite() {
                        return Err(problem("has no finite score"));
                    }
                    let text = str::from_utf8(piece.text).map_err(|_| problem("is no UTF-8"))?;
                    piece_bytes += text.len();
                    fits("pieces", piece_bytes, MOST_PIECE_BYTES)?;
                    pieces.push((text.to_owned(), f64::from(piece.score)));
                }
                (2, Value::Bytes(message)) => header.read_trainer(message)?,
                (3, Value::Bytes(message)) => header.read_normaliser(message)?,
                _ => {}
            }
        }
        if header.model_type.is_some_and(|kind| kind != UNIGRAM) {
            return Err(SpieceError::Kind("its pieces are not chosen by their scores (Unigram)"));
        }
        if header.other_blanks {
            return Err(SpieceError::Kind("it treats blanks otherwise"));
        }
        Ok(Self {
            pieces,
            unknown: unknown.ok_or(SpieceError::Missing("for what is unknown"))?,
            byte_fallback: header.byte_fallback,
            charsmap: header.charsmap.to_vec(),
        })
    }
}

fn fits(what: &'static str, found: usize, limit: usize) -> Result<(), SpieceError> {
    if found > limit { Err(SpieceError::Size { what, found, limit }) } else { Ok(()) }
}

/// A model file with these pieces (text, score, type) and rules, for tests.
#[cfg(test)]
pub(crate) fn written(pieces: &[(&str, f32, u8)], model_type: u8, charsmap: &[u8]) -> Vec<u8> {
    fn message(number: u8, content: &[u8], out: &mut Vec<u8>) {
        out.push(number << 3 | 2);
        let mut length = content.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend(content);
    }
    let mut file = Vec::new();
    for (text, score, kind) in pieces {
        let mut piece = Vec::new();
        message(1, text.as_bytes(), &mut piece);
        piece.push(2 << 3 | 5);
        piece.extend(score.to_le_bytes());
        piece.extend([3 << 3, *kind]);
        message(1, &piece, &mut file);
    }
    message(2, &[3 << 3, model_type], &mut file);
    let mut normaliser = Vec::new();
    message(2, charsmap, &mut normaliser);
    message(3, &normaliser, &mut file);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PIECES: [(&str, f32, u8); 3] = [("<unk>", 0.0, 2), ("</s>", 0.0, 3), ("▁a", -1.5, 1)];

    #[test]
    fn a_model_is_read() {
        let model = SpieceModel::parse(&written(&PIECES, 1, b"rules")).unwrap();
        let pieces = PIECES.map(|(piece, score, _)| (piece.to_owned(), f64::from(score)));
        assert_eq!(model.pieces, pieces);
        assert_eq!((model.unknown, model.byte_fallback), (0, false));
        assert_eq!(model.charsmap, b"rules");
    }

    #[test]
    fn models_of_other_kinds_are_errors() {
        let error = |bytes: &[u8]| SpieceModel::parse(bytes).unwrap_err().to_string();
        assert!(error(&written(&PIECES, 2, b"")).contains("Unigram"));
        assert!(error(&written(&PIECES[1..], 1, b"")).contains("unknown"));
        assert!(error(&written(&[("<unk>", 0.0, 2), ("", 0.0, 1)], 1, b"")).contains("piece 1"));
        let endless = [("<unk>", 0.0, 2), ("a", f32::NAN, 1)];
        assert!(error(&written(&endless, 1, b"")).contains("finite"));
        let long = "a".repeat(LONGEST_PIECE + 1);
        assert!(error(&written(&[("<unk>", 0.0, 2), (&long, 0.0, 1)], 1, b"")).contains("longer"));
        let many = vec![(&long[1..], 0.0, 1); MOST_PIECE_BYTES / LONGEST_PIECE + 1];
        assert!(error(&written(&many, 1, b"")).contains("bytes of pieces"));
        assert!(error(&vec![0; MOST_BYTES + 1]).contains("at most"));
        assert!(error(b"\x0a\xff").contains("cannot be read"));
        assert!(error(b"\x0a\x03\x0a\x01\xff").contains("UTF-8"));
        // `add_dummy_prefix: false`.
        let mut without_prefix = written(&PIECES, 1, b"");
        without_prefix.extend([3 << 3 | 2, 2, 3 << 3, 0]);
        assert!(error(&without_prefix).contains("blanks"));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            end in any::<prop::sample::Index>(),
        ) {
            let mut bytes = written(&PIECES, 1, b"rules");
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = SpieceModel::parse(&bytes);
            let _ = SpieceModel::parse(&bytes[..end.index(bytes.len())]);
        }
    }
}
