//! `distorch nodes`: the nodes that workflows may use.

use distorch_workflow::signature::{Input, Kind, Node};
use distorch_workflow::{Environment, Registry, describe, nodes};

use super::{Table, print_json, print_text};
use crate::args::{NodesArgs, Shared};
use crate::error::{CliError, shortened};
use crate::machine;
use crate::terminal::{self, wrap};

/// Lists the nodes, or describes one.
pub fn run(shared: &Shared, args: &NodesArgs) -> Result<(), CliError> {
    let topology = machine::topology(&machine::survey(shared)?)?;
    let environment = Environment::on(machine::folders(shared)?, topology);
    let registry = nodes::all();
    let Some(class) = &args.class else {
        return match args.json {
            true => print_json(&describe::object_info(&registry, &environment)),
            false => print_text(&list(&registry)),
        };
    };
    let node = registry.find(class).ok_or_else(|| {
        let hint = registry.closest_match(class).map_or_else(
            || "`distorch nodes` lists them".to_owned(),
            |name| format!("did you mean `{name}`?"),
        );
        CliError::usage(format!("there is no node `{class}`")).hint(hint)
    })?;
    match args.json {
        true => print_json(&describe::describe(node, &environment)),
        false => print_text(&whole(node, &environment, terminal::text_columns())),
    }
}

fn list(registry: &Registry) -> String {
    let mut table = Table::new(["class", "category", "outputs"], &[]).optional(&[1, 2]);
    for node in registry.nodes() {
        let outputs: Vec<_> = node.outputs.iter().map(|output| output.name).collect();
        table.add_row([node.class, node.category, &outputs.join(", ")]);
    }
    format!("{table}\n{} nodes", registry.nodes().len())
}

/// Files that are listed where one is to be chosen.
const FILES: usize = 12;

/// A node as lines of at most `columns`.
fn whole(node: &Node, environment: &Environment, columns: usize) -> String {
    // Together where the line has room for both: a category is a path, which does not wrap.
    let together = node.class.chars().count() + node.category.chars().count() + 3 <= columns;
    let between = if together { " " } else { "\n" };
    let mut text = format!("{BOLD}{}{BOLD:#}{between}({})\n", node.class, node.category);
    text += &format!("{}\n", wrap(node.about, columns, 0));
    if !node.inputs.is_empty() {
        text += &format!("\n{BOLD}Inputs{BOLD:#}\n");
    }
    for input in node.inputs {
        text += &described(input, environment, columns);
    }
    if !node.outputs.is_empty() {
        text += &format!("\n{BOLD}Outputs{BOLD:#}\n");
    }
    for (slot, output) in node.outputs.iter().enumerate() {
        let kind = output.kind.name();
        let kind = if kind == output.name { String::new() } else { format!(", {kind}") };
        text += &format!("  {slot}: {BOLD}{}{BOLD:#}{kind}\n", output.name);
        text += &about(output.tooltip, columns);
    }
    text
}

const BOLD: clap::builder::styling::Style = clap::builder::styling::Style::new().bold();

/// An input's name, what it takes, and what it is for.
fn described(input: &Input, environment: &Environment, columns: usize) -> String {
    let (takes, default) = kind(&input.kind);
    let mut line = format!("{}: {takes}", input.name);
    if input.optional {
        line += ", optional";
    }
    if let Some(default) = default.or_else(|| first(&input.kind, environment)) {
        line += &format!(", default {}", shortened(&default, 60));
    }
    let line = wrap(&line, columns, 2);
    let line = line.replacen(input.name, &format!("{BOLD}{}{BOLD:#}", input.name), 1);
    let mut text = format!("{line}\n{}", about(input.tooltip, columns));
    if let Kind::Choice { options, .. } = input.kind {
        let list = options.list(environment);
        let files = list.iter().any(|name| name.contains('.'));
        let most = if files { FILES } else { list.len() };
        let shown = list.iter().take(most).cloned().collect::<Vec<_>>().join(", ");
        let more = match list.len().saturating_sub(most) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let list = if list.is_empty() { "none is there".to_owned() } else { shown + &more };
        text += &about(&format!("Choices: {list}"), columns);
    }
    text
}

/// What a line is about, on lines below it.
fn about(text: &str, columns: usize) -> String {
    if text.is_empty() { String::new() } else { format!("{}\n", wrap(text, columns, 6)) }
}

/// What an input takes and its default, in words.
fn kind(kind: &Kind) -> (String, Option<String>) {
    let name = kind.value_type().name();
    match kind {
        Kind::Int { default, min, max, .. } => {
            (format!("{name}, {min} to {max}"), Some(default.to_string()))
        }
        Kind::Float { default, min, max, .. } => {
            (format!("{name}, {min} to {max}"), Some(default.to_string()))
        }
        Kind::String { default, .. } => (name.to_owned(), Some(format!("{default:?}"))),
        Kind::Boolean { default, .. } => (name.to_owned(), Some(default.to_string())),
        Kind::Choice { default, .. } => (name.to_owned(), default.map(str::to_owned)),
        Kind::Data(_) | Kind::Link(_) => (name.to_owned(), None),
    }
}

/// The first of a list, which is the default where no other is.
fn first(kind: &Kind, environment: &Environment) -> Option<String> {
    match kind {
        Kind::Choice { options, .. } => options.list(environment).into_iter().next(),
        _ => None,
    }
}
