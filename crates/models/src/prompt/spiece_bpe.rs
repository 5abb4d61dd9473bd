//! SentencePiece's byte-pair encoding: characters side by side are joined into pieces, those of the highest score first
//! (Sennrich et al., <https://arxiv.org/abs/1508.07909>).
//!
//! What is done to a text is what SentencePiece's own library does: the vocabulary's rules replace the longest beginning that
//! they have one for, blanks become `▁`, pieces that the vocabulary's maker defined are taken out as they are, and what no
//! piece covers is written byte by byte where there are pieces for that.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

use super::charsmap::Charsmap;
use super::spiece::{BLANK, Blanks, PieceKind, SpieceAlgorithm, SpieceError, SpieceModel};

/// A place in a list of parts that are merged.
const NONE: usize = usize::MAX;

/// A vocabulary whose pieces are joined by their scores.
pub(super) struct SpieceBpe {
    charsmap: Charsmap,
    blanks: Blanks,
    pieces: HashMap<Box<str>, Piece>,
    /// Marks, which no text makes.
    marks: HashMap<Box<str>, u32>,
    /// What is taken out as it is, by its first character, the longest first.
    defined: HashMap<char, Vec<Box<str>>>,
    unknown: u32,
    /// The pieces for single bytes, where there are all and they are to be used.
    bytes: Option<Vec<u32>>,
    ids: usize,
}

#[derive(Clone, Copy)]
struct Piece {
    id: u32,
    score: f64,
    is_unused: bool,
}

impl SpieceBpe {
    /// Of a model whose algorithm is byte-pair encoding.
    pub(super) fn new(model: SpieceModel) -> Result<Self, SpieceError> {
        if model.algorithm != SpieceAlgorithm::Bpe {
            let problem = "byte-pair encoding, which Gemma has: its pieces are chosen otherwise";
            return Err(SpieceError::Kind(problem));
        }
        if !model.blanks.marked {
            return Err(SpieceError::Kind(
                "Gemma's kind: it does not write blanks as `▁` before words",
            ));
        }
        let ids = model.pieces.len();
        let (mut pieces, mut marks) = (HashMap::new(), HashMap::new());
        let mut defined: HashMap<char, Vec<Box<str>>> = HashMap::new();
        for (id, ((text, score), kind)) in (0_u32..).zip(model.pieces.into_iter().zip(model.kinds))
        {
            let text = text.into_boxed_str();
            if let (PieceKind::UserDefined, Some(first)) = (kind, text.chars().next()) {
                defined.entry(first).or_default().push(text.clone());
            }
            match kind {
                PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => {
                    let is_unused = kind == PieceKind::Unused;
                    // 0 for -0, which the first piece's score is written as.
                    pieces.insert(text, Piece { id, score: score + 0.0, is_unused });
                }
                PieceKind::Unknown | PieceKind::Control | PieceKind::Byte => {
                    marks.insert(text, id);
                }
            }
        }
        for texts in defined.values_mut() {
            texts.sort_by_key(|text| Reverse(text.len()));
        }
        let byte = |byte| marks.get(format!("<0x{byte:02X}>").as_str()).copied();
        let bytes = model.byte_fallback.then(|| (0..=255).map(byte).collect()).flatten();
        Ok(Self {
            charsmap: Charsmap::parse(&model.charsmap)?,
            blanks: model.blanks,
            pieces,
            marks,
            defined,
            unknown: model.unknown as u32, // a piece's place, of which there are fewer than bytes of a file
            bytes,
            ids,
        })
    }

    /// How many ids there are.
    pub(super) fn ids(&self) -> usize {
        self.ids
    }

