//! Byte-pair encoding over bytes (Sennrich et al., <https://arxiv.org/abs/1508.07909>): of two neighbours the pair whose
//! joined bytes have the lowest id is merged first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// A vocabulary of byte sequences, in the order in which they were learned.
pub(super) struct ByteBpe {
    ids: HashMap<Box<[u8]>, u32>,
}

/// A place in a list of parts that are merged.
const NONE: usize = usize::MAX;

impl ByteBpe {
    /// Of tokens whose ids are their places. Every single byte is to be among them.
    pub fn new<'t>(tokens: impl IntoIterator<Item = &'t [u8]>) -> Self {
        let ids = tokens.into_iter().zip(0..).map(|(token, id)| (token.into(), id)).collect();
        Self { ids }
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether every byte is a token, so that every text has ids.
    pub fn is_complete(&self) -> bool {
        (0..=u8::MAX).all(|byte| self.ids.contains_key(&[byte][..]))
    }

    /// Adds the ids of a word.
    pub fn encode(&self, word: &[u8], ids: &mut Vec<u32>) {
        if let Some(id) = self.ids.get(word) {
            ids.push(*id);
            return;
        }
        // Each part starts at its index and ends where the next one starts; merged ones are passed over.
        let count = word.len();
        let mut next: Vec<usize> = (1..=count).collect();
        let mut before: Vec<usize> =
            (0..count).map(|at| at.checked_sub(1).unwrap_or(NONE)).collect();
        let pair = |next: &[usize], at: usize| {
            let middle = *next.get(at)?;
            let end = *next.get(middle)?;
            let id = self.ids.get(word.get(at..end)?)?;
            Some(Reverse((*id, at, end)))
        };
        let mut pairs: BinaryHeap<_> = (0..count).filter_map(|at| pair(&next, at)).collect();
        while let Some(Reverse((_, at, end))) = pairs.pop() {
            // Out of date where one of both parts was merged since.
            let Some(middle) = next.get(at).copied().filter(|&middle| middle < count) else {
                continue;
            };
            if next.get(middle) != Some(&end) {
                continue;
            }
            set(&mut next, at, end);
            set(&mut next, middle, NONE);
            set(&mut before, end, at);
            pairs.extend(pair(&next, at));
            pairs.extend(before.get(at).and_then(|&earlier| pair(&next, earlier)));
        }
        let mut start = 0;
        while let Some(end) = next.get(start).copied() {
            ids.extend(word.get(start..end).and_then(|part| self.ids.get(part)));
            start = end;
        }
    }
}

fn set(list: &mut [usize], at: usize, value: usize) {
    if let Some(place) = list.get_mut(at) {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes `a` to `d` with some longer tokens.
    fn vocabulary() -> Vec<Vec<u8>> {
        let longer = ["ab", "bc", "cd", "abc", "aa", "abcd", "dd", "cdd", "aaaa"];
        let single = (0..=u8::MAX).map(|byte| vec![byte]);
        single.chain(longer.map(|token| token.as_bytes().to_vec())).collect()
    }

    /// The rule, word for word: again and again the leftmost pair of the lowest id.
    fn brute(tokens: &[Vec<u8>], word: &[u8]) -> Vec<u32> {
        let id = |part: &[u8]| tokens.iter().position(|token| token == part);
        if let Some(id) = id(word) {
            return vec![id as u32];
        }
        let mut parts: Vec<Vec<u8>> = word.iter().map(|byte| vec![*byte]).collect();
        loop {
            let joined = |at: usize| id(&[&parts[at][..], &parts[at + 1][..]].concat());
            let pairs = (0..parts.len().saturating_sub(1)).filter_map(|at| Some((joined(at)?, at)));
            let Some((_, at)) = pairs.min() else { break };
            let behind = parts.remove(at + 1);
            parts[at].extend(behind);
        }
        parts.iter().map(|part| id(part).unwrap() as u32).collect()
    }

    proptest! {
        #[test]
        fn pairs_are_merged_by_their_ids(word in "[abcd]{0,24}") {
            let tokens = vocabulary();
            let bpe = ByteBpe::new(tokens.iter().map(Vec::as_slice));
            let mut ids = Vec::new();
            bpe.encode(word.as_bytes(), &mut ids);
            prop_assert_eq!(ids, if word.is_empty() { vec![] } else { brute(&tokens, word.as_bytes()) });
        }
    }

    #[test]
    fn a_vocabulary_without_a_byte_is_not_complete() {
        let tokens = vocabulary();
        assert!(ByteBpe::new(tokens.iter().map(Vec::as_slice)).is_complete());
        assert!(!ByteBpe::new(tokens.iter().skip(1).map(Vec::as_slice)).is_complete());
    }
}
