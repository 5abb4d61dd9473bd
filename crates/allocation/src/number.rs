//! Exact non-negative decimal numbers, as users write them: `2.5`, `.5`, `70`.
//!
//! Shares must come out the same on every machine and sum to the component to the byte, so amounts
//! are never held as floating point.

use std::fmt;

use thiserror::Error;

/// A non-negative decimal number, exact to nine decimals; further decimals are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    billionths: u128,
}

/// Why a text is no [`Number`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NumberError {
    /// Nothing was written where a number belongs.
    #[error("a number is missing")]
    Missing,
    /// The number has a minus sign.
    #[error("a negative number makes no sense here")]
    Negative,
    /// `inf`, `infinity` or `nan`.
    #[error("the number must be finite")]
    NotFinite,
    /// Not digits with at most one decimal point.
    #[error("not a plain decimal number, such as `70` or `2.5`")]
    Malformed,
    /// More than twenty digits before the decimal point.
    #[error("the number is too large")]
    TooLarge,
}

const SCALE: u128 = 1_000_000_000;
const DECIMALS: usize = 9;
const MAX_WHOLE_DIGITS: usize = 20;
/// The first number of too many digits, in billionths.
const LARGEST: f64 = 1e29;

impl Number {
    /// Zero.
    pub const ZERO: Number = Number { billionths: 0 };
    /// One.
    pub const ONE: Number = Number { billionths: SCALE };
    /// One hundred, the whole in per cent.
    pub const HUNDRED: Number = Number { billionths: 100 * SCALE };

    /// Reads `digits`, `digits.digits`, `digits.` or `.digits`.
    ///
    /// # Errors
    /// Signs, exponents, `inf`, `nan` and anything that is not a digit or the one point.
    pub fn parse(text: &str) -> Result<Number, NumberError> {
        if text.is_empty() {
            return Err(NumberError::Missing);
        }
        if text.starts_with('-') {
            return Err(NumberError::Negative);
        }
        if ["inf", "infinity", "nan"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
            return Err(NumberError::NotFinite);
        }
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || (whole.is_empty() && decimals.is_empty()) {
            return Err(NumberError::Malformed);
        }
        let whole = whole.trim_start_matches('0');
        if whole.len() > MAX_WHOLE_DIGITS {
            return Err(NumberError::TooLarge);
        }
        let padded = decimals.bytes().chain(std::iter::repeat(b'0')).take(DECIMALS);
        let billionths = whole
            .bytes()
            .chain(padded)
            .fold(0_u128, |value, digit| value * 10 + u128::from(digit - b'0'));
        Ok(Number { billionths })
    }

    /// The nearest number to `value`.
    ///
    /// # Errors
    /// Negative, non-finite and huge values.
    pub fn from_f64(value: f64) -> Result<Number, NumberError> {
        if !value.is_finite() {
            return Err(NumberError::NotFinite);
        }
        if value < 0.0 {
            return Err(NumberError::Negative);
        }
        let billionths = (value * SCALE as f64).round();
        if billionths >= LARGEST {
            return Err(NumberError::TooLarge);
        }
        Ok(Number { billionths: billionths as u128 })
    }

    /// `tenths` ÷ 10.
    pub const fn from_tenths(tenths: u32) -> Number {
        Number { billionths: tenths as u128 * (SCALE / 10) }
    }

    /// `bytes` in tenths of `unit`, rounded up.
    pub fn tenths_of(bytes: u64, unit: u64) -> Number {
        let tenths = (u128::from(bytes) * 10).div_ceil(u128::from(unit.max(1)));
        Number { billionths: tenths.saturating_mul(SCALE / 10) }
    }

    /// The nearest floating point value, for display and JSON.
    pub const fn to_f64(self) -> f64 {
        self.billionths as f64 / SCALE as f64
    }

    /// The number in units of 10⁻⁹.
    pub fn billionths(self) -> u128 {
        self.billionths
    }

