//! The allocation language: which device holds how much of a component.
//!
//! ```text
//! allocation = entry { ";" entry } [ ";" ]
//! entry      = device "," amount
//! amount     = number "%"                             a part of the component      cuda:0,70%;cpu,30%
//!            | number unit [ "*" ] | "*"              a ceiling in bytes           cuda:0,2.5gb;cpu,*
//!            | number                                 a part of the device         cuda:0,0.5;cpu,0.1
//! unit       = "gb" | "gib" | "g" | "mb" | "mib" | "m" | "kb" | "kib" | "k" | "b"
//! ```
//!
//! Case and blanks around tokens don't matter; empty entries are skipped. The amounts alone decide
//! the mode, never the device names:
//!
//! * **Ratio**, if an amount has a `%`. The numbers are parts, normalised to their sum, so that
//!   `8%;8%;4%` is 40/40/20. A bare number of 1 or more beside percentages is such a part too (`1`
//!   beside `3%` is a quarter), with a warning; one below 1 could as well be a fraction and is an
//!   error. One entry may be `*`: what is missing to 100 %.
//! * **Bytes**, if an amount has a unit, or if there is nothing but `*`. Amounts are ceilings,
//!   filled in the order written. One entry may be the wildcard and takes what is left, and what
//!   fits nowhere: `*` or an amount followed by `*`, whose number means nothing. Without one, `cpu`
//!   takes it unless it has a ceiling of its own.
//! * **Fraction**, if all amounts are bare numbers: parts of each device's total memory, from 0
//!   to 1. There is no `*` here: what is left stays on the compute device.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::device::{DeviceId, DeviceIdError};
use crate::number::{Number, NumberError};
use crate::size::{ByteSize, memory_unit, written};
use crate::span::Span;
use crate::topology::{Topology, UnknownDevice};

/// What the amounts of an allocation are parts of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Parts of the component.
    Ratio,
    /// Ceilings in bytes.
    Bytes,
    /// Parts of each device's total memory.
    Fraction,
}

/// What one entry gives to its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Parts of the component.
    Percent(Number),
    /// A ceiling in bytes.
    Bytes(u64),
    /// A part of the device's total memory.
    Fraction(Number),
    /// The wildcard: what is left.
    Rest,
}

/// One device and its amount.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The device.
    pub device: DeviceId,
    /// What it gets.
    pub amount: Amount,
    /// Whether it was a bare number, which is read as a part because of the percentages beside it.
    bare_part: bool,
    place: Place,
}

/// Two entries are equal if they mean the same, however and wherever they were written.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.device, self.amount) == (other.device, other.amount)
    }
}

impl Eq for Entry {}

/// Where an entry was written: its number and the places of its parts, all counted from 1.
#[derive(Clone, Copy, Debug)]
struct Place {
    entry: usize,
    device: usize,
    amount: usize,
}

/// A parsed allocation. Prints in a canonical form that reads back as the same allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    mode: Mode,
    entries: Vec<Entry>,
}

/// What is wrong with an allocation, and where.
///
/// Prints as `entry 2, character 12: no device …`, so that a caller puts the input's name before
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("entry {entry}, character {character}: {problem}")]
pub struct AllocationError {
    /// The entry, counted from 1; empty entries don't count.
    pub entry: usize,
    /// The place in the text in characters, counted from 1.
    pub character: usize,
    /// What is wrong there, and what to write instead.
    pub problem: AllocationProblem,
}

