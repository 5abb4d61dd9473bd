//! One file a command.

pub mod completions;
pub mod devices;
pub mod inspect;
pub mod models;
pub mod plan;

use std::io::Write;

use serde::Serialize;

use crate::failure::Failure;

/// Writes a value to standard output as JSON for people and programs.
fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::machine)?;
    print_text(&text)
}

/// Writes text to standard output, colours only on a terminal. A closed pipe is an error here,
/// not a panic.
fn print_text(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    writeln!(stdout, "{}", text.trim_end_matches('\n'))?;
    stdout.flush()?;
    Ok(())
}

/// An empty table in the style of all commands.
fn table<const N: usize>(header: [&str; N]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_FULL_CONDENSED).set_header(header);
    table
}
