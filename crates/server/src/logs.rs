//! The last lines of the log, for clients that show them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Lines that are kept: as many as ComfyUI keeps.
const CAPACITY: usize = 300;

/// Bytes of a line that are kept.
const LONGEST: usize = 8192;

/// The last lines of the log. Copies share them.
#[derive(Clone, Default)]
pub struct LogBuffer(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    lines: VecDeque<(String, String)>,
    listener: Option<Listener>,
}

/// Who is told of a line: of its time and its text.
type Listener = Box<dyn Fn(&str, &str) + Send + Sync>;

impl std::fmt::Debug for LogBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogBuffer").field("lines", &self.inner().lines.len()).finish()
    }
}

impl LogBuffer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds text, which may have several lines.
    pub fn push(&self, text: &str) {
        let time = timestamp(SystemTime::now());
        let mut end = text.len().min(LONGEST);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text.get(..end).unwrap_or_default();
        let mut inner = self.inner();
        if inner.lines.len() >= CAPACITY {
            inner.lines.pop_front();
        }
        inner.lines.push_back((time.clone(), text.to_owned()));
        if let Some(listener) = &inner.listener {
            listener(&time, text);
        }
    }

    /// Who is told of every further line: time and text. It must not log anything itself.
    pub fn listen(&self, listener: impl Fn(&str, &str) + Send + Sync + 'static) {
        self.inner().listener = Some(Box::new(listener));
    }

    /// All lines as one text.
    pub fn text(&self) -> String {
        self.inner().lines.iter().map(|(time, text)| format!("{time} - {text}")).collect()
    }

    /// All lines: `[{"t": time, "m": text}]`.
    pub fn entries(&self) -> Vec<Value> {
        self.inner().lines.iter().map(|(time, text)| json!({ "t": time, "m": text })).collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what a subscriber of `tracing` writes.
impl io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A time in UTC: `2026-08-01T12:30:00.250000`, as ComfyUI writes it. Civil dates from days since 1970 as in Howard
/// Hinnant's `civil_from_days`.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = ((since.as_secs() / 86_400) as i64, since.as_secs() % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds: u64| {
            timestamp(UNIX_EPOCH + Duration::from_micros(seconds * 1_000_000 + 250_000))
        };
        // From Python's `datetime.fromtimestamp(…, timezone.utc)`.
        assert_eq!(at(0), "1970-01-01T00:00:00.250000");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.250000");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.250000");
        assert_eq!(at(1_785_587_400), "2026-08-01T12:30:00.250000");
    }

    #[test]
    fn the_last_lines_are_kept() {
        let logs = LogBuffer::new();
        for number in 0..CAPACITY + 5 {
            logs.push(&format!("line {number}\n"));
        }
        assert_eq!(logs.entries().len(), CAPACITY);
        assert_eq!(logs.entries()[0]["m"], "line 5\n");
        logs.push(&"ä".repeat(LONGEST));
        let last = logs.entries().pop().unwrap();
        assert_eq!(last["m"].as_str().unwrap().len(), LONGEST);
    }
}
