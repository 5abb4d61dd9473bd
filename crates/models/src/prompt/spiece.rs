//! SentencePiece's model files (Kudo & Richardson, <https://arxiv.org/abs/1808.06226>): a protocol buffer
//! with a vocabulary and the rules by which text is normalised before it is cut into pieces.
//!
//! Fields and their numbers are those of SentencePiece's `sentencepiece_model.proto`; fields that the
//! tokenizers here do not depend on are passed over.

use super::protobuf::{Damaged, Fields, Value};

/// Bytes of a file at most; the largest in use have 5 MB.
const MOST_BYTES: usize = 16 << 20;

/// Bytes of all pieces at most; 250,000 of them have 2 MB.
const MOST_PIECE_BYTES: usize = 4 << 20;

/// Bytes of a piece at most; the longest in use have 48.
const LONGEST_PIECE: usize = 512;

/// What a text starts with where a file does not say it.
const BEGINNING: &str = "<s>";

/// What stands for a blank in pieces.
pub(super) const BLANK: char = '▁';

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
    /// The model is of a kind that its text encoder does not use.
    #[error("it is no model of {0}")]
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

/// How a text is cut into pieces: `ModelProto.TrainerSpec.ModelType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpieceAlgorithm {
    /// So that the sum of the scores is the highest (Kudo, <https://arxiv.org/abs/1804.10959>).
    Unigram,
    /// By joining neighbours, those of the highest score first (Sennrich et al., <https://arxiv.org/abs/1508.07909>).
    Bpe,
    /// Into words or characters.
    Other,
}

/// What a piece is for: `ModelProto.SentencePiece.Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// Text.
    Normal,
    /// What no piece covers.
    Unknown,
    /// A mark that no text makes.
    Control,
    /// Text that is taken out before anything is joined.
    UserDefined,
    /// Text that is cut again where it was joined.
    Unused,
    /// A byte of what no piece covers.
    Byte,
}

impl PieceKind {
    fn read(number: u64) -> Option<Self> {
        Some(match number {
            1 => PieceKind::Normal,
            2 => PieceKind::Unknown,
            3 => PieceKind::Control,
            4 => PieceKind::UserDefined,
            5 => PieceKind::Unused,
            6 => PieceKind::Byte,
            _ => return None,
        })
    }
}

/// How blanks are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blanks {
    /// Whether one is put before every text.
    pub before_text: bool,
    /// Whether those at both ends are left out, and runs of them are one.
    pub single: bool,
    /// Whether they are written as `▁`, before what they are before.
    pub marked: bool,
}

impl Blanks {
    /// As a file means where it says nothing of them, and as T5 has it.
    pub const USUAL: Self = Self { before_text: true, single: true, marked: true };
}

/// A vocabulary of pieces with their scores, and how text is normalised.
#[derive(Clone, Debug)]
pub struct SpieceModel {
    /// How a text is cut into pieces.
    pub algorithm: SpieceAlgorithm,
    /// Pieces by their ids, with their scores.
    pub pieces: Vec<(String, f64)>,
    /// What each of them is for.
    pub kinds: Vec<PieceKind>,
    /// The id of what no piece covers.
    pub unknown: usize,
    /// The piece that begins a text.
    pub beginning: String,
    /// How blanks are treated.
    pub blanks: Blanks,
    /// Whether what no piece covers is written byte by byte where there are pieces for that.
    pub byte_fallback: bool,
    /// The rules of normalising in SentencePiece's form; empty for none.
    pub charsmap: Vec<u8>,
}

/// What of a model file is looked at.
struct Header<'a> {
    algorithm: SpieceAlgorithm,
    byte_fallback: bool,
    beginning: &'a [u8],
    charsmap: &'a [u8],
    blanks: Blanks,
}