    /// `self` × `unit`, rounded down; `None` if that is more than a `u64` holds.
    pub fn times(self, unit: u64) -> Option<u64> {
        let product = self.billionths.checked_mul(u128::from(unit))?;
        u64::try_from(product / SCALE).ok()
    }

    /// A hundred times as much.
    pub(crate) fn hundredfold(self) -> Number {
        Number { billionths: self.billionths.saturating_mul(100) }
    }

    pub(crate) fn saturating_add(self, other: Number) -> Number {
        Number { billionths: self.billionths.saturating_add(other.billionths) }
    }

    pub(crate) fn checked_sub(self, other: Number) -> Option<Number> {
        let billionths = self.billionths.checked_sub(other.billionths)?;
        Some(Number { billionths })
    }
}

impl serde::Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.to_f64().serialize(to)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.billionths / SCALE, self.billionths % SCALE);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{rest:0DECIMALS$}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_users_write() {
        for (text, printed) in [
            ("70", "70"),
            ("2.50", "2.5"),
            (".5", "0.5"),
            ("1.", "1"),
            ("007", "7"),
            ("0", "0"),
            ("33.3333333333333333333", "33.333333333"),
        ] {
            assert_eq!(Number::parse(text).unwrap().to_string(), printed, "{text}");
        }
    }

    #[test]
    fn bytes_are_tenths_of_a_unit_rounded_up() {
        const GIB: u64 = 1 << 30;
        for (bytes, printed) in [(0, "0"), (1, "0.1"), (GIB, "1"), (GIB + 1, "1.1"), (3 * GIB, "3")]
        {
            assert_eq!(Number::tenths_of(bytes, GIB).to_string(), printed, "{bytes}");
        }
        assert_eq!(Number::tenths_of(u64::MAX, 0).to_string(), u64::MAX.to_string());
    }

    #[test]
    fn floats_are_the_nearest_billionth() {
        for (value, printed) in [(0.1 + 0.2, "0.3"), (128.0, "128"), (2.5, "2.5"), (1e-10, "0")] {
            assert_eq!(Number::from_f64(value).unwrap().to_string(), printed, "{value}");
        }
        for (value, error) in [
            (-0.5, NumberError::Negative),
            (f64::NAN, NumberError::NotFinite),
            (f64::INFINITY, NumberError::NotFinite),
            (1e21, NumberError::TooLarge),
        ] {
            assert_eq!(Number::from_f64(value), Err(error), "{value}");
        }
    }

    #[test]
    fn refuses_what_is_no_amount() {
        for (text, error) in [
            ("", NumberError::Missing),
            ("-1", NumberError::Negative),
            ("NaN", NumberError::NotFinite),
            ("Infinity", NumberError::NotFinite),
            ("+1", NumberError::Malformed),
            ("1e3", NumberError::Malformed),
            (".", NumberError::Malformed),
            ("1.2.3", NumberError::Malformed),
            ("٣", NumberError::Malformed),
            ("123456789012345678901", NumberError::TooLarge),
        ] {
            assert_eq!(Number::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn multiplies_exactly_and_rounds_down() {
        let number = |text| Number::parse(text).unwrap();
        assert_eq!(number("0.1").times(1 << 30), Some(107_374_182));
        assert_eq!(number("2.5").times(1 << 30), Some(2_684_354_560));
        assert_eq!(number("18446744073709551615").times(1), Some(u64::MAX));
        assert_eq!(number("18446744073709551616").times(1), None);
        assert_eq!(number("99999999999999999999").times(u64::MAX), None);
    }

    #[test]
    fn floats_come_out_as_written() {
        assert_eq!(Number::from_f64(4.1).unwrap().to_string(), "4.1");
        assert_eq!(Number::from_f64(128.0).unwrap().to_string(), "128");
        assert_eq!(Number::from_f64(f64::MAX), Err(NumberError::TooLarge));
        assert_eq!(Number::from_f64(-0.1), Err(NumberError::Negative));
        assert_eq!(Number::from_f64(f64::NAN), Err(NumberError::NotFinite));
    }
}
