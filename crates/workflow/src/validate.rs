//! Everything that is wrong with a prompt, before anything runs.
//!
//! Kinds of errors and their JSON are ComfyUI's, since its clients read them: `node_errors` by node
//! id, each error with `type`, `message`, `details` and `extra_info`.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::environment::Environment;
use crate::graph::{Given, Prompt, PromptNode, describe, join};
use crate::inputs::Inputs;
use crate::nodes::{self, describe::input_config};
use crate::signature::{Input, Kind, Node, Options};
use crate::value::{Type, Value};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    /// What kind of thing: `required_input_missing`, `value_not_in_list`, …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it is, in general.
    pub message: String,
    /// What it is, here.
    pub details: String,
    /// For programs: the input, what it takes and what it was given.
    pub extra_info: Json,
}

/// What is wrong with a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeProblems {
    /// All of it.
    pub errors: Vec<Problem>,
    /// The output nodes that need this node.
    pub dependent_outputs: Vec<String>,
    /// The node's class.
    pub class_type: String,
}

/// A prompt that cannot be run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Invalid {
    /// The first thing to say.
    pub error: Problem,
    /// What is wrong, node by node.
    pub node_errors: IndexMap<String, NodeProblems>,
}

/// A prompt of which at least a part can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid {
    /// The output nodes that can be run, in the order of the prompt.
    pub outputs: Vec<String>,
    /// What is wrong with the others.
    pub node_errors: IndexMap<String, NodeProblems>,
}

impl Problem {
    /// A problem of no input.
    pub fn new(kind: &'static str, message: impl Into<String>, details: impl Into<String>) -> Self {
        let (message, details) = (message.into(), details.into());
        Self { kind, message, details, extra_info: json!({}) }
    }

    fn with(self, extra_info: Json) -> Self {
        Self { extra_info, ..self }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error.message)?;
        if !self.error.details.is_empty() {
            write!(f, ": {}", self.error.details)?;
        }
        write!(f, "{}", lines(&self.node_errors))
    }
}

impl std::error::Error for Invalid {}

/// The problems of nodes for people: a line for each.
pub fn lines(node_errors: &IndexMap<String, NodeProblems>) -> String {
    let mut text = String::new();
    for (id, node) in node_errors {
        for error in &node.errors {
            text += &format!(
                "\n  node {id} ({}): {}: {}",
                node.class_type, error.message, error.details
            );
        }
    }
    text
}

/// Looks at every node that an output needs.
///
/// # Errors
/// When a class is unknown, there is no output, or no output can be run.
pub fn validate(prompt: &Prompt, environment: &Environment) -> Result<Valid, Invalid> {
    known_classes(prompt)?;
    let is_output =
        |node: &PromptNode| nodes::find(&node.class).is_some_and(|class| class.is_output);
    let outputs: Vec<&String> =
        prompt.nodes.iter().filter(|(_, node)| is_output(node)).map(|(id, _)| id).collect();
    if outputs.is_empty() {
        let details = "add a node that saves or shows something, such as SaveImage";
        let error = Problem::new("prompt_no_outputs", "Prompt has no outputs", details);
        return Err(Invalid { error, node_errors: IndexMap::new() });
    }
    let (good, node_errors) = check(prompt, environment, outputs.iter().map(|id| id.as_str()));
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
    environment: &Environment,
    targets: impl Iterator<Item = &'a str>,
) -> (Vec<String>, IndexMap<String, NodeProblems>) {
    let cyclic = on_cycles(prompt);
    let mut seen: HashMap<String, Vec<Problem>> = HashMap::new();
    let mut errors: IndexMap<String, NodeProblems> = IndexMap::new();
    let mut good = Vec::new();
    for target in targets {
        let mut sound = true;
        for id in ancestors(prompt, target) {
            let Some(node) = prompt.nodes.get(&id) else { continue };
            let problems = seen.entry(id.clone()).or_insert_with(|| {
                let mut problems = check_node(node, prompt, environment);
                problems.extend(cyclic.contains(&id).then(|| cycle(&id)));
                problems
            });
            if problems.is_empty() {
                continue;
            }
            sound = false;
            let entry = errors.entry(id).or_insert_with(|| NodeProblems {
                errors: problems.clone(),
                dependent_outputs: Vec::new(),
                class_type: node.class.clone(),
            });
            entry.dependent_outputs.push(target.to_owned());
        }
        if sound {
            good.push(target.to_owned());
        }
    }
    (good, errors)
}

/// Classes that say something to people only. They are left out of what runs.
const NOTES: &[&str] = &["Note", "MarkdownNote"];

