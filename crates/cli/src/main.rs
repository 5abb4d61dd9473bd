//! `distorch`: runs diffusion checkpoints that do not fit on one device.
//!
//! The binary is a thin shell: [`args`] says what can be asked, a file in [`commands`] answers one
//! question each, [`failure`] turns what went wrong into a message and an exit code.

mod args;
mod commands;
mod failure;
mod machine;
mod progress;
mod studio;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};
use failure::Failure;

/// Counts memory, so that what a model needs while it runs is measured.
#[global_allocator]
static HEAP: distorch_runtime::heap::Counted = distorch_runtime::heap::Counted;

fn main() -> ExitCode {
    distorch_runtime::heap::keep_freed();
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let shared = &arguments.shared;
    match &arguments.command {
        Command::Devices(args) => commands::devices::run(shared, args),
        Command::Models(args) => commands::models::run(shared, args),
        Command::Inspect(args) => commands::inspect::run(shared, args),
        Command::Plan(args) => commands::plan::run(shared, args),
        Command::Generate(args) => commands::generate::run(shared, args),
        Command::Run(args) => commands::run::run(shared, args),
        Command::Nodes(args) => commands::nodes::run(shared, args),
        Command::Bench(args) => commands::bench::run(shared, args),
        Command::Completions(args) => commands::completions::run(args),
    }
}
