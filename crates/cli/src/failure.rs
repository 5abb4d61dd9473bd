//! What went wrong, as a message and an exit code.

use std::error::Error;
use std::io;
use std::process::ExitCode;

/// Why a command ended early.
#[derive(Debug)]
pub struct Failure {
    message: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The user can put it right: a wrong name, a broken file, a plan that cannot be.
    Input,
    /// The machine failed.
    Machine,
    /// The user stopped it.
    Interrupted,
    /// The reader of our output went away, as `head` does. Nothing to tell.
    ClosedPipe,
}

impl Failure {
    /// Bad usage or bad input: exit code 2.
    pub fn input(error: impl Into<Box<dyn Error>>) -> Self {
        Self { message: with_sources(&*error.into()), kind: Kind::Input }
    }

    /// A failure that is not the user's: exit code 1.
    pub fn machine(error: impl Into<Box<dyn Error>>) -> Self {
        Self { message: with_sources(&*error.into()), kind: Kind::Machine }
    }

    /// The user stopped it: exit code 130.
    pub fn interrupted(error: impl Into<Box<dyn Error>>) -> Self {
        Self { message: with_sources(&*error.into()), kind: Kind::Interrupted }
    }

    /// Prints the message and gives the exit code.
    pub fn report(self) -> ExitCode {
        if self.kind == Kind::ClosedPipe {
            return ExitCode::SUCCESS;
        }
        tell!("{ERROR}error{ERROR:#}: {}", self.message);
        ExitCode::from(match self.kind {
            Kind::Input => 2,
            Kind::Interrupted => 130,
            Kind::Machine | Kind::ClosedPipe => 1,
        })
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::BrokenPipe => Kind::ClosedPipe,
            _ => Kind::Machine,
        };
        Self { message: error.to_string(), kind }
    }
}

const ERROR: clap::builder::styling::Style =
    clap::builder::styling::AnsiColor::Red.on_default().bold();

/// The message with those of its causes, where a cause adds something.
fn with_sources(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        next = source.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::fmt::Error);

    #[test]
    fn causes_are_told_once() {
        let failure = Failure::input(Outer(std::fmt::Error));
        assert_eq!(failure.message, format!("outer: {}", std::fmt::Error));
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.kind, Kind::ClosedPipe);
    }
}
