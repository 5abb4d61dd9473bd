//! Byte counts: the units that users write and the way sizes are printed.

use std::fmt;

/// A number of bytes, printed in the largest binary unit that keeps it at 1 or more: `2.50 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        // Half a hundredth below a unit prints as 1.00 of it, not as 1024.00 of the next.
        let reaches = |unit: u64| self.0 as f64 / unit as f64 >= 1.0 - 0.005 / 1024.0;
        let text = match units.into_iter().find(|&(_, unit)| reaches(unit)) {
            Some((name, unit)) => format!("{:.2} {name}", self.0 as f64 / unit as f64),
            None => format!("{} B", self.0),
        };
        f.pad(&text)
    }
}

/// The bytes in one unit of memory; all are powers of 1024, with or without the `i`.
pub(crate) fn memory_unit(name: &str) -> Option<u64> {
    match name.to_ascii_lowercase().as_str() {
        "b" => Some(1),
        "k" | "kb" | "kib" => Some(1 << 10),
        "m" | "mb" | "mib" => Some(1 << 20),
        "g" | "gb" | "gib" => Some(1 << 30),
        _ => None,
    }
}

/// The bytes per second in one unit of bandwidth: decimal without the `i`, as links are sold.
pub(crate) fn bandwidth_unit(name: &str) -> Option<u64> {
    match name.to_ascii_lowercase().as_str() {
        "b/s" => Some(1),
        "kb/s" => Some(1_000),
        "mb/s" => Some(1_000_000),
        "gb/s" => Some(1_000_000_000),
        "kib/s" => Some(1 << 10),
        "mib/s" => Some(1 << 20),
        "gib/s" => Some(1 << 30),
        _ => None,
    }
}

/// Bytes in the allocation language's own terms: the largest unit in which they have at most
/// three decimals, so that reading them back gives the same bytes.
pub(crate) fn written(bytes: u64) -> String {
    for (name, unit) in [("gb", 1_u64 << 30), ("mb", 1 << 20), ("kb", 1 << 10)] {
        let thousandths = u128::from(bytes) * 1000;
        if bytes >= unit && thousandths % u128::from(unit) == 0 {
            let thousandths = thousandths / u128::from(unit);
            let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
            return format!("{}{name}", text.trim_end_matches('0').trim_end_matches('.'));
        }
    }
    format!("{bytes}b")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_for_people() {
        assert_eq!(ByteSize(0).to_string(), "0 B");
        assert_eq!(ByteSize(1 << 30).to_string(), "1.00 GiB");
        assert_eq!(ByteSize((1 << 30) - 1).to_string(), "1.00 GiB");
        assert_eq!(ByteSize((1 << 30) - (1 << 20)).to_string(), "1023.00 MiB");
        assert_eq!(ByteSize(1023).to_string(), "1023 B");
        assert_eq!(ByteSize(1536).to_string(), "1.50 KiB");
        assert_eq!(ByteSize(u64::MAX).to_string(), "17179869184.00 GiB");
    }

    #[test]
    fn writes_amounts_that_read_back() {
        assert_eq!(written(5 << 29), "2.5gb");
        assert_eq!(written(500 << 20), "500mb");
        assert_eq!(written(10 << 30), "10gb");
        assert_eq!(written(1536), "1.5kb");
        assert_eq!(written(1025), "1025b");
        assert_eq!(written(0), "0b");
    }
}
