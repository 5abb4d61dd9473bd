//! SentencePiece's rules for normalising text, which a model file holds compiled.
//!
//! The form: the length of a table in bytes, the table, and texts that each end in a zero byte. The table is
//! a double array in Darts' form (Yata, <https://github.com/s-yata/darts-clone>) of what is replaced, with
//! the place of each replacement among the texts.
//!
//! What is looked up is what Hugging Face's `tokenizers` looks up, by which T5's tokenizer is mostly run: each cluster of
//! at most 5 bytes as a whole, else character by character, and of several rules that fit the shortest. The
//! table is not trusted: a step or a place outside it means that there is no rule.

use unicode_segmentation::UnicodeSegmentation;

use super::spiece::SpieceError;

/// Clusters of more bytes are looked up character by character.
const LONGEST_CLUSTER: usize = 5;

/// What text is replaced with what.
#[derive(Clone, Debug, Default)]
pub(super) struct Charsmap {
    table: Vec<Unit>,
    texts: String,
}

/// An entry of the double array.
#[derive(Clone, Copy, Debug)]
struct Unit(u32);

impl Unit {
    /// The byte that leads here, or a value that no byte has.
    fn label(self) -> u32 {
        self.0 & (1 << 31 | 0xff)
    }

    /// Whether a rule ends here.
    fn is_end(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    /// How far the entries behind this one are.
    fn offset(self) -> usize {
        ((self.0 >> 10) << ((self.0 & 1 << 9) >> 6)) as usize
    }

    /// Of the entry behind a rule's end: where its replacement starts.
    fn place(self) -> usize {
        (self.0 & !(1 << 31)) as usize
    }
}

impl Charsmap {
    /// Reads compiled rules; none where there are no bytes.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, SpieceError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let error = SpieceError::Charsmap;
        let (size, rest) = bytes.split_first_chunk().ok_or(error("they end early"))?;
        let size = u32::from_le_bytes(*size) as usize;
        let (table, texts) = rest.split_at_checked(size).ok_or(error("they end early"))?;
        let table = table.as_chunks().0.iter().map(|unit| Unit(u32::from_le_bytes(*unit)));
        let texts = std::str::from_utf8(texts).map_err(|_| error("they are not UTF-8"))?;
        Ok(Self { table: table.collect(), texts: texts.to_owned() })
    }

    /// What the shortest beginning of a text that has a rule is replaced with.
    fn replacement(&self, text: &str) -> Option<&str> {
        self.rules(text).next().map(|(_, replacement)| replacement)
    }

    /// The longest beginning of a text that has a rule, in bytes, and what it is replaced with: what SentencePiece looks up.
    pub(super) fn longest(&self, text: &str) -> Option<(usize, &str)> {
        self.rules(text).last()
    }

    /// The rules for beginnings of a text, the shortest first: how many bytes each is for, and what they are replaced with.
    fn rules<'t>(&self, text: &'t str) -> Rules<'_, 't> {
        let at = self.table.first().map(|unit| unit.offset());
        Rules { map: self, at, bytes: text.bytes(), read: 0 }
    }

    /// A text with all replacements made.
    pub(super) fn normalise(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for cluster in text.graphemes(true) {
            let whole = Some(cluster).filter(|cluster| cluster.len() <= LONGEST_CLUSTER);
            if let Some(replacement) = whole.and_then(|cluster| self.replacement(cluster)) {
                out.push_str(replacement);
                continue;
            }
            let mut buffer = [0; 4];
            for c in cluster.chars() {
                let c = c.encode_utf8(&mut buffer);
                out.push_str(self.replacement(c).unwrap_or(c));
            }
        }
        out
    }
}

/// The rules for beginnings of a text.
struct Rules<'m, 't> {
    map: &'m Charsmap,
    /// Where the entries behind what was read are; `None` where no rule goes on.
    at: Option<usize>,
    bytes: std::str::Bytes<'t>,
    read: usize,
}

impl<'m> Iterator for Rules<'m, '_> {
    type Item = (usize, &'m str);

    fn next(&mut self) -> Option<Self::Item> {
        let map = self.map;
        while let Some(at) = self.at.take() {
            let byte = self.bytes.next().filter(|byte| *byte != 0)?;
            let at = at ^ usize::from(byte);
            let unit = *map.table.get(at)?;
            if unit.label() != u32::from(byte) {
                return None;
            }
            let at = at ^ unit.offset();
            (self.at, self.read) = (Some(at), self.read + 1);
            if unit.is_end() {
                let rest = map.texts.get(map.table.get(at)?.place()..)?;
                return Some((self.read, rest.split('\0').next()?));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rules that replace `a` with `bc` and `é` with nothing.
    fn rules() -> Charsmap {
        let end = 1 << 8;
        let unit = |label: u32, offset: u32| Unit(label | offset << 10);
        let mut table = vec![unit(1 << 31 | 1, 0); 512];
        table[0] = unit(0, 256);
        // `a`: the end of a rule, whose entry is at 256 ^ 0x61 ^ 1.
        table[256 ^ 0x61] = Unit(0x61 | end | 1 << 10);
        table[256 ^ 0x61 ^ 1] = Unit(1 << 31 | 1);
        // `é` is 0xc3 0xa9.
        table[256 ^ 0xc3] = unit(0xc3, 2);
        table[256 ^ 0xc3 ^ 2 ^ 0xa9] = Unit(0xa9 | end | 1 << 10);
        table[256 ^ 0xc3 ^ 2 ^ 0xa9 ^ 1] = Unit(1 << 31 | 4);
        let mut bytes = (4 * table.len() as u32).to_le_bytes().to_vec();
        bytes.extend(table.iter().flat_map(|unit| unit.0.to_le_bytes()));
        bytes.extend(b"\0bc\0\0");
        Charsmap::parse(&bytes).unwrap()
    }

    #[test]
    fn rules_are_followed() {
        let rules = rules();
        assert_eq!(rules.replacement("ab"), Some("bc"));
        assert_eq!(rules.replacement("é"), Some(""));
        assert_eq!(rules.replacement("ê"), None);
        assert_eq!(rules.replacement(""), None);
        assert_eq!(rules.normalise("xéaê"), "xbcê");
        assert_eq!(rules.normalise("éé"), "");
        assert_eq!(Charsmap::parse(b"").unwrap().normalise("aé"), "aé");
    }

    #[test]
    fn damaged_rules_are_errors() {
        for bytes in [&b"\x01"[..], b"\x08\0\0\0abcd", b"\x04\0\0\0abcd\xff"] {
            assert!(Charsmap::parse(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        /// Tables that point anywhere, and places within characters.
        #[test]
        fn no_table_is_too_odd(
            units in prop::collection::vec(any::<u32>(), 0..600),
            small in any::<bool>(),
            texts in ".{0,20}",
            text in ".{0,20}",
        ) {
            let unit = |unit: u32| Unit(if small { unit & 0x3fff } else { unit });
            let map = Charsmap { table: units.into_iter().map(unit).collect(), texts };
            let _ = map.normalise(&text);
        }
    }
}
