//! Numbers as Python reads them.

/// The number that Python's `float()` makes of a text: as written in Rust, with blanks around, digits of
/// any script, and `_` between two digits. `None` where it makes none.
pub(super) fn python_float(text: &str) -> Option<f64> {
    let text: String = text.trim().chars().map(ascii_digit).collect();
    let digit_at = |at: Option<usize>| {
        at.and_then(|at| text.as_bytes().get(at)).is_some_and(u8::is_ascii_digit)
    };
    let is_between =
        |(at, _): (usize, &str)| digit_at(at.checked_sub(1)) && digit_at(at.checked_add(1));
    if !text.match_indices('_').all(is_between) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// The ASCII digit of the same value.
fn ascii_digit(c: char) -> char {
    let code = u32::from(c);
    let value = ZEROS.iter().rev().find(|zero| **zero <= code).map(|zero| code - zero);
    value.and_then(|value| char::from_digit(value, 10)).unwrap_or(c)
}

/// The digits 0 of all scripts but ASCII's; 1 to 9 follow each.
const ZEROS: [u32; 65] = [
    0x0660,
    0x06f0,
    0x07c0,
    0x0966,
    0x09e6,
    0x0a66,
    0x0ae6,
    0x0b66,
    0x0be6,
    0x0c66,
    0x0ce6,
    0x0d66,
    0x0de6,
    0x0e50,
    0x0ed0,
    0x0f20,
    0x1040,
    0x1090,
    0x17e0,
    0x1810,
    0x1946,
    0x19d0,
    0x1a80,
    0x1a90,
    0x1b50,
    0x1bb0,
    0x1c40,
    0x1c50,
    0xa620,
    0xa8d0,
    0xa900,
    0xa9d0,
    0xa9f0,
    0xaa50,
    0xabf0,
    0xff10,
    0x0001_04a0,
    0x0001_0d30,
    0x0001_1066,
    0x0001_10f0,
    0x0001_1136,
    0x0001_11d0,
    0x0001_12f0,
    0x0001_1450,
    0x0001_14d0,
    0x0001_1650,
    0x0001_16c0,
    0x0001_1730,
    0x0001_18e0,
    0x0001_1950,
    0x0001_1c50,
    0x0001_1d50,
    0x0001_1da0,
    0x0001_6a60,
    0x0001_6ac0,
    0x0001_6b50,
    0x0001_d7ce,
    0x0001_d7d8,
    0x0001_d7e2,
    0x0001_d7ec,
    0x0001_d7f6,
    0x0001_e140,
    0x0001_e2f0,
    0x0001_e950,
    0x0001_fbf0,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// As Python 3 answers.
    #[test]
    fn as_python_reads() {
        for (text, number) in [
            ("1.5", 1.5),
            (" 2 ", 2.0),
            ("\u{a0}3\u{3000}\t", 3.0),
            ("1_3", 13.0),
            ("1_0.2_5e0_1", 102.5),
            ("+1", 1.0),
            ("-.5", -0.5),
            ("5.", 5.0),
            ("1e2", 100.0),
            ("1E-2", 0.01),
            ("inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("1e999", f64::INFINITY),
            ("\u{ff11}.\u{ff15}", 1.5),
            ("\u{661}\u{662}", 12.0),
            ("\u{1d7d8}", 0.0),
        ] {
            assert_eq!(python_float(text), Some(number), "{text:?}");
        }
        assert!(python_float("nan").is_some_and(f64::is_nan));
        for text in [
            "",
            " ",
            "_1",
            "1_",
            "1__3",
            "1_.5",
            "1._5",
            "1e_5",
            "1_e5",
            "1,5",
            "0x1",
            "1 2",
            "1.2.3",
            ".",
            "e5",
            "--1",
            "1f",
            "i_nf",
            "\u{b2}",
            "\u{4e00}",
            "\u{2212}1",
        ] {
            assert_eq!(python_float(text), None, "{text:?}");
        }
    }
}