/// What can be wrong with an allocation.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AllocationProblem {
    /// An entry without a comma.
    #[error("`{0}` has no amount; write DEVICE,AMOUNT, such as `cuda:0,50%` or `cpu,4gb`")]
    NoAmount(String),
    /// An entry with more than one comma.
    #[error("an extra comma; entries are separated by `;`, and decimals have a point")]
    ExtraComma,
    /// The device's name is none.
    #[error(transparent)]
    Device(#[from] DeviceIdError),
    /// One device twice.
    #[error("`{0}` has an amount already; give each device one entry")]
    Duplicate(DeviceId),
    /// A bad number.
    #[error("`{amount}`: {error}")]
    Number {
        /// The amount as written.
        amount: String,
        /// What is wrong with its number.
        error: NumberError,
    },
    /// A unit that isn't one.
    #[error("`{amount}`: {}", unit_advice(number, unit))]
    Unit {
        /// The amount as written.
        amount: String,
        /// Its number.
        number: Number,
        /// What stands in the unit's place.
        unit: String,
    },
    /// An amount that a `u64` cannot hold, or parts beyond all sense.
    #[error("`{0}` is too large")]
    TooLarge(String),
    /// A second wildcard.
    #[error("a second `*`; only one device can take what is left")]
    SecondWildcard,
    /// Amounts of two modes.
    #[error("`{amount}` is {}, but the entries before it are {}; {}", one(*found), many(*mode), mixing_advice(*found, *mode))]
    Mixed {
        /// The amount as written.
        amount: String,
        /// What it is; `None` for the wildcard.
        found: Option<Mode>,
        /// What the entries before it are; `None` for the wildcard.
        mode: Option<Mode>,
    },
    /// A bare number below 1 among percentages, which can be read in two ways.
    #[error(
        "`{amount}` among percentages can be read as `{part}%`, a part like the others, or as `{}%` \
         of the model: write the one that is meant",
        part.hundredfold()
    )]
    AmbiguousPart {
        /// The amount as written.
        amount: String,
        /// Its number.
        part: Number,
    },
    /// Nothing but `0%`.
    #[error("all parts are 0%; give at least one device more than 0%")]
    AllZero,
    /// A wildcard among parts of more than 100 %.
    #[error("nothing is left for `*`: the other parts come to {0}%; lower them or leave `*` out")]
    NothingLeft(Number),
    /// A device that the machine doesn't have.
    #[error(transparent)]
    Unknown(#[from] UnknownDevice),
    /// More bytes than the device has.
    #[error("`{device}` has {} in all; ask for at most `{}`", ByteSize(*total), written(*total))]
    OverCapacity {
        /// The device.
        device: DeviceId,
        /// All of its memory, in bytes.
        total: u64,
    },
    /// A fraction over 1.
    #[error(
        "{fraction} is more than all of `{device}`; a bare number is a part of the device's memory from 0 to 1; for a part of the model write `{fraction}%`, for a size `{fraction}gb`"
    )]
    OverWhole {
        /// The device.
        device: DeviceId,
        /// What was asked.
        fraction: Number,
    },
}

fn unit_advice(number: &Number, unit: &str) -> String {
    let lower = unit.to_ascii_lowercase();
    if matches!(lower.as_str(), "t" | "tb" | "tib") {
        let gigabytes = number.times(1024).unwrap_or(u64::MAX);
        return format!("there is no unit `{unit}`; write `{gigabytes}gb`");
    }
    if lower == "*" {
        return "a wildcard is `*` alone, or an amount with a unit and `*`".to_owned();
    }
    format!("`{unit}` is no unit; write gb, mb, kb or b for a size, `%` for a part of the model")
}

fn one(mode: Option<Mode>) -> &'static str {
    match mode {
        Some(Mode::Ratio) => "a part of the model (`%`)",
        Some(Mode::Bytes) => "a size",
        Some(Mode::Fraction) => "a part of the device's memory",
        None => "the wildcard",
    }
}

fn many(mode: Option<Mode>) -> &'static str {
    match mode {
        Some(Mode::Ratio) => "parts of the model (`%`)",
        Some(Mode::Bytes) => "sizes",
        Some(Mode::Fraction) => "parts of devices' memory",
        None => "the wildcard",
    }
}

fn mixing_advice(found: Option<Mode>, mode: Option<Mode>) -> &'static str {
    if found.is_none() || mode.is_none() {
        "`*` goes with `%` or with sizes; without it, the rest stays on the compute device"
    } else {
        "write all amounts alike"
    }
}

/// The parts of a ratio may come to this much, which keeps their arithmetic exact.
const MAX_PART: u64 = 1_000_000_000;