    /// The id of a piece.
    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.marks.get(piece).or_else(|| self.pieces.get(piece).map(|piece| &piece.id)).copied()
    }

    /// Adds the ids of a text.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let text = self.normalised(text);
        let mut was_unknown = false;
        for part in self.parts(&text) {
            let id = self.id(part);
            match (id, &self.bytes) {
                (Some(id), _) => ids.push(id),
                (None, Some(bytes)) => {
                    ids.extend(part.bytes().filter_map(|byte| bytes.get(usize::from(byte))));
                }
                // Several side by side are one.
                (None, None) if was_unknown => {}
                (None, None) => ids.push(self.unknown),
            }
            was_unknown = id.is_none();
        }
    }

    /// The piece that a text starts with and that is taken out as it is; the longest of them.
    fn defined(&self, text: &str) -> Option<&str> {
        let texts = self.defined.get(&text.chars().next()?)?;
        texts.iter().map(Box::as_ref).find(|piece| text.starts_with(piece))
    }

    /// What a text's beginning becomes, and the rest of the text.
    fn next<'t>(&'t self, text: &'t str) -> (&'t str, &'t str) {
        let first = text.chars().next().map_or(0, char::len_utf8);
        let rule = self.charsmap.longest(text).filter(|(count, _)| text.is_char_boundary(*count));
        let (count, part) = match (self.defined(text), rule) {
            (Some(piece), _) => (piece.len(), piece),
            (None, Some((count, part))) => (count, part),
            (None, None) => (first, text.get(..first).unwrap_or_default()),
        };
        (part, text.get(count..).unwrap_or_default())
    }

    /// A text with all replacements made, and blanks as `▁`.
    fn normalised(&self, text: &str) -> String {
        let mut rest = text;
        while let (" ", behind) = self.next(rest)
            && self.blanks.single
        {
            rest = behind;
        }
        let mut out = String::with_capacity(2 * text.len());
        if self.blanks.before_text && !rest.is_empty() {
            out.push(BLANK);
        }
        let mut was_blank = self.blanks.single;
        while !rest.is_empty() {
            let (part, behind) = self.next(rest);
            rest = behind;
            let part = if was_blank { part.trim_start_matches(' ') } else { part };
            out.extend(part.chars().map(|c| if c == ' ' { BLANK } else { c }));
            if !part.is_empty() {
                was_blank = self.blanks.single && part.ends_with(' ');
            }
        }
        if self.blanks.single {
            out.truncate(out.trim_end_matches(BLANK).len());
        }
        out
    }

    /// The pieces of a normalised text, and characters that are none.
    fn parts<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut joining = Joining::new(self, text);
        joining.run();
        joining.parts()
    }
}

/// A text whose parts are joined. A part starts at its index and ends where the next one starts.
struct Joining<'v, 't> {
    vocabulary: &'v SpieceBpe,
    text: &'t str,
    next: Vec<usize>,
    before: Vec<usize>,
    /// Whether the part that starts here stays as it is.
    is_fixed: Vec<bool>,
    pairs: BinaryHeap<Pair>,
    /// Where pieces that are cut again were joined.
    seams: HashMap<&'t str, usize>,
}

/// Two parts that make a piece.
#[derive(Clone, Copy)]
struct Pair {
    score: f64,
    start: usize,
    end: usize,
}

