//! `distorch`: runs diffusion checkpoints that do not fit on one device.
//!
//! The binary is a thin shell: [`args`] says what can be asked, a file in [`commands`] answers one
//! question each, [`error`] turns what went wrong into a message and an exit code.

#[macro_use]
mod print;

mod args;
mod commands;
mod ending;
mod error;
mod given_file;
mod machine;
mod model_file;
mod progress;
mod progress_reporter;
mod remedy;
mod session;
mod terminal;
mod threads;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};
use error::CliError;

/// Counts memory, so that what a model needs while it runs is measured, and ends the program with a
/// sentence where there is no more.
#[global_allocator]
static HEAP: distorch_runtime::heap::CountingAllocator = distorch_runtime::heap::CountingAllocator;

fn main() -> ExitCode {
    distorch_runtime::heap::keep_freed();
    ending::prepare();
    // Programs that ask for JSON find errors there too, also where the arguments cannot be read.
    let as_json = std::env::args_os().any(|argument| argument == "--json");
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return error::usage(error, as_json),
    };
    let result = catch_unwind(AssertUnwindSafe(|| run(&arguments)));
    distorch_runtime::caches::seal();
    match result.unwrap_or_else(|panic| Err(CliError::internal(ending::panic_message(&*panic)))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(as_json),
    }
}

fn run(arguments: &Arguments) -> Result<(), CliError> {
    let shared = &arguments.shared;
    let (name, computes) = match &arguments.command {
        Command::Devices(_) => ("devices", false),
        Command::Models(_) => ("models", true),
        Command::Inspect(_) => ("inspect", true),
        Command::Plan(_) => ("plan", true),
        Command::Generate(_) => ("generate", true),
        Command::Run(_) => ("run", true),
        Command::Serve(_) => ("serve", true),
        Command::Worker(_) => ("worker", true),
        Command::Nodes(_) => ("nodes", false),
        // It starts as many threads as it is told to.
        Command::Bench(_) => ("bench", false),
        Command::Completions(_) => ("completions", false),
    };
    let _doing = distorch_runtime::heap::doing(&format!("`distorch {name}`"));
    if computes {
        threads::start(None)?;
    }
    match &arguments.command {
        Command::Devices(args) => commands::devices::run(shared, args),
        Command::Models(args) => commands::models::run(shared, args),
        Command::Inspect(args) => commands::inspect::run(shared, args),
        Command::Plan(args) => commands::plan::run(shared, args),
        Command::Generate(args) => commands::generate::run(shared, args),
        Command::Run(args) => commands::run::run(shared, args),
        Command::Serve(args) => commands::serve::run(shared, args),
        Command::Worker(args) => commands::serve::work(shared, args),
        Command::Nodes(args) => commands::nodes::run(shared, args),
        Command::Bench(args) => commands::bench::run(shared, args),
        Command::Completions(args) => commands::completions::run(args),
    }
}