impl Allocation {
    /// Reads an allocation; a text without entries is none.
    ///
    /// Only the text is looked at. Whether the devices exist and hold that much is
    /// [`Allocation::check`]'s question.
    ///
    /// # Errors
    /// [`AllocationError`] with the first thing that is wrong.
    pub fn parse(text: &str) -> Result<Option<Allocation>, AllocationError> {
        let mut raw = Vec::new();
        let mut seen = BTreeSet::new();
        let spans = Span::whole(text).split(';').filter(|span| !span.text.is_empty());
        for (index, span) in spans.enumerate() {
            let entry = RawEntry::parse(text, index + 1, span)?;
            if !seen.insert(entry.device) {
                return Err(entry.device_error(AllocationProblem::Duplicate(entry.device)));
            }
            raw.push(entry);
        }
        if raw.is_empty() {
            return Ok(None);
        }
        let mode = common_mode(&raw)?;
        let entries = raw.iter().map(|entry| entry.in_mode(mode)).collect::<Result<Vec<_>, _>>()?;
        let allocation = Allocation { mode, entries };
        allocation.check_sum()?;
        Ok(Some(allocation))
    }

    /// At most `bytes` on `device` and the rest on `cpu`; `None` where that is the device.
    pub fn ceiling_beside_cpu(device: DeviceId, bytes: u64) -> Option<Allocation> {
        let entry = |at: usize, device, amount| Entry {
            device,
            amount,
            bare_part: false,
            place: Place { entry: at, device: 1, amount: 1 },
        };
        let entries =
            vec![entry(1, device, Amount::Bytes(bytes)), entry(2, DeviceId::CPU, Amount::Rest)];
        (!device.is_cpu()).then_some(Allocation { mode: Mode::Bytes, entries })
    }

    /// What the amounts are parts of.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The entries in the order written.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The bare numbers that are read as parts because of the percentages beside them, in the order
    /// written.
    pub(crate) fn bare_parts(&self) -> impl Iterator<Item = (DeviceId, Number)> {
        self.entries.iter().filter(|entry| entry.bare_part).filter_map(|entry| match entry.amount {
            Amount::Percent(part) => Some((entry.device, part)),
            _ => None,
        })
    }

    /// The ceiling of a device, in bytes, if it has one.
    pub(crate) fn ceiling(&self, device: DeviceId) -> Option<u64> {
        let entry = self.entries.iter().find(|entry| entry.device == device)?;
        match entry.amount {
            Amount::Bytes(ceiling) => Some(ceiling),
            _ => None,
        }
    }

    /// The device that takes what is left, if one is named.
    pub fn wildcard(&self) -> Option<DeviceId> {
        self.entries.iter().find(|entry| entry.amount == Amount::Rest).map(|entry| entry.device)
    }

    /// The parts of a ratio, in the order written, with the wildcard's share worked out; they sum
    /// to more than 0. Empty for the other modes.
    pub(crate) fn parts(&self) -> Vec<(DeviceId, Number)> {
        if self.mode != Mode::Ratio {
            return Vec::new();
        }
        let rest = Number::HUNDRED.checked_sub(self.written_sum()).unwrap_or(Number::ZERO);
        let part = |entry: &Entry| match entry.amount {
            Amount::Percent(number) | Amount::Fraction(number) => (entry.device, number),
            Amount::Rest => (entry.device, rest),
            Amount::Bytes(_) => (entry.device, Number::ZERO),
        };
        self.entries.iter().map(part).collect()
    }

    /// Checks that the machine has the devices, and that no amount is more than a device's total
    /// memory.
    ///
    /// # Errors
    /// [`AllocationError`] with the first entry that asks too much.
    pub fn check(&self, topology: &Topology) -> Result<(), AllocationError> {
        for entry in &self.entries {
            let info = topology.get(entry.device).map_err(|unknown| AllocationError {
                entry: entry.place.entry,
                character: entry.place.device,
                problem: unknown.into(),
            })?;
            let device = entry.device;
            let problem = match entry.amount {
                Amount::Bytes(bytes) if bytes > info.total => {
                    AllocationProblem::OverCapacity { device, total: info.total }
                }
                Amount::Fraction(fraction) if fraction > Number::ONE => {
                    AllocationProblem::OverWhole { device, fraction }
                }
                _ => continue,
            };
            return Err(entry.amount_error(problem));
        }
        Ok(())
    }

    fn written_sum(&self) -> Number {
        let written = self.entries.iter().filter_map(|entry| match entry.amount {
            Amount::Percent(number) => Some(number),
            _ => None,
        });
        written.fold(Number::ZERO, Number::saturating_add)
    }

