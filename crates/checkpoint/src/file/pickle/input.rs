//! The bytes of a pickle, read from front to back.

use crate::file::error::Problem;

/// A position in a pickle.
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the opcode that is carried out starts: what errors point at.
    opcode: usize,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8], start: usize) -> Input<'a> {
        Input { bytes, at: start, opcode: start }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn opcode_position(&self) -> u64 {
        self.opcode as u64
    }

    /// An error at the current opcode.
    pub(super) fn bad(&self, reason: impl Into<String>) -> Problem {
        Problem::Pickle { offset: self.opcode_position(), reason: reason.into() }
    }

    pub(super) fn opcode(&mut self) -> Result<u8, Problem> {
        self.opcode = self.at;
        self.u8()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Problem> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest.get(..count) {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => Err(self.bad(format!("it ends {} bytes too early", count - rest.len()))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Problem> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Problem> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Problem> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn f64_be(&mut self) -> Result<f64, Problem> {
        self.array().map(f64::from_be_bytes)
    }

    /// Bytes behind a length of one byte.
    pub(super) fn counted_u8(&mut self) -> Result<&'a [u8], Problem> {
        let count = self.u8()?;
        self.take(count.into())
    }

    /// Bytes behind a signed length of four bytes.
    pub(super) fn counted_i32(&mut self) -> Result<&'a [u8], Problem> {
        let count = self.i32()?;
        let count = usize::try_from(count).map_err(|_| self.bad("negative length"))?;
        self.take(count)
    }

    /// Bytes behind a length of four bytes.
    pub(super) fn counted_u32(&mut self) -> Result<&'a [u8], Problem> {
        let count = self.u32()?;
        self.take(count as usize)
    }

    /// Bytes behind a length of eight bytes.
    pub(super) fn counted_u64(&mut self) -> Result<&'a [u8], Problem> {
        let count = u64::from_le_bytes(self.array()?);
        let count = usize::try_from(count).map_err(|_| self.bad("length too large"))?;
        self.take(count)
    }

    /// A line without its end.
    pub(super) fn line(&mut self) -> Result<&'a [u8], Problem> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        // No line that tensors need is long; the bound keeps the search short in a large file.
        let window = rest.get(..MAX_LINE).unwrap_or(rest);
        match window.iter().position(|&byte| byte == b'\n') {
            Some(end) => {
                self.at += end + 1;
                Ok(window.get(..end).unwrap_or_default())
            }
            None => Err(self.bad("a line without an end")),
        }
    }

    /// A line of text.
    pub(super) fn text_line(&mut self) -> Result<&'a str, Problem> {
        let line = self.line()?;
        self.utf8(line)
    }

    pub(super) fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str, Problem> {
        std::str::from_utf8(bytes).map_err(|_| self.bad("a string that is not UTF-8"))
    }
}

/// The longest line of a text opcode.
const MAX_LINE: usize = 1 << 20;
