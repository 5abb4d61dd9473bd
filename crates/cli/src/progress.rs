//! Telling how long work goes on: a bar on a terminal; elsewhere a line for each stage, and one now
//! and then while it lasts.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use distorch_bench::progress::{Reporter, Stage};
use indicatif::{ProgressBar, ProgressStyle};
use unicode_width::UnicodeWidthStr;

use crate::terminal;

/// Between two lines of one stage.
const SILENCE: Duration = Duration::from_secs(10);

/// Shows the progress of benchmarks.
pub struct Terminal;

impl Reporter for Terminal {
    fn stage(&self, name: &str, parts: u64) -> Box<dyn Stage + '_> {
        Box::new(Progress::new(name, parts))
    }
}

/// The progress of one stage, on standard error.
struct Progress {
    bar: ProgressBar,
    stage: String,
    /// When something was last said, where that is in lines.
    said: Cell<Instant>,
}

impl Progress {
    /// A stage of this many parts.
    fn new(stage: &str, parts: u64) -> Self {
        let bar = match io::stderr().is_terminal() {
            true => visible(stage, parts),
            false => {
                tell!("{stage}");
                let bar = ProgressBar::hidden();
                bar.set_length(parts);
                bar
            }
        };
        Self { bar, stage: stage.to_owned(), said: Cell::new(Instant::now()) }
    }
}

impl Stage for Progress {
    fn advance(&self) {
        self.bar.inc(1);
        if self.bar.is_hidden() && self.said.get().elapsed() >= SILENCE {
            let (done, parts) = (self.bar.position(), self.bar.length().unwrap_or_default());
            tell!("{}: {done} of {parts}", self.stage);
            self.said.set(Instant::now());
        }
    }
}

fn visible(stage: &str, parts: u64) -> ProgressBar {
    let style = bar_style("{pos}/{len} {elapsed} {per_sec}", stage, 30);
    let bar = ProgressBar::new(parts).with_message(stage.to_owned()).with_style(style);
    bar.tick();
    bar
}

/// Columns of the longest bar.
const BAR: usize = 30;

/// A stage's name, a bar and the figures of this template, which take about so many columns, on one line of
/// the terminal: a narrow one has a shorter bar, or none.
pub fn bar_style(figures: &str, stage: &str, figure_columns: usize) -> ProgressStyle {
    // The last column stays free: terminals go to the next line after it.
    let columns = terminal::error_columns().unwrap_or(usize::MAX).saturating_sub(1);
    let beside = stage.width() + " [] ".len() + figure_columns;
    let template = match columns.saturating_sub(beside).min(BAR) {
        0..5 => format!("{{wide_msg}} {figures}"),
        bar => format!("{{msg}} [{{bar:{bar}}}] {figures}"),
    };
    // Every template is one of these two; a bar in the default style would still be one.
    ProgressStyle::with_template(&template).unwrap_or(ProgressStyle::default_bar())
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
