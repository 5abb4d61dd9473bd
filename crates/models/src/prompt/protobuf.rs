//! The wire format of protocol buffers, as far as reading needs it
//! (<https://protobuf.dev/programming-guides/encoding/>): a message is a row of numbered fields.

/// A field's value as it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// A whole number, a truth value or a member of an enumeration.
    Number(u64),
    /// Four bytes, little-endian: a float.
    Four([u8; 4]),
    /// Eight bytes, little-endian.
    Eight([u8; 8]),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
}

/// A message that ends within a field, or holds one of a kind that is not written any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// The fields of a message, with their numbers, in order.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Damaged> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => Value::Eight(*self.chunk()?),
            2 => {
                let count = usize::try_from(self.number()?).map_err(|_| Damaged)?;
                let (bytes, rest) = self.rest.split_at_checked(count).ok_or(Damaged)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            5 => Value::Four(*self.chunk()?),
            _ => return Err(Damaged),
        };
        Ok((tag >> 3, value))
    }

    fn chunk<const N: usize>(&mut self) -> Result<&'a [u8; N], Damaged> {
        let (chunk, rest) = self.rest.split_first_chunk().ok_or(Damaged)?;
        self.rest = rest;
        Ok(chunk)
    }

    /// Groups of seven bits from the lowest on; every byte but the last has its highest bit set.
    fn number(&mut self) -> Result<u64, Damaged> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = *self.chunk()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Damaged)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the format's description, and one of each other kind.
    #[test]
    fn fields_are_read() {
        let read = |bytes: &'static [u8]| Fields::of(bytes).collect::<Vec<_>>();
        assert_eq!(read(b"\x08\x96\x01"), [Ok((1, Value::Number(150)))]);
        assert_eq!(read(b"\x12\x07testing"), [Ok((2, Value::Bytes(b"testing")))]);
        assert_eq!(
            read(b"\x0d\0\0\x80\x3f\x11\x01\0\0\0\0\0\0\0"),
            [
                Ok((1, Value::Four([0, 0, 0x80, 0x3f]))),
                Ok((2, Value::Eight([1, 0, 0, 0, 0, 0, 0, 0])))
            ]
        );
        let minus = b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(read(minus), [Ok((3, Value::Number(u64::MAX)))]);
        assert_eq!(read(b""), []);
    }

    #[test]
    fn damage_is_an_error_and_the_end() {
        for bytes in [
            &b"\x08"[..],
            b"\x08\x80",
            b"\x12\x07test",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0d\0\0",
            b"\x0b",
        ] {
            assert_eq!(Fields::of(bytes).collect::<Vec<_>>(), [Err(Damaged)], "{bytes:?}");
        }
    }
}
