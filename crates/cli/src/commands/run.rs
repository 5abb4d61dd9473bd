//! `distorch run`: a workflow as ComfyUI exports it.

use std::path::Path;

use distorch_workflow::graph::Prompt;
use distorch_workflow::nodes;
use distorch_workflow::picture::png_file;
use distorch_workflow::signature::Kind;
use distorch_workflow::value::Type;
use distorch_workflow::{Executor, validate};
use serde_json::Value as Json;

use super::{print_json, print_text};
use crate::args::{RunArgs, Shared};
use crate::failure::Failure;
use crate::given_file;
use crate::studio;
use crate::watch::Watch;

/// Runs a workflow, or tells what it would do.
pub fn run(shared: &Shared, args: &RunArgs) -> Result<(), Failure> {
    let mut prompt = read(&args.workflow)?;
    for given in &args.set {
        prompt.set(given).map_err(|error| Failure::input(format!("`--set` {error}")))?;
    }
    let mut executor = studio::executor(shared, &args.compute)?;
    let environment = executor.environment_mut();
    environment.save_metadata = !args.disable_metadata;
    if let Some(dir) = &args.output_dir {
        environment.output_dir.clone_from(dir);
    }
    if let Some(dir) = &args.input_dir {
        environment.input_dir.clone_from(dir);
    }
    // A command ends in one way: what is wrong anywhere is told before anything runs.
    let valid = validate::validate(&prompt, executor.environment()).map_err(Failure::input)?;
    if !valid.node_errors.is_empty() {
        let lines = validate::lines(&valid.node_errors);
        return Err(Failure::input(format!("the workflow cannot run as it is{lines}")));
    }
    let watch = Watch::new(args.json);
    if args.dry_run {
        return dry_run(&mut executor, &prompt, &watch);
    }
    let result = executor.run(&prompt, &watch);
    watch.finish();
    let report = result.map_err(studio::failure)?;
    if args.json {
        return print_json(&report.outputs);
    }
    let mut text = studio::memory(&executor);
    for ui in report.outputs.values() {
        for path in saved(&executor, ui) {
            text += &format!("\nsaved {path}");
        }
    }
    print_text(text.trim_start_matches('\n'))
}

/// The workflow in a file: JSON, or a picture that carries the one that made it.
fn read(path: &Path) -> Result<Prompt, Failure> {
    let name = path.display();
    let wrong = |problem: String| Failure::input(format!("`{name}`: {problem}"));
    let read = match path.to_str() {
        Some("-") => given_file::all_of(std::io::stdin()),
        _ => given_file::read(path),
    };
    let bytes = read.map_err(|error| Failure::input(format!("cannot read `{name}`: {error}")))?;
    let text = match bytes.starts_with(PNG) {
        true => in_picture(&bytes).map_err(wrong)?,
        false => String::from_utf8(bytes).map_err(|error| wrong(format!("no text: {error}")))?,
    };
    Prompt::from_json(&text).map_err(|error| wrong(error.to_string()))
}

/// What every PNG file begins with.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The workflow that a picture carries: as it was run, else as the editor had it.
fn in_picture(file: &[u8]) -> Result<String, String> {
    let texts = png_file::texts(file).map_err(|error| error.to_string())?;
    let find = |wanted: &str| texts.iter().find(|(keyword, _)| keyword == wanted);
    let found = find("prompt").or_else(|| find("workflow"));
    let none = "this picture carries no workflow; those that SaveImage saves do";
    found.map(|(_, text)| text.clone()).ok_or_else(|| none.to_owned())
}

/// Runs the loaders alone, which plan and open but read no weights.
fn dry_run(executor: &mut Executor, prompt: &Prompt, watch: &Watch) -> Result<(), Failure> {
    let loads = |class: &str| {
        nodes::find(class).is_some_and(|node| {
            let gives = |kind| node.outputs.iter().any(|output| output.kind == kind);
            let takes_links = node.inputs.iter().any(|i| matches!(i.kind, Kind::Link(_)));
            !takes_links && (gives(Type::Model) || gives(Type::Clip) || gives(Type::Vae))
        })
    };
    let loaders: Vec<&str> = prompt
        .nodes
        .iter()
        .filter(|(_, node)| loads(&node.class))
        .map(|(id, _)| id.as_str())
        .collect();
    executor.run_nodes(prompt, &loaders, watch).map_err(studio::failure)?;
    print_text("the workflow is sound; nothing was loaded")
}

/// The paths of the files that an output node shows.
fn saved(executor: &Executor, ui: &Json) -> Vec<String> {
    let environment = executor.environment();
    let path = |file: &Json| {
        let folder = match file.get("type")?.as_str()? {
            "output" => &environment.output_dir,
            "temp" => &environment.temp_dir,
            _ => return None,
        };
        let subfolder = file.get("subfolder").and_then(Json::as_str).unwrap_or_default();
        let name = file.get("filename")?.as_str()?;
        let folder = if subfolder.is_empty() { folder.clone() } else { folder.join(subfolder) };
        Some(studio::shown(&folder.join(name)))
    };
    let lists = ui.as_object().into_iter().flat_map(|ui| ui.values()).filter_map(Json::as_array);
    lists.flatten().filter_map(path).collect()
}
