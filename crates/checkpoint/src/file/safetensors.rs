//! The header of a safetensors file, validated in full before anything is believed.
//!
//! Format: <https://github.com/huggingface/safetensors#format>. Eight bytes of header length
//! (little-endian), a JSON object of that length, then the data. The `safetensors` crate reads the
//! object into a hash map, which hides duplicate keys and the keys' order and cannot name the
//! tensor that is wrong; hence the pass of our own over serde_json.

use std::borrow::Cow;
use std::fmt;

use indexmap::IndexMap;
use indexmap::map::Entry;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::error::{Problem, Quoted, Shortened};
use super::tensor::{Place, TensorInfo};
use super::unread::{self, Unread};
use crate::dtype::Dtype;

/// The longest header that is read: the limit of the format's own reader.
pub const MAX_HEADER: u64 = 100_000_000;

/// The most dimensions a tensor may have, as in PyTorch.
pub(crate) const MAX_RANK: usize = 64;

/// What a safetensors header says.
#[derive(Debug, Default)]
pub struct Header {
    /// `__metadata__`.
    pub metadata: IndexMap<String, String>,
    /// The tensors in the header's order.
    pub tensors: IndexMap<String, TensorInfo>,
    /// Those of dtypes that are not read.
    pub unread: IndexMap<String, Unread>,
}

/// Reads and validates the header of a safetensors file whose whole content is `file`.
///
/// Only the header's bytes are touched, so `file` may be a memory map of any length.
///
/// # Errors
/// What is wrong, naming the tensor where there is one.
pub fn read_header(file: &[u8]) -> Result<Header, Problem> {
    let actual = file.len() as u64;
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(Problem::CutShort { expected: 8, actual });
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(Problem::Header(format!(
            "its first 8 bytes announce a header of {length} bytes, over the limit of {MAX_HEADER}"
        )));
    }
    // Under the limit, the length fits in any usize.
    let Some((header, data)) = rest.split_at_checked(length as usize) else {
        return Err(Problem::CutShort { expected: 8 + length, actual });
    };
    let entries = parse(header)?;
    let data_start = file.len() - data.len();
    check_layout(&entries.tensors, data_start as u64, data.len() as u64)?;
    let (mut tensors, mut unread) = (IndexMap::new(), IndexMap::new());
    for (key, raw) in entries.tensors {
        // In bounds of the data since check_layout.
        let span = data_start + raw.start as usize..data_start + raw.end as usize;
        match raw.dtype {
            Ok(dtype) => {
                let place = Place::Span(span);
                tensors.insert(key, TensorInfo { dtype, shape: raw.shape, place });
            }
            Err(dtype) => {
                unread.insert(key, Unread::new(dtype));
            }
        }
    }
    Ok(Header { tensors, unread, metadata: entries.metadata })
}

/// The header's JSON, its dtypes and sizes checked, its offsets not.
struct Entries {
    metadata: IndexMap<String, String>,
    tensors: IndexMap<String, RawTensor>,
}

/// One tensor's entry; the offsets count from the start of the data.
struct RawTensor {
    /// Its name where it is not read.
    dtype: Result<Dtype, String>,
    shape: Vec<usize>,
    start: u64,
    end: u64,
}

fn parse(header: &[u8]) -> Result<Entries, Problem> {
    let text = std::str::from_utf8(header)
        .map_err(|e| Problem::Header(format!("byte {} is not UTF-8", 8 + e.valid_up_to())))?;
    if !text.starts_with('{') {
        return Err(Problem::Header("it does not start with `{`".into()));
    }
    let json: Json = serde_json::from_str(text).map_err(|e| Problem::Header(e.to_string()))?;
    let mut tensors = IndexMap::with_capacity(json.tensors.len());
    for (key, entry) in json.tensors {
        let raw = entry.check(&key)?;
        tensors.insert(key.into_owned(), raw);
    }
    Ok(Entries { metadata: json.metadata, tensors })
}

/// Checks that the tensors cover the data from its first to its last byte, each byte once.
fn check_layout(
    tensors: &IndexMap<String, RawTensor>,
    data_start: u64,
    data_len: u64,
) -> Result<(), Problem> {
    let mut order: Vec<(&String, &RawTensor)> = tensors.iter().collect();
    order.sort_by_key(|(_, raw)| (raw.start, raw.end));
    let mut end = 0;
    let mut before: Option<&str> = None;
    for (key, raw) in order {
        if raw.start < end {
            let before = Quoted(before.unwrap_or_default());
            return Err(Problem::tensor(
                key,
                format!("its data starts at {}, inside {before}, which ends at {end}", raw.start),
            ));
        }
        if raw.start > end {
            let gap = raw.start - end;
            return Err(Problem::tensor(
                key,
                format!("its data starts at {}, behind a gap of {gap} bytes", raw.start),
            ));
        }
        end = raw.end;
        before = Some(key);
    }
    if end > data_len {
        return Err(Problem::CutShort {
            expected: data_start.saturating_add(end),
            actual: data_start + data_len,
        });
    }
    if end < data_len {
        return Err(Problem::Header(format!(
            "{} bytes follow the last tensor, and the format allows none",
            data_len - end
        )));
    }
    Ok(())
}

