//! `distorch completions`.

use clap::CommandFactory;

use super::print_text;
use crate::args::{Arguments, CompletionsArgs};
use crate::error::CliError;

/// Prints the completion script.
pub fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "distorch", &mut script);
    print_text(&String::from_utf8_lossy(&script))
}
