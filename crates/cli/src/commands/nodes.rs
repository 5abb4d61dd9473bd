//! `distorch nodes`: the nodes that workflows may use.

use distorch_workflow::Environment;
use distorch_workflow::nodes::{NODES, describe, find, near};
use distorch_workflow::signature::{Kind, Node};

use super::{print_json, print_text, table};
use crate::args::{NodesArgs, Shared};
use crate::failure::Failure;
use crate::machine;

/// Lists the nodes, or describes one.
pub fn run(shared: &Shared, args: &NodesArgs) -> Result<(), Failure> {
    let topology = machine::topology(&machine::survey(shared)?)?;
    let environment = Environment::on(machine::folders(shared)?, topology);
    let Some(class) = &args.class else {
        return match args.json {
            true => print_json(&describe::object_info(&environment)),
            false => print_text(&list()),
        };
    };
    let node = find(class).ok_or_else(|| {
        let hint = near(class).map_or_else(
            || "`distorch nodes` lists them".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        Failure::input(format!("there is no node `{class}`; {hint}"))
    })?;
    match args.json {
        true => print_json(&describe::describe(node, &environment)),
        false => print_text(&whole(node, &environment)),
    }
}

fn list() -> String {
    let mut table = table(["class", "category", "outputs"], &[]);
    for node in NODES {
        let outputs: Vec<_> = node.outputs.iter().map(|output| output.name).collect();
        table.add_row([node.class, node.category, &outputs.join(", ")]);
    }
    format!("{table}\n{} nodes", NODES.len())
}

fn whole(node: &Node, environment: &Environment) -> String {
    let mut inputs = table(["input", "takes", "default", ""], &[]);
    for input in node.inputs {
        let (takes, default) = kind(&input.kind, environment);
        let optional = if input.optional { "optional. " } else { "" };
        inputs.add_row([input.name, &takes, &default, &format!("{optional}{}", input.tooltip)]);
    }
    inputs.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    let mut outputs = table(["slot", "output", "type", ""], &[]);
    for (slot, output) in node.outputs.iter().enumerate() {
        let slot = slot.to_string();
        outputs.add_row([&slot, output.name, output.kind.name(), output.tooltip]);
    }
    let about = format!("{} ({})\n{}\n", node.class, node.category, node.about);
    if node.outputs.is_empty() {
        return format!("{about}\n{inputs}");
    }
    format!("{about}\n{inputs}\n{outputs}")
}

/// What an input takes and its default, in words.
fn kind(kind: &Kind, environment: &Environment) -> (String, String) {
    let name = kind.value_type().name();
    match kind {
        Kind::Int { default, min, max, .. } => {
            (format!("{name}, {min} to {max}"), default.to_string())
        }
        Kind::Float { default, min, max, .. } => {
            (format!("{name}, {min} to {max}"), default.to_string())
        }
        Kind::String { default, .. } => (name.to_owned(), format!("{default:?}")),
        Kind::Boolean { default, .. } => (name.to_owned(), default.to_string()),
        Kind::Choice { options, default } => {
            let list = options.list(environment);
            let first = list.first().cloned().unwrap_or_default();
            (list.join(", "), default.map_or(first, str::to_owned))
        }
        Kind::Link(_) => (name.to_owned(), String::new()),
    }
}
