//! Everything that is wrong with a prompt, before anything runs.
//!
//! Kinds of errors and their JSON are ComfyUI's, since its clients read them: `node_errors` by node
//! id, each error with `type`, `message`, `details` and `extra_info`.

mod cycles;
mod literal;
mod needs;
mod problem;

use std::collections::HashMap;

use indexmap::IndexMap;
use serde_json::{Value as Json, json};

use crate::describe::input_config;
use crate::environment::Environment;
use crate::graph::{InputValue, Prompt, PromptNode, join};
use crate::inputs::Inputs;
use crate::preflight::Preflight;
use crate::registry::Registry;
use crate::signature::Input;
use crate::value::{Type, Value};
use cycles::on_cycles;
use literal::literal;

pub(crate) use literal::{linked, literals};
pub use needs::ancestors;
pub use problem::{Invalid, NodeProblems, Problem, Valid, lines};

/// Looks at every node that an output needs.
///
/// Outputs that need a node of an unknown class cannot be run; the others can.
///
/// # Errors
/// When there is no output, or no output can be run.
pub fn validate(
    prompt: &Prompt,
    registry: &Registry,
    environment: &Environment,
) -> Result<Valid, Invalid> {
    let is_output =
        |node: &PromptNode| registry.find(&node.class).is_some_and(|class| class.is_output);
    let outputs: Vec<&String> =
        prompt.nodes.iter().filter(|(_, node)| is_output(node)).map(|(id, _)| id).collect();
    let targets = outputs.iter().map(|id| id.as_str());
    let (good, mut node_errors) = check(prompt, registry, environment, targets);
    if good.is_empty() {
        known_classes(prompt, registry)?;
    }
    if outputs.is_empty() {
        let details = "add a node that saves or shows something, such as SaveImage";
        let error = Problem::new("prompt_no_outputs", "Prompt has no outputs", details);
        return Err(Invalid { error, node_errors: IndexMap::new() });
    }
    // Those that no known output needs may be outputs themselves.
    for (id, node) in unknown_classes(prompt, registry) {
        node_errors.entry(id.clone()).or_insert_with(|| NodeProblems {
            errors: vec![unknown_class(id, node, registry)],
            dependent_outputs: vec![id.clone()],
            class_type: node.class.clone(),
        });
    }
    if good.is_empty() {
        let kind = "prompt_outputs_failed_validation";
        let error = Problem::new(kind, "Prompt outputs failed validation", "");
        return Err(Invalid { error, node_errors });
    }
    Ok(Valid { outputs: good, node_errors })
}

/// Looks at every node that the targets need: the targets that can be run, and what is wrong.
pub fn check<'a>(
    prompt: &Prompt,
    registry: &Registry,
    environment: &Environment,
    targets: impl Iterator<Item = &'a str>,
) -> (Vec<String>, IndexMap<String, NodeProblems>) {
    let subject = Subject { prompt, registry, environment };
    let cyclic = on_cycles(prompt, registry);
    let mut seen: HashMap<String, Vec<Problem>> = HashMap::new();
    let mut looked: HashMap<String, Option<Problem>> = HashMap::new();
    let mut errors: IndexMap<String, NodeProblems> = IndexMap::new();
    let mut good = Vec::new();
    for target in targets {
        let needed = ancestors(prompt, registry, target);
        // Whether there is nothing to report.
        let mut report = |id: &str, node: &PromptNode, problems: &[Problem]| {
            if problems.is_empty() {
                return true;
            }
            let entry = errors.entry(id.to_owned()).or_insert_with(|| NodeProblems {
                errors: problems.to_vec(),
                dependent_outputs: Vec::new(),
                class_type: node.class.clone(),
            });
            entry.dependent_outputs.push(target.to_owned());
            false
        };
        let nodes = || needed.iter().filter_map(|id| Some((id, prompt.nodes.get(id)?)));
        let (mut sound, mut ready) = (true, true);
        for (id, node) in nodes() {
            let problems = seen.entry(id.clone()).or_insert_with(|| {
                let mut problems = check_node(id, node, subject);
                problems.extend(cyclic.contains(id).then(|| cycle(id)));
                problems
            });
            sound &= report(id, node, problems);
        }
        for (id, node) in nodes().take_while(|_| sound) {
            let problem = looked.entry(id.clone()).or_insert_with(|| preflight(id, node, subject));
            ready &= report(id, node, problem.as_slice());
        }
        if sound && ready {
            good.push(target.to_owned());
        }
    }
    (good, errors)
}

/// What is looked at.
#[derive(Clone, Copy)]
struct Subject<'a> {
    prompt: &'a Prompt,
    registry: &'a Registry,
    environment: &'a Environment,
}

/// Classes that say something to people only. They are left out of what runs.
const NOTES: &[&str] = &["Note", "MarkdownNote"];

fn unknown_classes<'a>(
    prompt: &'a Prompt,
    registry: &Registry,
) -> impl Iterator<Item = (&'a String, &'a PromptNode)> {
    prompt.nodes.iter().filter(|(_, node)| {
        registry.find(&node.class).is_none() && !NOTES.contains(&node.class.as_str())
    })
}

fn unknown_class(id: &str, node: &PromptNode, registry: &Registry) -> Problem {
    let extra = json!({
        "node_id": id, "class_type": node.class,
        "node_title": node.title.as_deref().unwrap_or(&node.class),
    });
    let message = format!("This program has no node `{}`", node.class);
    Problem::new("missing_node_type", message, hint(id, node, registry)).with(extra)
}

/// What a link from a note leads to.
fn no_outputs(id: &str, node: &PromptNode) -> Problem {
    let details = format!("node {id} ({}) has no outputs", node.class);
    Problem::new("bad_linked_input", "A note gives nothing to other nodes", details)
}