impl<'a> Header<'a> {
    fn read_trainer(&mut self, message: &'a [u8]) -> Result<(), Damaged> {
        for field in Fields::of(message) {
            match field? {
                (3, Value::Number(1)) => self.algorithm = SpieceAlgorithm::Unigram,
                (3, Value::Number(2)) => self.algorithm = SpieceAlgorithm::Bpe,
                (3, Value::Number(_)) => self.algorithm = SpieceAlgorithm::Other,
                // Whether `▁` stands behind words.
                (24, Value::Number(1..)) => self.blanks.marked = false,
                (35, Value::Number(fallback)) => self.byte_fallback = fallback != 0,
                (46, Value::Bytes(piece)) => self.beginning = piece,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normaliser(&mut self, message: &'a [u8]) -> Result<(), Damaged> {
        for field in Fields::of(message) {
            match field? {
                (2, Value::Bytes(charsmap)) => self.charsmap = charsmap,
                (3, Value::Number(0)) => self.blanks.before_text = false,
                (4, Value::Number(0)) => self.blanks.single = false,
                (5, Value::Number(0)) => self.blanks.marked = false,
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
    kind: Option<PieceKind>,
}

impl<'a> Piece<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Damaged> {
        let mut piece = Self { text: b"", score: 0.0, kind: Some(PieceKind::Normal) };
        for field in Fields::of(message) {
            match field? {
                (1, Value::Bytes(text)) => piece.text = text,
                (2, Value::Four(score)) => piece.score = f32::from_le_bytes(score),
                (3, Value::Number(kind)) => piece.kind = PieceKind::read(kind),
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
    /// When it is damaged or too large.
    pub fn parse(bytes: &[u8]) -> Result<Self, SpieceError> {
        fits("data", bytes.len(), MOST_BYTES)?;
        let mut header = Header {
            algorithm: SpieceAlgorithm::Unigram,
            byte_fallback: false,
            beginning: BEGINNING.as_bytes(),
            charsmap: &[],
            blanks: Blanks::USUAL,
        };
        let mut pieces = Vec::new();
        let mut kinds = Vec::new();
        let mut unknown = None;
        let mut piece_bytes = 0;
        for field in Fields::of(bytes) {
            match field? {
                (1, Value::Bytes(message)) => {
                    let piece = Piece::read(message)?;
                    let problem = |problem| SpieceError::Piece { index: pieces.len(), problem };
                    let kind = piece.kind.ok_or_else(|| problem("is of no known kind"))?;
                    if kind == PieceKind::Unknown && unknown.is_none() {
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
                    kinds.push(kind);
                }
                (2, Value::Bytes(message)) => header.read_trainer(message)?,
                (3, Value::Bytes(message)) => header.read_normaliser(message)?,
                _ => {}
            }
        }
        let beginning = str::from_utf8(header.beginning).map_err(|_| SpieceError::Format)?;
        Ok(Self {
            algorithm: header.algorithm,
            pieces,
            kinds,
            unknown: unknown.ok_or(SpieceError::Missing("for what is unknown"))?,
            beginning: beginning.to_owned(),
            blanks: header.blanks,
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
        assert_eq!(model.kinds, [PieceKind::Unknown, PieceKind::Control, PieceKind::Normal]);
        assert_eq!((model.unknown, model.byte_fallback), (0, false));
        assert_eq!((model.algorithm, model.beginning.as_str()), (SpieceAlgorithm::Unigram, "<s>"));
        assert_eq!(model.blanks, Blanks { before_text: true, single: true, marked: true });
        assert_eq!(model.charsmap, b"rules");
    }

    #[test]
    fn damaged_models_are_errors() {
        let error = |bytes: &[u8]| SpieceModel::parse(bytes).unwrap_err().to_string();
        assert!(error(&written(&[("<unk>", 0.0, 2), ("a", 0.0, 7)], 1, b"")).contains("kind"));
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
    }

    #[test]
    fn algorithms_and_blanks_are_read() {
        let mut file = written(&PIECES, 2, b"");
        assert_eq!(SpieceModel::parse(&file).unwrap().algorithm, SpieceAlgorithm::Bpe);
        let other = SpieceModel::parse(&written(&PIECES, 3, b"")).unwrap();
        assert_eq!(other.algorithm, SpieceAlgorithm::Other);
        // `add_dummy_prefix: false`, `remove_extra_whitespaces: false`, `bos_piece: "b"`.
        file.extend([3 << 3 | 2, 4, 3 << 3, 0, 4 << 3, 0]);
        file.extend([2 << 3 | 2, 4, 0xf2, 0x02, 1, b'b']);
        let model = SpieceModel::parse(&file).unwrap();
        assert_eq!(model.blanks, Blanks { before_text: false, single: false, marked: true });
        assert_eq!(model.beginning, "b");
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