    /// A ratio must come to something, and to no more than 100 % beside a wildcard.
    fn check_sum(&self) -> Result<(), AllocationError> {
        if self.mode != Mode::Ratio {
            return Ok(());
        }
        let sum = self.written_sum();
        let wildcard = self.entries.iter().find(|entry| entry.amount == Amount::Rest);
        match (wildcard, self.entries.first()) {
            (Some(entry), _) if sum > Number::HUNDRED => {
                Err(entry.amount_error(AllocationProblem::NothingLeft(sum)))
            }
            (None, Some(entry)) if sum == Number::ZERO => {
                Err(entry.amount_error(AllocationProblem::AllZero))
            }
            _ => Ok(()),
        }
    }
}

impl Entry {
    fn amount_error(&self, problem: AllocationProblem) -> AllocationError {
        AllocationError { entry: self.place.entry, character: self.place.amount, problem }
    }
}

/// An entry before the mode of the whole is known.
struct RawEntry<'a> {
    device: DeviceId,
    amount: RawAmount,
    written: &'a str,
    place: Place,
}

#[derive(Clone, Copy, PartialEq)]
enum RawAmount {
    Percent(Number),
    Bytes(u64),
    /// A bare number: a fraction, or a part beside percentages.
    Bare(Number),
    Wildcard,
    /// An amount with a unit and `*`, which makes the whole a list of sizes.
    SizedWildcard,
}

impl RawAmount {
    fn is_wildcard(self) -> bool {
        matches!(self, RawAmount::Wildcard | RawAmount::SizedWildcard)
    }
}

impl<'a> RawEntry<'a> {
    fn parse(text: &str, number: usize, span: Span<'a>) -> Result<Self, AllocationError> {
        let at = |place: Span<'_>, problem| AllocationError {
            entry: number,
            character: place.character_in(text),
            problem,
        };
        let Some((name, amount)) = span.split_once(',') else {
            return Err(at(span, AllocationProblem::NoAmount(span.text.to_owned())));
        };
        if let Some(comma) = amount.find(',') {
            return Err(at(comma, AllocationProblem::ExtraComma));
        }
        let device = name.text.parse().map_err(|error: DeviceIdError| at(name, error.into()))?;
        let parsed = parse_amount(amount).map_err(|problem| at(amount, problem))?;
        let place = Place {
            entry: number,
            device: name.character_in(text),
            amount: amount.character_in(text),
        };
        Ok(RawEntry { device, amount: parsed, written: amount.text, place })
    }

    fn device_error(&self, problem: AllocationProblem) -> AllocationError {
        AllocationError { entry: self.place.entry, character: self.place.device, problem }
    }

    fn amount_error(&self, problem: AllocationProblem) -> AllocationError {
        AllocationError { entry: self.place.entry, character: self.place.amount, problem }
    }

    /// The entry as one of an allocation of this mode, which [`common_mode`] found to suit it.
    fn in_mode(&self, mode: Mode) -> Result<Entry, AllocationError> {
        let bare_part = matches!((self.amount, mode), (RawAmount::Bare(_), Mode::Ratio));
        let amount = match (self.amount, mode) {
            (RawAmount::Bare(part), Mode::Ratio) if part < Number::ONE => {
                let amount = self.written.to_owned();
                return Err(self.amount_error(AllocationProblem::AmbiguousPart { amount, part }));
            }
            (RawAmount::Percent(part), _) | (RawAmount::Bare(part), Mode::Ratio) => {
                let small = part.times(1).is_some_and(|whole| whole <= MAX_PART);
                if !small {
                    let written = self.written.to_owned();
                    return Err(self.amount_error(AllocationProblem::TooLarge(written)));
                }
                Amount::Percent(part)
            }
            (RawAmount::Bare(part), _) => Amount::Fraction(part),
            (RawAmount::Bytes(bytes), _) => Amount::Bytes(bytes),
            (RawAmount::Wildcard | RawAmount::SizedWildcard, _) => Amount::Rest,
        };
        Ok(Entry { device: self.device, amount, bare_part, place: self.place })
    }
}

