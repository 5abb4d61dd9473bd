//! What went wrong, as a message and an exit code.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use distorch_bench::BenchError;
use distorch_pipeline::error::chain;
use distorch_runtime::offload::LoadError;
use serde::Serialize;
use serde_json::{Value as Json, json};

/// Why a command ended early.
#[derive(Debug)]
pub struct CliError {
    message: String,
    hints: Vec<String>,
    kind: Kind,
    /// What programs are told, where that is more than the message.
    json: Option<Json>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The user can put it right: a wrong name, a broken file, a plan that cannot be.
    Usage,
    /// The machine failed.
    Internal,
    /// The user stopped it.
    Interrupted,
    /// The reader of our output went away, as `head` does. Nothing to tell.
    ClosedPipe,
}

impl CliError {
    /// Bad usage or bad input: exit code 2.
    pub fn usage(error: impl Into<Box<dyn Error>>) -> Self {
        Self::new(chain(&*error.into()), Kind::Usage)
    }

    /// A failure that is not the user's: exit code 1.
    pub fn internal(error: impl Into<Box<dyn Error>>) -> Self {
        Self::new(chain(&*error.into()), Kind::Internal)
    }

    /// The user stopped it: exit code 130.
    pub fn interrupted(error: impl Into<Box<dyn Error>>) -> Self {
        Self::new(chain(&*error.into()), Kind::Interrupted)
    }

    fn new(message: String, kind: Kind) -> Self {
        Self { message, hints: Vec::new(), kind, json: None }
    }

    /// The same, with a way out, which is printed on a line of its own.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same, with a way out where there is one.
    pub fn maybe_hint(self, hint: Option<String>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// The same, with what `--json` prints instead of the message; null is nothing.
    pub fn with_json(self, error: &impl Serialize) -> Self {
        Self { json: serde_json::to_value(error).ok(), ..self }
    }

    /// Prints the message to standard error and returns the exit code. With `as_json`, programs find it
    /// on standard output too.
    pub fn report(self, as_json: bool) -> ExitCode {
        if self.kind == Kind::ClosedPipe {
            return ExitCode::SUCCESS;
        }
        let (message, code, kind) = (cut(&self.message), self.exit_code(), self.kind());
        tell!("{ERROR}error{ERROR:#}: {message}");
        for hint in &self.hints {
            tell!("{HINT}hint{HINT:#}: {}", cut(hint));
        }
        if as_json {
            let error = self.json.unwrap_or_else(|| error_json(kind, &message, &self.hints));
            if !error.is_null() {
                print_error(&error);
            }
        }
        ExitCode::from(code)
    }

    fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Interrupted => 130,
            Kind::Internal => 1,
            Kind::ClosedPipe => 0,
        }
    }

    fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Usage => "bad_input",
            Kind::Interrupted => "interrupted",
            Kind::Internal | Kind::ClosedPipe => "failure",
        }
    }
}

/// An error for programs, in the shape in which ComfyUI answers.
fn error_json(kind: &str, message: &str, hints: &[String]) -> Json {
    let details = hints.iter().map(|hint| cut(hint)).collect::<Vec<_>>().join("\n");
    let error = json!({ "type": kind, "message": message, "details": details, "extra_info": {} });
    json!({ "error": error, "node_errors": {} })
}

fn print_error(error: &Json) {
    // Nobody is left to be told that this failed.
    let _ = writeln!(io::stdout(), "{error:#}");
}

/// Prints what clap found wrong with the arguments, or what `--help` and `--version` ask for.
pub fn usage(mut error: clap::Error, as_json: bool) -> ExitCode {
    let long: Vec<(ContextKind, String)> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) if text.chars().count() > VALUE => {
                Some((kind, shortened(text, VALUE)))
            }
            _ => None,
        })
        .collect();
    for (kind, text) in long {
        error.insert(kind, ContextValue::String(text));
    }
    // A closed pipe, as with `--help | head`, is no failure.
    let _ = error.print();
    if as_json && error.use_stderr() {
        let text = error.render().to_string();
        let message = text.trim_start_matches("error: ").lines().next().unwrap_or_default();
        print_error(&error_json("bad_input", message, &[]));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// With what would help where a device is too small.
impl From<BenchError> for CliError {
    fn from(error: BenchError) -> Self {
        let remedy = match &error {
            BenchError::Load(LoadError::Memory { shortage, .. }) => {
                Some(shortage.remedy.to_string())
            }
            _ => None,
        };
        let failure = match error {
            BenchError::Input(_) => Self::usage(error),
            BenchError::Load(_) | BenchError::Failed(_) => Self::internal(error),
        };
        failure.maybe_hint(remedy)
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::BrokenPipe => Kind::ClosedPipe,
            _ => Kind::Internal,
        };
        Self::new(error.to_string(), kind)
    }
}

const ERROR: clap::builder::styling::Style =
    clap::builder::styling::AnsiColor::Red.on_default().bold();
const HINT: clap::builder::styling::Style =
    clap::builder::styling::AnsiColor::Cyan.on_default().bold();

/// Characters of a value that a message repeats.
const VALUE: usize = 200;
/// Characters of a line of a message, which may hold lists beside a value.
const LINE: usize = 1200;
/// Lines of a message.
const LINES: usize = 60;

/// The message without the middle of lines, and of all of it, that are longer than anybody reads:
/// users give prompts of a megabyte, and messages repeat what they were given.
pub fn cut(message: &str) -> String {
    let lines: Vec<&str> = message.lines().collect();
    let short = |line: &&str| shortened(line, LINE);
    if lines.len() <= LINES {
        return lines.iter().map(short).collect::<Vec<_>>().join("\n");
    }
    let (head, tail) = (LINES - 10, 5);
    let first = lines.iter().take(head).map(short);
    let left_out = format!("  … {} lines …", lines.len() - head - tail);
    let last = lines.iter().skip(lines.len() - tail).map(short);
    first.chain([left_out]).chain(last).collect::<Vec<_>>().join("\n")
}

/// The text without its middle, where it is longer than `most` characters.
pub fn shortened(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let (head, tail) = (most * 2 / 3, most / 4);
    let first: String = text.chars().take(head).collect();
    let last: String = text.chars().skip(count - tail).collect();
    format!("{first}… ({} characters left out) …{last}", count - head - tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::fmt::Error);

    #[test]
    fn causes_are_told_once() {
        let failure = CliError::usage(Outer(std::fmt::Error));
        assert_eq!(failure.message, format!("outer: {}", std::fmt::Error));
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.kind, Kind::ClosedPipe);
    }

    #[test]
    fn exit_codes() {
        let codes = [CliError::internal("x"), CliError::usage("x"), CliError::interrupted("x")];
        assert_eq!(codes.map(|failure| failure.exit_code()), [1, 2, 130]);
    }

    #[test]
    fn both_ends_of_a_long_message_stay() {
        let name = "ä".repeat(1 << 20);
        let text = cut(&format!("there is no `{name}`; did you mean `b`?\nsecond line"));
        assert!(text.len() < 3 * LINE, "{}", text.len());
        assert!(text.starts_with("there is no `ä") && text.ends_with("mean `b`?\nsecond line"));
        assert!(text.contains("characters left out"), "{text}");
        let text = cut(&"line\n".repeat(100_000));
        assert_eq!(text.lines().count(), LINES - 4);
        assert!(text.contains("99945 lines"), "{text}");
        assert_eq!(cut("short\ntwo"), "short\ntwo");
    }
}