/// The header as JSON has it.
struct Json<'a> {
    metadata: IndexMap<String, String>,
    tensors: IndexMap<Cow<'a, str>, JsonTensor<'a>>,
}

/// A tensor's entry as JSON has it. Other fields are ignored, as the format's own reader does.
#[derive(Deserialize)]
struct JsonTensor<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Dims,
    data_offsets: (u64, u64),
}

impl JsonTensor<'_> {
    /// Checks the entry on its own: the dtype is known and the shape takes as many bytes as there are.
    fn check(self, key: &str) -> Result<RawTensor, Problem> {
        let (start, end) = self.data_offsets;
        let Some(stored) = end.checked_sub(start) else {
            return Err(Problem::tensor(key, format!("its data ends at {end}, before {start}")));
        };
        let shape = self.shape.0;
        let dtype = Dtype::from_name(&self.dtype);
        let needed = match dtype {
            Some(dtype) => Some(dtype.encoding().bytes(&shape)),
            None => unread::bits(&self.dtype).map(|bits| unread::bytes(bits, &shape)),
        };
        match needed {
            Some(Some(needed)) if needed != stored => Err(Problem::tensor(
                key,
                format!(
                    "{} {shape:?} takes {needed} bytes and has {stored}",
                    Shortened(&self.dtype)
                ),
            )),
            Some(None) => Err(Problem::tensor(key, format!("its shape {shape:?} is too large"))),
            // Of a dtype that nobody knows, only the bytes are known.
            Some(Some(_)) | None => {
                let dtype = dtype.ok_or_else(|| self.dtype.into_owned());
                Ok(RawTensor { dtype, shape, start, end })
            }
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct JsonVisitor;

        impl<'de> Visitor<'de> for JsonVisitor {
            type Value = Json<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
                let mut metadata: Option<IndexMap<String, String>> = None;
                let mut tensors = IndexMap::new();
                while let Some(Text(key)) = map.next_key()? {
                    if key == "__metadata__" {
                        let value: Option<Strings> = map.next_value()?;
                        if metadata.replace(value.unwrap_or_default().0).is_some() {
                            return Err(A::Error::custom("`__metadata__` is there twice"));
                        }
                        continue;
                    }
                    let entry = map.next_value::<JsonTensor<'de>>();
                    let entry = entry
                        .map_err(|e| A::Error::custom(format!("tensor {}: {e}", Quoted(&key))))?;
                    match tensors.entry(key) {
                        Entry::Vacant(vacant) => vacant.insert(entry),
                        Entry::Occupied(there) => {
                            let key = Quoted(there.key());
                            return Err(A::Error::custom(format!("tensor {key} is there twice")));
                        }
                    };
                }
                Ok(Json { metadata: metadata.unwrap_or_default(), tensors })
            }
        }

        deserializer.deserialize_map(JsonVisitor)
    }
}

/// A string, borrowed where JSON has it without escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object of strings without duplicate keys: `__metadata__`.
#[derive(Default)]
struct Strings(IndexMap<String, String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringsVisitor;

        impl<'de> Visitor<'de> for StringsVisitor {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
                let mut strings = IndexMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = map.next_value::<String>().map_err(|e| {
                        A::Error::custom(format!("`__metadata__` {}: {e}", Quoted(&key)))
                    })?;
                    match strings.entry(key) {
                        Entry::Vacant(vacant) => vacant.insert(value),
                        Entry::Occupied(there) => {
                            let key = Quoted(there.key());
                            return Err(A::Error::custom(format!(
                                "`__metadata__` {key} is there twice"
                            )));
                        }
                    };
                }
                Ok(Strings(strings))
            }
        }

        deserializer.deserialize_map(StringsVisitor)
    }
}

