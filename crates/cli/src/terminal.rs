//! The terminal that is written to: how wide it is, and text that fits it.

use std::env;
use std::io;

use unicode_width::UnicodeWidthStr;

/// Lines of text are no longer than this on wider terminals.
const LONGEST_LINE: usize = 100;

/// Columns of the terminal that standard output goes to: `$COLUMNS`, where it is set, else the terminal's
/// own. `None` where the output goes to a file or a pipe, which take any width.
pub fn columns() -> Option<usize> {
    from_environment().or_else(|| width(terminal_size::terminal_size_of(io::stdout())))
}

/// Columns of the terminal that standard error goes to.
pub fn error_columns() -> Option<usize> {
    from_environment().or_else(|| width(terminal_size::terminal_size_of(io::stderr())))
}

fn from_environment() -> Option<usize> {
    env::var("COLUMNS").ok()?.trim().parse().ok().filter(|&columns| columns > 0)
}

fn width(size: Option<(terminal_size::Width, terminal_size::Height)>) -> Option<usize> {
    // Terminals that do not know say 0.
    size.map(|(width, _)| usize::from(width.0)).filter(|&columns| columns > 0)
}

/// Columns for text that is read: the terminal's, but no more than the eye follows.
pub fn text_columns() -> usize {
    columns().unwrap_or(LONGEST_LINE).min(LONGEST_LINE)
}

/// A paragraph in lines of at most `columns`, each after `indent` spaces. A word that is longer has
/// a line of its own.
pub fn wrap(text: &str, columns: usize, indent: usize) -> String {
    let room = columns.saturating_sub(indent).max(1);
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.width() + 1 + word.width() > room {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    let indent = " ".repeat(indent);
    lines.iter().map(|line| format!("{indent}{line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("a bc def", 4, 0), "a bc\ndef");
        assert_eq!(wrap("a bc def", 6, 2), "  a bc\n  def");
        assert_eq!(wrap("much-too-long a", 3, 1), " much-too-long\n a");
        assert_eq!(wrap("one\ntwo", 80, 0), "one\ntwo");
        // Two columns each.
        assert_eq!(wrap("日本 語", 4, 0), "日本\n語");
    }
}
