//! One file a command.

pub mod bench;
pub mod completions;
pub mod devices;
pub mod generate;
pub mod inspect;
pub mod models;
pub mod nodes;
pub mod plan;
pub mod run;
pub mod serve;
mod table;

use std::io::Write;
use std::path::Path;

use distorch_checkpoint::Checkpoint;
use distorch_checkpoint::family::{self, Model};
use distorch_pipeline::models::native;
use serde::Serialize;

use crate::error::CliError;
pub use table::Table;

/// Writes a value to standard output as JSON for people and programs.
fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(CliError::internal)?;
    print_text(&text)
}

/// Writes text to standard output, colours only on a terminal. A closed pipe is an error here,
/// not a panic.
fn print_text(text: &str) -> Result<(), CliError> {
    let mut stdout = anstream::stdout().lock();
    writeln!(stdout, "{}", text.trim_end_matches('\n'))?;
    stdout.flush()?;
    Ok(())
}

/// Opens a model file and recognises what it holds.
fn recognise(path: &Path) -> Result<(Checkpoint, Model), CliError> {
    let checkpoint = Checkpoint::open(path).map_err(CliError::usage)?;
    let model = family::recognise(&checkpoint)
        .map_err(|error| CliError::usage(format!("`{}`: {error}", path.display())))?;
    Ok((checkpoint, model))
}