/// What is known of a class that this program has not.
fn hint(id: &str, node: &PromptNode, registry: &Registry) -> String {
    let class = &node.class;
    let hint = match registry.provided_by(class) {
        Some(pack) => format!(", which is of {pack}"),
        None if class.starts_with("workflow>") || class.starts_with("workflow/") => {
            ", a group node, and the file does not say what is inside".to_owned()
        }
        None => {
            let closest = registry.closest_match(class);
            closest.map_or_else(String::new, |name| format!(": did you mean {name}?"))
        }
    };
    format!("node {id} is a `{class}`{hint}")
}

fn known_classes(prompt: &Prompt, registry: &Registry) -> Result<(), Invalid> {
    let all: Vec<_> = unknown_classes(prompt, registry).collect();
    let Some((id, node)) = all.first() else { return Ok(()) };
    let details = join(all.iter().map(|(id, node)| hint(id, node, registry)));
    let error = Problem { details, ..unknown_class(id, node, registry) };
    Err(Invalid { error, node_errors: IndexMap::new() })
}

fn cycle(id: &str) -> Problem {
    let details = format!("node {id} needs its own result, by way of its links");
    Problem::new("dependency_cycle", "The links go in a circle", details)
}

fn check_node(id: &str, node: &PromptNode, subject: Subject<'_>) -> Vec<Problem> {
    let Subject { registry, environment, .. } = subject;
    let class = match registry.find(&node.class) {
        Some(class) => class,
        None if NOTES.contains(&node.class.as_str()) => return vec![no_outputs(id, node)],
        None => return vec![unknown_class(id, node, registry)],
    };
    let mut problems = Vec::new();
    let mut literals = Vec::new();
    for input in class.inputs {
        match check_input(input, node, subject) {
            Ok(Some(value)) => literals.push((input.name.to_owned(), value)),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    if let (true, Some(check)) = (problems.is_empty(), class.check)
        && let Err(problem) = check(environment, &literals.into_iter().collect::<Inputs>())
    {
        let message = "The node cannot work with these inputs";
        problems.push(Problem::new("custom_validation_failed", message, problem));
    }
    problems
}

/// What the node would fail at, as far as that can be seen before a run.
fn preflight(id: &str, node: &PromptNode, subject: Subject<'_>) -> Option<Problem> {
    let Subject { prompt, registry, environment } = subject;
    let class = registry.find(&node.class)?;
    let look = class.preflight?;
    let inputs = literals(node, class, environment);
    let problem = look(&Preflight { environment, prompt, node: id, inputs: &inputs }).err()?;
    Some(Problem::new("custom_validation_failed", "The node could not do its work", problem))
}

/// The value of a literal input; `None` for a link, or an optional input that is left out.
fn check_input(
    input: &Input,
    node: &PromptNode,
    subject: Subject<'_>,
) -> Result<Option<Value>, Problem> {
    let environment = subject.environment;
    let info = |extra: Json| {
        let config = input_config(input, environment);
        let mut info = json!({ "input_name": input.name, "input_config": config });
        if let (Some(info), Json::Object(extra)) = (info.as_object_mut(), extra) {
            info.extend(extra);
        }
        info
    };
    match node.inputs.get(input.name) {
        None if input.optional => Ok(None),
        None => {
            let details = match node.unresolved.get(input.name) {
                Some(reason) => format!("{}: {reason}", input.name),
                None => input.name.to_owned(),
            };
            Err(Problem::new("required_input_missing", "Required input is missing", details)
                .with(json!({ "input_name": input.name })))
        }
        Some(InputValue::Link { node, slot }) => {
            check_link(input, node, *slot, subject, info).map(|()| None)
        }
        Some(InputValue::Literal(Json::Null)) if input.optional => Ok(None),
        Some(InputValue::Literal(value)) => {
            literal(input, value, environment).map(Some).map_err(|problem| {
                let extra = info(json!({ "received_value": value }));
                problem.with(extra)
            })
        }
    }
}

fn check_link(
    input: &Input,
    from: &str,
    slot: usize,
    Subject { prompt, registry, .. }: Subject<'_>,
    info: impl Fn(Json) -> Json,
) -> Result<(), Problem> {
    let received = json!([from, slot]);
    let bad = |details: String| {
        Problem::new("bad_linked_input", "The link leads nowhere", details)
            .with(info(json!({ "received_value": received })))
    };
    let Some(node) = prompt.nodes.get(from) else {
        return Err(bad(format!("{}: there is no node {from}", input.name)));
    };
    // What is wrong with that node is told of it.
    let Some(class) = registry.find(&node.class) else { return Ok(()) };
    let Some(output) = class.outputs.get(slot) else {
        let count = class.outputs.len();
        let details = format!(
            "{}: node {from} ({}) has {count} outputs, none at slot {slot}",
            input.name, node.class
        );
        return Err(bad(details));
    };
    let expected = input.kind.value_type();
    if accepts(expected, output.kind) {
        return Ok(());
    }
    let details =
        format!("{}, received_type({}) mismatch input_type({expected})", input.name, output.kind);
    Err(Problem::new("return_type_mismatch", "The linked output has another type", details)
        .with(info(json!({ "received_type": output.kind.name(), "linked_node": received }))))
}

/// Whether an input of one type takes a value of another.
fn accepts(input: Type, value: Type) -> bool {
    input == value
        || matches!(
            (input, value),
            (Type::Any, _)
                | (_, Type::Any)
                | (Type::Combo, Type::String | Type::Device)
                | (Type::Number, Type::Int | Type::Float | Type::Boolean)
                | (Type::ImageOrMask, Type::Image | Type::Mask)
                | (Type::AnyBoxes, Type::BoundingBox | Type::Array | Type::String)
        )
}
