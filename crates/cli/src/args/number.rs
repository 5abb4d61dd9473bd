//! Numbers on the command line, checked where they are read.

use std::ops::RangeInclusive;

/// Pixels of the picture to one of the latent: sides are multiples of it.
const CELL: u32 = 8;

/// Reads a number in a range, its ends included.
pub fn within(range: RangeInclusive<f64>) -> impl Parser<f64> {
    move |text: &str| {
        let form = || format!("write a number from {} to {}", range.start(), range.end());
        let comma = || text.replace(',', ".").trim().parse::<f64>().is_ok();
        match text.trim().parse() {
            // NaN is in no range.
            Ok(number) if range.contains(&number) => Ok(number),
            Err(_) if comma() => Err(format!("{}, with a dot before its decimals", form())),
            _ => Err(form()),
        }
    }
}

/// Reads a whole number in a range, its ends included.
pub fn whole(range: RangeInclusive<u32>) -> impl Parser<u32> {
    move |text: &str| match text.trim().parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("write a whole number from {} to {}", range.start(), range.end())),
    }
}

/// Reads a side of a picture in pixels, of which a latent has one for each eight.
pub fn side(range: RangeInclusive<u32>) -> impl Parser<u32> {
    move |text: &str| match text.trim().parse::<u32>() {
        Ok(side) if range.contains(&side) && side.is_multiple_of(CELL) => Ok(side),
        Ok(side) if range.contains(&side) => {
            let near = [side / CELL * CELL, side.next_multiple_of(CELL)];
            let near = near.iter().filter(|side| range.contains(side)).map(u32::to_string);
            let near = near.collect::<Vec<_>>().join(" or ");
            Err(format!("sides are multiples of {CELL} pixels; try {near}"))
        }
        _ => {
            let (min, max) = (range.start(), range.end());
            Err(format!("write a multiple of {CELL} from {min} to {max}, in pixels"))
        }
    }
}

/// What clap reads a value with.
pub trait Parser<T>: Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {}

impl<T, F: Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static> Parser<T> for F {}

/// Where noise starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedArg {
    /// This seed.
    Given(u64),
    /// Another one each time.
    Random,
}

impl std::str::FromStr for SeedArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            // Other programs write -1 for it.
            "random" | "-1" => Ok(Self::Random),
            text => text
                .parse()
                .map(Self::Given)
                .map_err(|_| format!("write a whole number from 0 to {}, or `random`", u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_range() {
        for (text, number) in [("0", 0.0), ("1", 1.0), ("0.25", 0.25), (".5", 0.5), ("1e-3", 1e-3)]
        {
            assert_eq!(within(0.0..=1.0)(text), Ok(number));
        }
        for text in ["nan", "NaN", "inf", "-inf", "-0.1", "1.01", "", "half", "1e400"] {
            let error = within(0.0..=1.0)(text).unwrap_err();
            assert!(error.contains("a number from 0 to 1"), "{text}: {error}");
        }
        let comma = within(0.0..=1.0)("0,5").unwrap_err();
        assert!(comma.contains("a dot"), "{comma}");
    }

    #[test]
    fn whole_numbers_and_sides() {
        assert_eq!(whole(1..=9)("9"), Ok(9));
        for text in ["0", "10", "-1", "1.5", "x", "99999999999"] {
            let error = whole(1..=9)(text).unwrap_err();
            assert!(error.contains("from 1 to 9"), "{error}");
        }
        assert_eq!(side(16..=16384)("512"), Ok(512));
        let says = |text: &str| side(16..=16384)(text).unwrap_err();
        assert!(says("100").contains("try 96 or 104"));
        assert!(says("17").contains("try 16 or 24"));
        for text in ["0", "8", "-64", "16392", "512px"] {
            assert!(says(text).contains("multiple of 8 from 16 to 16384"), "{text}");
        }
    }

    #[test]
    fn seeds() {
        assert_eq!("0".parse(), Ok(SeedArg::Given(0)));
        assert_eq!("18446744073709551615".parse(), Ok(SeedArg::Given(u64::MAX)));
        assert_eq!("-1".parse(), Ok(SeedArg::Random));
        assert_eq!("random".parse(), Ok(SeedArg::Random));
        for text in ["-2", "18446744073709551616", "1.5", "", "x"] {
            let error = text.parse::<SeedArg>().unwrap_err();
            assert!(error.contains("from 0 to 18446744073709551615"), "{error}");
        }
    }
}