fn known_classes(prompt: &Prompt) -> Result<(), Invalid> {
    let mut unknown = prompt.nodes.iter().filter(|(_, node)| {
        nodes::find(&node.class).is_none() && !NOTES.contains(&node.class.as_str())
    });
    let Some((id, node)) = unknown.next() else { return Ok(()) };
    let all: Vec<_> = std::iter::once((id, node)).chain(unknown).collect();
    let details = join(all.iter().map(|(id, node)| {
        let origin = nodes::known_elsewhere(&node.class);
        let hint = origin.map_or_else(
            || match nodes::near(&node.class) {
                Some(near) => format!(": did you mean {near}?"),
                None => String::new(),
            },
            |pack| format!(", which is of {pack}"),
        );
        format!("node {id} is a `{}`{hint}", node.class)
    }));
    let extra = json!({
        "node_id": id, "class_type": node.class,
        "node_title": node.title.as_deref().unwrap_or(&node.class),
    });
    let message = format!("This program has no node `{}`", node.class);
    let error = Problem::new("missing_node_type", message, details).with(extra);
    Err(Invalid { error, node_errors: IndexMap::new() })
}

/// A node and all that it needs, each once, in no special order.
pub(crate) fn ancestors(prompt: &Prompt, target: &str) -> Vec<String> {
    let mut found = indexmap::IndexSet::from([target.to_owned()]);
    let mut next = 0;
    while let Some(id) = found.get_index(next).cloned() {
        next += 1;
        found.extend(needed(prompt, &id).map(str::to_owned));
    }
    found.into_iter().collect()
}

/// The nodes that a node's declared inputs are linked to.
pub(crate) fn needed<'a>(prompt: &'a Prompt, id: &str) -> impl Iterator<Item = &'a str> {
    let node = prompt.nodes.get(id);
    let class = node.and_then(|node| nodes::find(&node.class));
    node.into_iter().flat_map(|node| &node.inputs).filter_map(move |(name, given)| match given {
        Given::Link { node, .. } if class.is_some_and(|class| class.input(name).is_some()) => {
            prompt.nodes.contains_key(node).then_some(node.as_str())
        }
        _ => None,
    })
}

/// The nodes that need themselves: what is left when nodes without unmet needs are taken away.
fn on_cycles(prompt: &Prompt) -> BTreeSet<String> {
    let mut needs: HashMap<&str, usize> = HashMap::new();
    let mut users: HashMap<&str, Vec<&str>> = HashMap::new();
    for id in prompt.nodes.keys() {
        let mut count = 0;
        for needed in needed(prompt, id) {
            users.entry(needed).or_default().push(id);
            count += 1;
        }
        needs.insert(id, count);
    }
    let mut free: Vec<&str> = needs.iter().filter(|(_, n)| **n == 0).map(|(id, _)| *id).collect();
    while let Some(id) = free.pop() {
        needs.remove(id);
        for user in users.get(id).into_iter().flatten() {
            if let Some(count) = needs.get_mut(user) {
                *count -= 1;
                if *count == 0 {
                    free.push(user);
                }
            }
        }
    }
    needs.into_keys().map(str::to_owned).collect()
}

fn cycle(id: &str) -> Problem {
    let details = format!("node {id} needs its own result, by way of its links");
    Problem::new("dependency_cycle", "The links go in a circle", details)
}