fn parse_amount(span: Span<'_>) -> Result<RawAmount, AllocationProblem> {
    if span.text == "*" {
        return Ok(RawAmount::Wildcard);
    }
    let written = || span.text.to_owned();
    let bad_number = |error| AllocationProblem::Number { amount: written(), error };
    let (digits, suffix) = span.take_while(|c| !c.is_alphabetic() && c != '%' && c != '*');
    if digits.text.is_empty() && !suffix.text.is_empty() {
        // `nan` and `inf` are all suffix; every other word lacks its number.
        let (word, _) = suffix.take_while(char::is_alphabetic);
        return Err(bad_number(match Number::parse(word.text) {
            Err(NumberError::NotFinite) => NumberError::NotFinite,
            _ => NumberError::Missing,
        }));
    }
    let number = Number::parse(digits.text).map_err(bad_number)?;
    let (unit, star) = match suffix.text.strip_suffix('*') {
        Some(unit) => (unit.trim_end(), true),
        None => (suffix.text, false),
    };
    match (unit, star) {
        ("", false) => Ok(RawAmount::Bare(number)),
        ("%", false) => Ok(RawAmount::Percent(number)),
        (name, star) => {
            let Some(unit) = memory_unit(name) else {
                let unit = suffix.text.to_owned();
                return Err(AllocationProblem::Unit { amount: written(), number, unit });
            };
            match number.times(unit) {
                _ if star => Ok(RawAmount::SizedWildcard),
                Some(bytes) => Ok(RawAmount::Bytes(bytes)),
                None => Err(AllocationProblem::TooLarge(written())),
            }
        }
    }
}

/// The mode that all amounts agree on.
fn common_mode(entries: &[RawEntry<'_>]) -> Result<Mode, AllocationError> {
    let mut mode: Option<Mode> = None;
    let mut wildcard = false;
    for entry in entries {
        let found = match entry.amount {
            RawAmount::Percent(_) => Some(Mode::Ratio),
            RawAmount::Bytes(_) | RawAmount::SizedWildcard => Some(Mode::Bytes),
            RawAmount::Bare(_) => Some(Mode::Fraction),
            RawAmount::Wildcard => None,
        };
        let mixed = |found, mode| {
            let amount = entry.written.to_owned();
            entry.amount_error(AllocationProblem::Mixed { amount, found, mode })
        };
        if entry.amount.is_wildcard() && wildcard {
            return Err(entry.amount_error(AllocationProblem::SecondWildcard));
        }
        wildcard |= entry.amount.is_wildcard();
        mode = match (mode, found) {
            (None, other) | (other, None) => other,
            (Some(Mode::Ratio), Some(Mode::Fraction))
            | (Some(Mode::Fraction), Some(Mode::Ratio)) => Some(Mode::Ratio),
            (Some(a), Some(b)) if a == b => Some(a),
            (before, now) => return Err(mixed(now, before)),
        };
    }
    let mode = mode.unwrap_or(Mode::Bytes);
    match wildcard_among_fractions(entries) {
        Some(error) if mode == Mode::Fraction && wildcard => Err(error),
        _ => Ok(mode),
    }
}

/// Points at whichever comes second: the wildcard, or the first bare number after it.
fn wildcard_among_fractions(entries: &[RawEntry<'_>]) -> Option<AllocationError> {
    let starts_with_wildcard = entries.first().is_some_and(|entry| entry.amount.is_wildcard());
    let (found, mode) = match starts_with_wildcard {
        true => (Some(Mode::Fraction), None),
        false => (None, Some(Mode::Fraction)),
    };
    let differs = |entry: &&RawEntry<'_>| entry.amount.is_wildcard() != starts_with_wildcard;
    entries.iter().find(differs).map(|entry| {
        let amount = entry.written.to_owned();
        entry.amount_error(AllocationProblem::Mixed { amount, found, mode })
    })
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Percent(part) => write!(f, "{part}%"),
            Amount::Bytes(bytes) => f.write_str(&written(*bytes)),
            Amount::Fraction(part) => write!(f, "{part}"),
            Amount::Rest => f.write_str("*"),
        }
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.entries.iter().enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            write!(f, "{separator}{},{}", entry.device, entry.amount)?;
        }
        Ok(())
    }
}

