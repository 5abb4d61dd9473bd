//! Laying tokens out in chunks of a text encoder's length.

use super::token::{Token, WeightedToken};
use super::tokenizer::{END, START};

/// A group of at least so many tokens is cut at the end of a chunk; a shorter one moves to the next.
const LARGE: usize = 8;

/// Lays groups of tokens out in chunks: start token, tokens, end token, padding up to `length`.
///
/// There is always at least one chunk. `length` counts all of these and is at least 3.
pub fn chunks(
    groups: impl IntoIterator<Item = Vec<WeightedToken>>,
    length: usize,
    pad: u32,
) -> Vec<Vec<WeightedToken>> {
    let room = length.saturating_sub(2).max(1);
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    for mut group in groups {
        let large = group.len() >= LARGE || group.len() > room;
        while chunk.len() + group.len() > room {
            if large {
                let rest = group.split_off(room - chunk.len());
                chunk.append(&mut group);
                group = rest;
            }
            chunks.push(std::mem::take(&mut chunk));
        }
        chunk.append(&mut group);
    }
    chunks.push(chunk);
    chunks.into_iter().map(|tokens| enclose(tokens, length, pad)).collect()
}

/// The chunk of an empty prompt.
pub fn empty(length: usize, pad: u32) -> Vec<Token> {
    enclose(Vec::new(), length, pad).into_iter().map(|weighted| weighted.token).collect()
}

fn enclose(tokens: Vec<WeightedToken>, length: usize, pad: u32) -> Vec<WeightedToken> {
    let mut chunk = Vec::with_capacity(length);
    chunk.push(WeightedToken::plain(START));
    chunk.extend(tokens);
    chunk.push(WeightedToken::plain(END));
    if chunk.len() < length {
        chunk.resize(length, WeightedToken::plain(pad));
    }
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Groups of so many tokens, numbered through from 1.
    fn groups(sizes: &[usize]) -> Vec<Vec<WeightedToken>> {
        let mut ids = 1..;
        sizes
            .iter()
            .map(|&size| ids.by_ref().take(size).map(WeightedToken::plain).collect())
            .collect()
    }

    /// The ids between start and end of each chunk.
    fn bodies(sizes: &[usize], length: usize) -> Vec<Vec<u32>> {
        let chunks = chunks(groups(sizes), length, 0);
        let ids = |chunk: Vec<WeightedToken>| {
            assert_eq!(chunk.len(), length);
            let ids = chunk.into_iter().map(|weighted| match weighted.token {
                Token::Id(id) => id,
                Token::Vector(_) => unreachable!(),
            });
            let ids: Vec<u32> = ids.collect();
            let end = ids.iter().position(|&id| id == END).unwrap();
            assert_eq!(ids[0], START);
            assert!(ids[end + 1..].iter().all(|&id| id == 0));
            ids[1..end].to_vec()
        };
        chunks.into_iter().map(ids).collect()
    }

    fn lengths(sizes: &[usize]) -> Vec<usize> {
        bodies(sizes, 77).iter().map(Vec::len).collect()
    }

    #[test]
    fn layout() {
        assert_eq!(lengths(&[]), [0]);
        assert_eq!(lengths(&[75]), [75]);
        assert_eq!(lengths(&[76]), [75, 1]);
        assert_eq!(lengths(&[160]), [75, 75, 10]);
        assert_eq!(lengths(&[70, 7]), [70, 7]);
        assert_eq!(lengths(&[70, 8]), [75, 3]);
        assert_eq!(lengths(&[75, 8]), [75, 8]);
        assert_eq!(lengths(&[70, 0, 5, 1]), [75, 1]);
    }

    #[test]
    fn an_empty_prompt_is_start_end_and_padding() {
        let empty = empty(5, 9);
        let ids = [START, END, 9, 9, 9];
        assert_eq!(empty, ids.map(Token::Id));
    }

    proptest! {
        #[test]
        fn every_token_is_there_once_in_order(
            sizes in prop::collection::vec(0_usize..30, 0..12),
            length in 3_usize..40,
        ) {
            let flat = bodies(&sizes, length).concat();
            let expected: Vec<u32> = (1..=sizes.iter().sum::<usize>() as u32).collect();
            prop_assert_eq!(flat, expected);
        }
    }
}
