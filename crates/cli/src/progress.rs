//! Telling how long work goes on: a bar on a terminal, a line for each stage elsewhere.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

/// The progress of one stage, on standard error.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A stage of so many parts.
    pub fn new(stage: &str, parts: u64) -> Self {
        if !io::stderr().is_terminal() {
            anstream::eprintln!("{stage}");
            return Self { bar: ProgressBar::hidden() };
        }
        let template = "{msg:28} [{bar:30}] {pos}/{len} {elapsed} {per_sec}";
        // The template is this constant; a bar in the default style would still be one.
        let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
        let bar = ProgressBar::new(parts).with_message(stage.to_owned()).with_style(style);
        bar.tick();
        Self { bar }
    }

    /// One more part is done.
    pub fn advance(&self) {
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