impl Serialize for Allocation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::DeviceInfo;

    fn parse(text: &str) -> Allocation {
        Allocation::parse(text).unwrap().unwrap()
    }

    fn error(text: &str) -> String {
        let parsed = Allocation::parse(text);
        parsed.expect_err(text).to_string()
    }

    #[test]
    fn a_ceiling_beside_cpu_is_what_its_text_says() {
        let cuda = "cuda:0".parse().unwrap();
        let made = Allocation::ceiling_beside_cpu(cuda, 3 << 20).unwrap();
        assert_eq!(made.to_string(), "cuda:0,3mb;cpu,*");
        assert_eq!(made, parse("cuda:0,3mb;cpu,*"));
        assert_eq!(Allocation::ceiling_beside_cpu(DeviceId::CPU, 1), None);
    }

    #[test]
    fn canonical_form() {
        for (text, canonical, mode) in [
            ("cuda:0,70%;cuda:1,30%", "cuda:0,70%;cuda:1,30%", Mode::Ratio),
            (" CUDA:0 , 8 % ; Cuda:1,8%; cpu,4%;", "cuda:0,8%;cuda:1,8%;cpu,4%", Mode::Ratio),
            ("cuda:0,1;cpu,3%", "cuda:0,1%;cpu,3%", Mode::Ratio),
            ("cuda:0,50%;cpu,*", "cuda:0,50%;cpu,*", Mode::Ratio),
            ("mps,25%;cpu,75%", "metal,25%;cpu,75%", Mode::Ratio),
            ("cuda:0,500mb;cuda:1,3.0g;cpu,5gb*", "cuda:0,500mb;cuda:1,3gb;cpu,*", Mode::Bytes),
            ("cuda,.5gb", "cuda:0,512mb", Mode::Bytes),
            ("cuda,4 GiB *;cpu,1024 KB", "cuda:0,*;cpu,1mb", Mode::Bytes),
            ("cuda:1,*", "cuda:1,*", Mode::Bytes),
            ("mps,1.5G", "metal,1.5gb", Mode::Bytes),
            (";cuda:0,0.1;;cpu,0.5;", "cuda:0,0.1;cpu,0.5", Mode::Fraction),
            ("mps,.25", "metal,0.25", Mode::Fraction),
        ] {
            let allocation = parse(text);
            assert_eq!(allocation.to_string(), canonical, "{text}");
            assert_eq!(allocation.mode(), mode, "{text}");
            assert_eq!(parse(canonical), allocation, "{text}");
        }
    }

    #[test]
    fn no_entries_are_no_allocation() {
        for text in ["", "   ", ";", " ; ;; "] {
            assert_eq!(Allocation::parse(text), Ok(None), "{text:?}");
        }
    }

    #[test]
    fn errors_name_the_entry_the_place_and_the_way_out() {
        for (text, start, advice) in [
            ("cuda:0", "entry 1, character 1: `cuda:0` has no amount", "DEVICE,AMOUNT"),
            ("cuda:0,50%,", "entry 1, character 11: an extra comma", "decimals have a point"),
            ("cuda:0,1,5gb", "entry 1, character 9: an extra comma", ";"),
            ("foo,50%", "entry 1, character 1: `foo` is no device", "cuda:N"),
            ("cpu,1gb; xpu:0,1gb", "entry 2, character 10: `xpu:0`: distorch has no", "cuda"),
            ("cuda:0,1tb", "entry 1, character 8: `1tb`: there is no unit", "`1024gb`"),
            ("cuda:0,0.5 TiB", "entry 1", "`512gb`"),
            ("cuda:0,1gigs", "entry 1, character 8: `1gigs`: `gigs` is no unit", "gb, mb"),
            ("cuda:0,1e3", "entry 1, character 8: `1e3`: `e3` is no unit", "gb"),
            ("cuda:0,gb", "entry 1, character 8: `gb`: a number is missing", ""),
            ("cuda:0,", "entry 1, character 8: ``: a number is missing", ""),
            ("cuda:0,-1gb", "entry 1, character 8: `-1gb`: a negative number", ""),
            ("cuda:0,-5%", "entry 1", "negative"),
            ("cuda:0,nan%", "entry 1, character 8: `nan%`: the number must be finite", ""),
            ("cuda:0,inf", "entry 1, character 8: `inf`: the number must be finite", ""),
            ("cuda:0,5*", "entry 1, character 8: `5*`", "`*` alone"),
            ("cuda:0,50%*", "entry 1", "no unit"),
            ("cuda:0,0%;cpu,0 %", "entry 1, character 8: all parts are 0%", "more than 0%"),
            ("cpu,50%;cuda:0, .5", "entry 2, character 17: `.5` among percentages", "as `0.5%`, a"),
            ("cuda:0,0.25;cpu,9%", "entry 1, character 8: `0.25` among", "as `25%` of the model"),
            ("cuda:0,0;cpu,100%", "entry 1, character 8: `0` among percentages", "`0%`"),
            ("cuda:0,80%;cpu,30%;cuda:1,*", "entry 3, character 27: nothing is left", "110%"),
            ("cuda:0,1gb*;cpu,*", "entry 2, character 17: a second `*`", "one device"),
            ("cuda:1,2gb;CUDA:1,3gb;cpu,*", "entry 2, character 12: `cuda:1` has an amount", ""),
            ("cuda,1%;cuda:0,1%", "entry 2, character 9: `cuda:0` has an amount already", ""),
            ("cuda:0,2gb;cuda:1,50%;cpu,*", "entry 2, character 19: `50%` is a part", "alike"),
            ("cuda:0,50%;cuda:1,2gb", "entry 2, character 19: `2gb` is a size", "alike"),
            ("cuda:0,1;cuda:1,2%;cpu,2gb", "entry 3, character 24: `2gb` is a size", "alike"),
            ("cuda:0,0.5;cuda:1,2gb", "entry 2, character 19: `2gb` is a size", "alike"),
            ("cuda:0,0.5;cpu,*", "entry 2, character 16: `*` is the wildcard", "compute device"),
            ("cpu,*;cuda:0,0.5", "entry 2, character 14: `0.5` is a part of the device", "%"),
            ("cpu,5gb*;cuda:0,5%", "entry 2, character 17: `5%` is a part", "alike"),
            ("cuda:0,99999999999gb", "entry 1, character 8: `99999999999gb` is too large", ""),
            ("cuda:0,9999999999%", "entry 1, character 8: `9999999999%` is too large", ""),
        ] {
            let error = error(text);
            assert!(error.starts_with(start), "{text}: {error}");
            assert!(error.contains(advice), "{text}: {error}");
        }
    }

    #[test]
    fn the_machine_is_checked_separately() {
        let cpu = DeviceInfo::new(DeviceId::CPU, "host", 64 << 30);
        let machine = Topology::new(vec![cpu]).unwrap().simulate("cuda:0=8GiB").unwrap();
        for (text, message) in [
            (
                "cpu,1gb;cuda:3,1gb",
                "entry 2, character 9: no device `cuda:3`; present: cuda:0, cpu",
            ),
            (
                "cuda:0,9gb",
                "entry 1, character 8: `cuda:0` has 8.00 GiB in all; ask for at most `8gb`",
            ),
            (
                "cuda:0,70",
                "entry 1, character 8: 70 is more than all of `cuda:0`; a bare number is a part \
                 of the device's memory from 0 to 1; for a part of the model write `70%`, for a \
                 size `70gb`",
            ),
        ] {
            assert_eq!(parse(text).check(&machine).unwrap_err().to_string(), message);
        }
        for text in ["cuda:0,8gb;cpu,500gb*", "cuda:0,1;cpu,1.0", "cuda:0,900%;cpu,5%"] {
            assert_eq!(parse(text).check(&machine), Ok(()), "{text}");
        }
    }

    #[test]
    fn bare_numbers_among_percentages_are_parts_and_known_as_such() {
        let allocation = parse("cuda:0,1;cuda:1,2%;cpu,3.5");
        let bare: Vec<_> =
            allocation.bare_parts().map(|(device, part)| format!("{device} {part}")).collect();
        assert_eq!(bare, ["cuda:0 1", "cpu 3.5"]);
        assert_eq!(parse("cuda:0,0.5;cpu,1").bare_parts().count(), 0, "fractions are no parts");
        assert_eq!(parse(&allocation.to_string()), allocation);
    }

    #[test]
    fn parts_fill_up_to_the_hundred() {
        let parts: Vec<String> =
            parse("cuda:0,30%;cpu,*;cuda:1,0.5%").parts().iter().map(|p| p.1.to_string()).collect();
        assert_eq!(parts, ["30", "69.5", "0.5"]);
    }
}
