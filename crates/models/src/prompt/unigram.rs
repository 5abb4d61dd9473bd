//! Cutting a word into the pieces of a vocabulary whose scores have the highest sum (the Unigram model of Kudo,
//! <https://arxiv.org/abs/1804.10959>).

use std::collections::HashMap;

/// How much less than the least score of a piece what no piece covers counts, as in SentencePiece.
const UNKNOWN_PENALTY: f64 = 10.0;

/// Pieces with their scores, logarithms of probabilities.
pub(super) struct Unigram {
    /// Ids and scores by piece.
    pieces: HashMap<Box<str>, (u32, f64)>,
    /// Bytes of the longest piece.
    longest: usize,
    unknown: u32,
    unknown_score: f64,
    /// The pieces for single bytes, where there are all and they are to be used.
    bytes: Option<Vec<u32>>,
}

/// The best way to cut what is before a place in a word.
#[derive(Clone, Copy)]
struct Cut {
    score: f64,
    /// Where its last piece starts.
    start: usize,
    id: u32,
}

impl Unigram {
    /// Of pieces in the order of their ids, fewer than 2³², one of which stands for what no piece covers. With
    /// `byte_fallback` that is written as bytes where there are the pieces `<0x00>` to `<0xFF>`.
    pub(super) fn new(pieces: Vec<(String, f64)>, unknown: usize, byte_fallback: bool) -> Self {
        let least = pieces.iter().fold(f64::INFINITY, |least, (_, score)| least.min(*score));
        let longest = pieces.iter().map(|(piece, _)| piece.len()).max().unwrap_or(0);
        let ids = (0_u32..).zip(pieces);
        let pieces: HashMap<_, _> =
            ids.map(|(id, (piece, score))| (piece.into_boxed_str(), (id, score))).collect();
        let byte = |byte| pieces.get(format!("<0x{byte:02X}>").as_str()).map(|(id, _)| *id);
        let bytes = byte_fallback.then(|| (0..=255).map(byte).collect()).flatten();
        let unknown_score = least - UNKNOWN_PENALTY;
        Self { pieces, longest, unknown: unknown as u32, unknown_score, bytes }
    }

    /// The id of a piece.
    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.pieces.get(piece).map(|(id, _)| *id)
    }

    /// Adds the ids of a word's pieces. Characters side by side that no piece covers are one.
    pub(super) fn cut(&self, word: &str, ids: &mut Vec<u32>) {
        let first = ids.len();
        let cuts = self.best_cuts(word);
        let mut end = word.len();
        // From the end on: where the characters end that no piece covers.
        let mut unknown_end = None;
        while let Some(Some(cut)) = cuts.get(end).filter(|_| end > 0) {
            if cut.id == self.unknown {
                unknown_end.get_or_insert(end);
            } else {
                self.push_unknown(word, end, unknown_end.take(), ids);
                ids.push(cut.id);
            }
            end = cut.start;
        }
        self.push_unknown(word, end, unknown_end, ids);
        ids[first..].reverse();
    }

    /// Adds what stands for the characters from `start` on that no piece covers, last first.
    fn push_unknown(&self, word: &str, start: usize, end: Option<usize>, ids: &mut Vec<u32>) {
        let Some(text) = end.and_then(|end| word.get(start..end)) else { return };
        match (self.id(text), &self.bytes) {
            (Some(id), _) => ids.push(id),
            (None, Some(bytes)) => {
                ids.extend(text.bytes().rev().filter_map(|byte| bytes.get(usize::from(byte))));
            }
            (None, None) => ids.push(self.unknown),
        }
    }

    /// The best cut before each place in a word, by the place; none within characters.
    fn best_cuts(&self, word: &str) -> Vec<Option<Cut>> {
        let mut cuts: Vec<Option<Cut>> = vec![None; word.len() + 1];
        for (start, c) in word.char_indices() {
            let before = cuts.get(start).copied().flatten().map_or(0.0, |cut| cut.score);
            let mut reach = |end: usize, id: u32, score: f64| {
                let score = before + score;
                if let Some(best) = cuts.get_mut(end)
                    && best.is_none_or(|best| score > best.score)
                {
                    *best = Some(Cut { score, start, id });
                }
            };
            let first_end = start + c.len_utf8();
            let mut is_covered = false;
            let ends = word[start..].char_indices().map(|(at, c)| start + at + c.len_utf8());
            for end in ends.take_while(|end| end - start <= self.longest) {
                if let Some(&(id, score)) = self.pieces.get(&word[start..end]) {
                    reach(end, id, score);
                    is_covered |= end == first_end;
                }
            }
            if !is_covered {
                reach(first_end, self.unknown, self.unknown_score);
            }
        }
        cuts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unigram(pieces: &[(&str, f64)], byte_fallback: bool) -> Unigram {
        let pieces = pieces.iter().map(|(piece, score)| ((*piece).to_owned(), *score));
        Unigram::new(pieces.collect(), 0, byte_fallback)
    }

    fn cut(unigram: &Unigram, word: &str) -> Vec<u32> {
        let mut ids = vec![99];
        unigram.cut(word, &mut ids);
        assert_eq!(ids.remove(0), 99);
        ids
    }

    #[test]
    fn unknown_characters_are_one_piece_or_bytes() {
        let mut pieces = vec![("<unk>", 0.0), ("a", -1.0)];
        assert_eq!(cut(&unigram(&pieces, true), "éüaa日"), [0, 1, 1, 0]);
        let names: Vec<_> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
        pieces.extend(names.iter().map(|name| (name.as_str(), -9.0)));
        // é is C3 A9.
        assert_eq!(cut(&unigram(&pieces, true), "aéa"), [1, 2 + 0xc3, 2 + 0xa9, 1]);
        assert_eq!(cut(&unigram(&pieces, false), "aéa"), [1, 0, 1]);
        assert!(cut(&unigram(&pieces, false), "").is_empty());
    }

    /// The score of the best way to cut a word, over all ways.
    fn best(pieces: &[(&str, f64)], word: &str) -> f64 {
        if word.is_empty() {
            return 0.0;
        }
        let starts = pieces.iter().filter(|(piece, _)| word.starts_with(piece));
        starts
            .map(|(piece, score)| score + best(pieces, &word[piece.len()..]))
            .fold(f64::NEG_INFINITY, f64::max)
    }

    proptest! {
        #[test]
        fn the_best_of_all_ways_is_found(
            scores in prop::collection::vec(-8_i32..0, 9),
            word in "[abc]{0,9}",
        ) {
            let texts = ["a", "b", "c", "ab", "bc", "ca", "abc", "aa", "cab"];
            let pieces: Vec<_> = texts.into_iter().zip(scores.iter().map(|&s| f64::from(s))).collect();
            let mut all = vec![("<unk>", 0.0)];
            all.extend(&pieces);
            let ids = cut(&unigram(&all, false), &word);
            let (texts, scores): (Vec<_>, Vec<_>) = ids.iter().map(|&id| all[id as usize]).unzip();
            prop_assert_eq!(texts.concat(), word.clone());
            prop_assert_eq!(scores.iter().sum::<f64>(), best(&pieces, &word));
        }
    }
}