impl Ord for Pair {
    /// The highest score first, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        let score = self.score.total_cmp(&other.score);
        score.then_with(|| (other.start, other.end).cmp(&(self.start, self.end)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl<'v, 't> Joining<'v, 't> {
    /// A part for each character and for each piece that is taken out as it is.
    fn new(vocabulary: &'v SpieceBpe, text: &'t str) -> Self {
        let mut next = vec![NONE; text.len()];
        let mut before = vec![NONE; text.len()];
        let mut is_fixed = vec![false; text.len()];
        let (mut start, mut earlier) = (0, NONE);
        while let Some(first) = text.get(start..).and_then(|rest| rest.chars().next()) {
            let piece = text.get(start..).and_then(|rest| vocabulary.defined(rest));
            let end = start + piece.map_or(first.len_utf8(), str::len);
            set(&mut next, start, end);
            set(&mut before, start, earlier);
            set(&mut is_fixed, start, piece.is_some());
            (earlier, start) = (start, end);
        }
        let (pairs, seams) = (BinaryHeap::new(), HashMap::new());
        Self { vocabulary, text, next, before, is_fixed, pairs, seams }
    }

    fn run(&mut self) {
        let mut start = 0;
        while let Some(end) = self.next.get(start).copied() {
            self.find(start);
            start = end;
        }
        while let Some(Pair { start, end, .. }) = self.pairs.pop() {
            // Out of date where one of both parts was joined since.
            let Some(middle) = self.next.get(start).copied().filter(|middle| *middle != NONE)
            else {
                continue;
            };
            if self.next.get(middle) != Some(&end) {
                continue;
            }
            set(&mut self.next, start, end);
            set(&mut self.next, middle, NONE);
            set(&mut self.before, end, start);
            if let Some(earlier) = self.before.get(start).copied() {
                self.find(earlier);
            }
            self.find(start);
        }
    }

    /// Lists the part that starts here and the next one, where they make a piece.
    fn find(&mut self, start: usize) {
        let is_fixed = |at: usize| self.is_fixed.get(at).copied().unwrap_or(true);
        let Some(middle) = self.next.get(start).copied() else { return };
        let Some(end) = self.next.get(middle).copied() else { return };
        if is_fixed(start) || is_fixed(middle) {
            return;
        }
        let Some(both) = self.text.get(start..end) else { return };
        if let Some(piece) = self.vocabulary.pieces.get(both) {
            if piece.is_unused {
                self.seams.insert(both, middle - start);
            }
            self.pairs.push(Pair { score: piece.score, start, end });
        }
    }

    /// What the text is cut into in the end; unused pieces as what they were joined of.
    fn parts(&self) -> Vec<&'t str> {
        let mut parts = Vec::new();
        let mut start = 0;
        while let Some(end) = self.next.get(start).copied() {
            let mut waiting: Vec<_> = self.text.get(start..end).into_iter().collect();
            while let Some(part) = waiting.pop() {
                match self.seam(part) {
                    Some((left, right)) => waiting.extend([right, left]),
                    None => parts.push(part),
                }
            }
            start = end;
        }
        parts
    }

    /// Both parts of an unused piece.
    fn seam(&self, part: &'t str) -> Option<(&'t str, &'t str)> {
        self.vocabulary.pieces.get(part).filter(|piece| piece.is_unused)?;
        part.split_at_checked(*self.seams.get(part)?)
    }
}

fn set<T>(list: &mut [T], at: usize, value: T) {
    if let Some(place) = list.get_mut(at) {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::super::spiece::written;
    use super::*;
    use proptest::prelude::*;

    const PIECES: [(&str, f32, u8); 14] = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("ab", -0.0, 1),
        ("bc", -1.0, 1),
        ("abc", -2.0, 1),
        ("aa", -3.0, 1),
        ("cab", -4.0, 1),
        ("▁a", -5.0, 1),
        ("bb", -6.0, 1),
        ("a", -7.0, 1),
        ("b", -8.0, 1),
        ("c", -9.0, 1),
        ("▁", -10.0, 1),
        ("<b>", 0.0, 4),
    ];

    fn bpe(pieces: &[(&str, f32, u8)]) -> SpieceBpe {
        let mut file = written(pieces, 2, b"");
        // Blanks as they are.
        file.extend([3 << 3 | 2, 4, 3 << 3, 0, 4 << 3, 0]);
        SpieceBpe::new(SpieceModel::parse(&file).unwrap()).unwrap()
    }

    fn encode(bpe: &SpieceBpe, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        bpe.encode(text, &mut ids);
        ids
    }

    #[test]
    fn what_no_piece_covers_is_unknown_or_bytes() {
        assert_eq!(encode(&bpe(&PIECES), "aéüb<s>"), [9, 0, 10, 0]);
        let names: Vec<_> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
        let mut pieces = PIECES.to_vec();
        pieces.extend(names.iter().map(|name| (name.as_str(), 0.0, 6)));
        let mut file = written(&pieces, 2, b"");
        // `byte_fallback: true`, and blanks as they are.
        file.extend([2 << 3 | 2, 3, 0x98, 0x02, 1, 3 << 3 | 2, 4, 3 << 3, 0, 4 << 3, 0]);
        let bpe = SpieceBpe::new(SpieceModel::parse(&file).unwrap()).unwrap();
        // é is C3 A9.
        assert_eq!(encode(&bpe, "aé"), [9, 14 + 0xc3, 14 + 0xa9]);
        assert_eq!(bpe.ids(), 14 + 256);
    }

    #[test]
    fn pieces_that_were_defined_are_not_joined() {
        let bpe = bpe(&PIECES);
        assert_eq!(encode(&bpe, "a<b>b a"), [9, 13, 10, 7]);
        assert_eq!(bpe.id("<s>"), Some(1));
    }

    #[test]
    fn models_of_other_kinds_are_errors() {
        let unigram = SpieceModel::parse(&written(&PIECES, 1, b"")).unwrap();
        assert!(SpieceBpe::new(unigram).err().unwrap().to_string().contains("byte-pair"));
        let mut file = written(&PIECES, 2, b"");
        // `escape_whitespaces: false`.
        file.extend([3 << 3 | 2, 2, 5 << 3, 0]);
        let plain = SpieceModel::parse(&file).unwrap();
        assert!(SpieceBpe::new(plain).err().unwrap().to_string().contains("blanks"));
    }

    /// The rule, word for word: again and again the leftmost pair of the highest score.
    fn brute(text: &str) -> Vec<u32> {
        let find =
            |part: &str| PIECES.iter().position(|(piece, _, kind)| *kind == 1 && *piece == part);
        let mut parts: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let score = |at: usize| {
                let joined = find(&format!("{}{}", parts[at], parts[at + 1]))?;
                Some((Reverse(joined), Reverse(at)))
            };
            // Pieces are listed from the highest score on.
            let Some((_, Reverse(at))) = (1..parts.len()).filter_map(|at| score(at - 1)).max()
            else {
                break;
            };
            let behind = parts.remove(at + 1);
            parts[at].push_str(&behind);
        }
        parts.iter().map(|part| find(part).unwrap() as u32).collect()
    }

    proptest! {
        #[test]
        fn pairs_are_joined_by_their_scores(text in "[abc▁]{0,24}") {
            prop_assert_eq!(encode(&bpe(&PIECES), &text), brute(&text));
        }

        #[test]
        fn any_text_is_cut(text in "(.|\\s|<b>|▁| |ab){0,40}") {
            let ids = encode(&bpe(&PIECES), &text);
            prop_assert!(ids.iter().all(|&id| (id as usize) < PIECES.len()));
        }
    }
}