fn check_node(node: &PromptNode, prompt: &Prompt, environment: &Environment) -> Vec<Problem> {
    let Some(class) = nodes::find(&node.class) else { return Vec::new() };
    let mut problems = Vec::new();
    let mut literals = Vec::new();
    for input in class.inputs {
        match check_input(input, node, prompt, environment) {
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

/// The value of a literal input; `None` for a link, or an optional input that is left out.
fn check_input(
    input: &Input,
    node: &PromptNode,
    prompt: &Prompt,
    environment: &Environment,
) -> Result<Option<Value>, Problem> {
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
            Err(Problem::new("required_input_missing", "Required input is missing", input.name)
                .with(json!({ "input_name": input.name })))
        }
        Some(Given::Link { node, slot }) => {
            check_link(input, node, *slot, prompt, info).map(|()| None)
        }
        Some(Given::Literal(Json::Null)) if input.optional => Ok(None),
        Some(Given::Literal(value)) => {
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
    prompt: &Prompt,
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
    let Some(class) = nodes::find(&node.class) else {
        let class = &node.class;
        return Err(bad(format!("{}: node {from} ({class}) has no outputs here", input.name)));
    };
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
    input == value || matches!((input, value), (Type::Combo, Type::String))
}

/// The value of a literal, or what is wrong with it.
pub(crate) fn literal(
    input: &Input,
    value: &Json,
    environment: &Environment,
) -> Result<Value, Problem> {
    let name = input.name;
    let wrong_type = || {
        let kind = input.kind.value_type();
        let details = format!("{name}: {} is no {kind}", describe(value));
        Problem::new("invalid_input_type", format!("Not a {kind} value"), details)
    };
    match input.kind {
        Kind::Int { min, max, .. } => {
            let number = whole(value).ok_or_else(wrong_type)?;
            in_range(name, &number, &min, &max)?;
            Ok(Value::Int(number))
        }
        Kind::Float { min, max, .. } => {
            let number = real(value).ok_or_else(wrong_type)?;
            in_range(name, &number, &min, &max)?;
            Ok(Value::Float(number))
        }
        Kind::Boolean { .. } => truth(value).map(Value::Boolean).ok_or_else(wrong_type),
        Kind::String { .. } => match value {
            Json::String(text) => Ok(Value::String(text.as_str().into())),
            Json::Number(_) | Json::Bool(_) => Ok(Value::String(value.to_string().into())),
            _ => Err(wrong_type()),
        },
        Kind::Choice { options, .. } => {
            let given = match value {
                Json::String(text) => text.clone(),
                Json::Number(_) | Json::Bool(_) => value.to_string(),
                _ => return Err(wrong_type()),
            };
            if matches!(options, Options::Files { .. }) {
                return Ok(Value::String(given.into()));
            }
            choose(name, &given, &options.list(environment)).map(|name| Value::String(name.into()))
        }
        Kind::Link(kind) => {
            let details =
                format!("{name}: {} is no link to a node that gives {kind}", describe(value));
            Err(Problem::new("bad_linked_input", "A link is needed here", details))
        }
    }
}

/// Whether a number that another node gives is one that the input takes. Known only when that node
/// has run.
pub(crate) fn linked(input: &Input, value: &Value) -> Result<(), Problem> {
    match (input.kind, value) {
        (Kind::Int { min, max, .. }, Value::Int(number)) => {
            in_range(input.name, number, &min, &max)
        }
        (Kind::Float { min, max, .. }, Value::Float(number)) => {
            in_range(input.name, number, &min, &max)
        }
        _ => Ok(()),
    }
}

fn in_range<T: PartialOrd + fmt::Display>(
    name: &str,
    value: &T,
    min: &T,
    max: &T,
) -> Result<(), Problem> {
    let (kind, word, bound) = if value < min {
        ("value_smaller_than_min", "smaller than min", min)
    } else if value > max {
        ("value_bigger_than_max", "bigger than max", max)
    } else {
        return Ok(());
    };
    Err(Problem::new(kind, format!("Value {value} {word} of {bound}"), name))
}

fn whole(value: &Json) -> Option<i128> {
    match value {
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Some(number.into()),
            (_, Some(number), _) => Some(number.into()),
            (_, _, Some(number)) if number.abs() < 1e30 => Some(number as i128),
            _ => None,
        },
        Json::String(text) => text.trim().parse().ok(),
        Json::Bool(yes) => Some((*yes).into()),
        _ => None,
    }
}

fn real(value: &Json) -> Option<f64> {
    let number = match value {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => text.trim().parse().ok(),
        Json::Bool(yes) => Some(f64::from(u8::from(*yes))),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

fn truth(value: &Json) -> Option<bool> {
    match value {
        Json::Bool(yes) => Some(*yes),
        Json::Number(number) => number.as_f64().map(|number| number != 0.0),
        Json::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" | "" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// The name in the list that is meant; Windows' separators are taken for others.
fn choose(input: &str, given: &str, list: &[String]) -> Result<String, Problem> {
    let slashes = given.replace('\\', "/");
    if let Some(name) =
        list.iter().find(|name| *name == given || name.replace('\\', "/") == slashes)
    {
        return Ok(name.clone());
    }
    let message = "Value not in list";
    Err(Problem::new(
        "value_not_in_list",
        message,
        format!("{input}: '{given}' {}", known(given, list)),
    ))
}

/// Names near to the given one, or all of a short list.
fn known(given: &str, list: &[String]) -> String {
    const SHORT: usize = 20;
    if list.is_empty() {
        return "is not there: there is none to choose from".to_owned();
    }
    let mut near: Vec<(f64, &String)> = list
        .iter()
        .map(|name| (strsim::jaro_winkler(&given.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near = match near.is_empty() {
        true => String::new(),
        false => format!("; near: {}", join(near.iter().take(5).map(|(_, name)| name))),
    };
    match list.len() <= SHORT {
        true => format!("not in [{}]{near}", join(list.iter().map(|name| format!("'{name}'")))),
        false => format!("not in a list of {}{near}", list.len()),
    }
}

/// The class of a node of a checked prompt.
pub(crate) fn class_of(node: &PromptNode) -> Option<&'static Node> {
    nodes::find(&node.class)
}