/// A shape of at most [`MAX_RANK`] dimensions.
struct Dims(Vec<usize>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DimsVisitor;

        impl<'de> Visitor<'de> for DimsVisitor {
            type Value = Dims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dims, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = seq.next_element()? {
                    if dims.len() == MAX_RANK {
                        return Err(A::Error::custom(format!("more than {MAX_RANK} dimensions")));
                    }
                    dims.push(dim);
                }
                Ok(Dims(dims))
            }
        }

        deserializer.deserialize_seq(DimsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        file.resize(file.len() + data, 0);
        file
    }

    #[test]
    fn a_header_is_read_in_its_own_order() {
        let header = r#"{"__metadata__":{"format":"pt","a\nb":"ö"},
            "b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16],"more":[{}]},
            "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
            "none":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]}}   "#;
        let read = read_header(&file(header, 16)).unwrap();
        assert_eq!(read.tensors.keys().collect::<Vec<_>>(), ["b", "a", "none"]);
        assert_eq!(read.tensors["b"].shape, [2, 3]);
        assert_eq!(read.tensors["a"].bytes(), 4);
        assert_eq!(read.tensors["none"].elements(), 0);
        assert_eq!(read.metadata["a\nb"], "ö");
    }

    #[test]
    fn each_lie_is_named() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        for (header, data, expected) in [
            (one("F32", "[2]", "[0,8]"), 7, "1 bytes short"),
            (one("F32", "[2]", "[0,8]"), 9, "1 bytes follow"),
            (one("F32", "[2]", "[0,12]"), 12, "`w`: F32 [2] takes 8 bytes and has 12"),
            (one("F32", "[2]", "[8,0]"), 8, "`w`: its data ends at 0, before 8"),
            (one("F32", "[2]", "[4,12]"), 12, "`w`: its data starts at 4, behind a gap of 4"),
            (one("U16", "[2]", "[0,8]"), 8, "`w`: U16 [2] takes 4 bytes and has 8"),
            (one("F4", "[3]", "[0,2]"), 2, "`w`: its shape"),
            (one("U17", "[2]", "[0,4]"), 3, "1 bytes short"),
            (one("F32", "[-2]", "[0,8]"), 8, "tensor `w`: invalid value: integer `-2`"),
            (one("F32", "[2.5]", "[0,8]"), 8, "tensor `w`: invalid type: floating point"),
            (one("F32", "2", "[0,8]"), 8, "tensor `w`: invalid type"),
            (one("F32", "[2]", "[0,8,9]"), 8, "tensor `w`: "),
            (one("F64", "[4294967296,4294967296]", "[0,0]"), 0, "`w`: its shape"),
            (one("F64", "[18446744073709551615]", "[0,0]"), 0, "`w`: its shape"),
            (one("F32", &format!("[{}1]", "1,".repeat(64)), "[0,4]"), 4, "more than 64 dimensions"),
            (r#"{"w":{"dtype":"F32","shape":[2]}}"#.into(), 0, "tensor `w`: missing field"),
            (r#"{"w":3}"#.into(), 0, "tensor `w`: invalid type"),
            (r#"{"__metadata__":{"a":1}}"#.into(), 0, "`__metadata__` `a`: invalid type"),
            (
                r#"{"__metadata__":{"a":"1","a":"2"}}"#.into(),
                0,
                "`__metadata__` `a` is there twice",
            ),
            (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0, "`__metadata__` is there twice"),
            ("[]".into(), 0, "does not start with `{`"),
            (" {}".into(), 0, "does not start with `{`"),
            ("{} x".into(), 0, "trailing characters"),
            (r#"{"a":"#.into(), 0, "EOF"),
            (format!(r#"{{"a":{}"#, "[".repeat(100_000)), 0, "tensor `a`"),
        ] {
            let message = read_header(&file(&header, data)).unwrap_err().to_string();
            assert!(message.contains(expected), "{header}: {message}");
        }
    }

    #[test]
    fn overlaps_and_duplicates_name_the_tensor() {
        let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                         "b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}"#;
        let message = read_header(&file(header, 7)).unwrap_err().to_string();
        assert!(message.contains("`b`: its data starts at 3, inside `a`"), "{message}");
        // The second key is the first one, written with an escape.
        let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                         "\u0061":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        let message = read_header(&file(header, 4)).unwrap_err().to_string();
        assert!(message.contains("tensor `a` is there twice"), "{message}");
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut lying = file("{}", 0);
        lying[7] = 0x80;
        let message = read_header(&lying).unwrap_err().to_string();
        assert!(message.contains("9223372036854775810 bytes, over the limit"), "{message}");
        let message = read_header(&[3, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']).unwrap_err().to_string();
        assert!(message.contains("has 10 bytes of 11"), "{message}");
        assert!(read_header(&[1, 2, 3]).unwrap_err().to_string().contains("cut short"));
        let not_utf8 = read_header(b"\x03\0\0\0\0\0\0\0{\xff}").unwrap_err().to_string();
        assert!(not_utf8.contains("byte 9 is not UTF-8"), "{not_utf8}");
    }
}
