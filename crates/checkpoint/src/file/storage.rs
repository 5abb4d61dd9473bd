//! Storages, and tensors as strided views of them.

use std::borrow::Cow;
use std::io::Read;
use std::ops::Range;

use flate2::Crc;
use flate2::read::DeflateDecoder;

use crate::dtype::Dtype;
use crate::file::error::Problem;

/// A run of elements that tensors are views of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Storage {
    /// Where it is in the file.
    pub span: Range<usize>,
    /// Bytes of its data.
    pub bytes: u64,
    /// The CRC-32 of its data, if `span` is a DEFLATE stream.
    pub deflated: Option<u32>,
    /// Whether its elements have their first byte last.
    pub big_endian: bool,
}

/// A tensor that is not simply a span of the file: a view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Strided {
    /// Number of the storage.
    pub storage: usize,
    /// The first element's number.
    pub first: usize,
    /// Elements from one index to the next, of each dimension.
    pub strides: Vec<usize>,
}

impl Storage {
    /// The tensor's elements, row-major and little-endian, from what the file has at `span`.
    ///
    /// `strided` has been checked against the storage's bytes.
    pub(crate) fn gather(
        &self,
        stored: &[u8],
        dtype: Dtype,
        shape: &[usize],
        strided: &Strided,
    ) -> Result<Vec<u8>, Problem> {
        let data = self.data(stored)?;
        // Views of blocks are not stored so: a block is an element.
        let element = dtype.size();
        let mut gathered = match element {
            1 => gather::<1>(&data, shape, strided),
            2 => gather::<2>(&data, shape, strided),
            4 => gather::<4>(&data, shape, strided),
            _ => gather::<8>(&data, shape, strided),
        }?;
        if self.big_endian {
            gathered.chunks_exact_mut(element).for_each(<[u8]>::reverse);
        }
        Ok(gathered)
    }

    fn data<'a>(&self, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, Problem> {
        match self.deflated {
            None => Ok(Cow::Borrowed(stored)),
            Some(crc) => inflate(stored, self.bytes, crc).map(Cow::Owned),
        }
    }
}

/// Inflates a DEFLATE stream that holds exactly so many bytes.
pub(crate) fn inflate(stream: &[u8], bytes: u64, crc: u32) -> Result<Vec<u8>, Problem> {
    let mut inflated = Vec::new();
    // Not reserved at once: `bytes` is what the file says, and only the stream proves it.
    let read = DeflateDecoder::new(stream).take(bytes.saturating_add(1)).read_to_end(&mut inflated);
    read.map_err(|e| Problem::Zip(format!("a compressed entry is damaged: {e}")))?;
    if inflated.len() as u64 != bytes {
        return Err(Problem::Zip(format!(
            "a compressed entry has {} bytes, not the {bytes} that the directory says",
            if inflated.len() as u64 > bytes {
                "more".to_owned()
            } else {
                inflated.len().to_string()
            }
        )));
    }
    let mut sum = Crc::new();
    sum.update(&inflated);
    if sum.sum() != crc {
        return Err(Problem::Zip("a compressed entry is damaged: its checksum differs".into()));
    }
    Ok(inflated)
}

/// Collects the elements of `N` bytes in the order of their indices.
fn gather<const N: usize>(
    data: &[u8],
    shape: &[usize],
    strided: &Strided,
) -> Result<Vec<u8>, Problem> {
    let elements = data.as_chunks::<N>().0;
    let count: usize = shape.iter().product();
    let mut gathered = Vec::with_capacity(count * N);
    // The innermost dimension is a run of its own, the others are counted up like an odometer.
    let (run, outer) = shape.split_last().map_or((1, shape), |(&run, outer)| (run, outer));
    let stride = strided.strides.last().copied().unwrap_or(1);
    let mut index = vec![0; outer.len()];
    let mut at = strided.first;
    while gathered.len() < count * N {
        let outside = || Problem::Zip("a tensor reaches out of its storage".into());
        if stride == 1 {
            let run = elements.get(at..at + run).ok_or_else(outside)?;
            gathered.extend_from_slice(run.as_flattened());
        } else {
            for i in 0..run {
                gathered.extend_from_slice(elements.get(at + i * stride).ok_or_else(outside)?);
            }
        }
        for ((index, &dim), &stride) in index.iter_mut().zip(outer).zip(&strided.strides).rev() {
            *index += 1;
            at += stride;
            if *index < dim {
                break;
            }
            at -= dim * stride;
            *index = 0;
        }
    }
    Ok(gathered)
}
