//! `distorch run`: a workflow as ComfyUI exports it.

use std::io::Cursor;

use distorch_pipeline::image::embedded::Embedded;
use distorch_workflow::amend::Missing;
use distorch_workflow::graph::{Prompt, ReadOptions};
use distorch_workflow::json_text;
use distorch_workflow::validate::{Invalid, Valid};
use distorch_workflow::{Environment, Executor, Registry, nodes, validate};
use serde_json::{Value as Json, json};

use super::{print_json, print_text};
use crate::args::{RunArgs, Shared};
use crate::error::CliError;
use crate::given_file;
use crate::machine;
use crate::progress_reporter::ProgressReporter;
use crate::session;

/// Runs a workflow, or tells what it would do. Outputs that cannot be run do not stop the others.
pub fn run(shared: &Shared, args: &RunArgs) -> Result<(), CliError> {
    let forms = read(args, &nodes::all())?;
    let (session, cancel) = session::session(shared, &args.compute)?;
    let mut environment = Environment::of(session);
    environment.save_metadata = !args.disable_metadata;
    if let Some(dir) = &args.output_dir {
        environment.output_dir.clone_from(dir);
    }
    if let Some(dir) = &args.input_dir {
        environment.input_dir.clone_from(dir);
    }
    let mut executor = Executor::new(environment, nodes::all());
    let (prompt, validated) = choose(forms, &executor);
    prompt.notes.iter().for_each(|note| machine::warn(note));
    let topology = executor.environment().session.topology().clone();
    let valid = validated.map_err(|invalid| session::invalid(&invalid, &topology))?;
    let hint = session::absent_devices(&valid.node_errors, &topology);
    let broken = broken(&valid);
    if let Some(broken) = &broken {
        let lines = validate::lines(&valid.node_errors);
        machine::warn(&format!("{broken}; the others run{lines}"));
    }
    let reporter = ProgressReporter::new(args.json);
    if args.dry_run {
        executor.dry_run(&prompt, &valid.outputs, &reporter).map_err(session::failure)?;
        let sound = match valid.node_errors.is_empty() {
            true => "the workflow is sound",
            false => "the rest of the workflow is sound",
        };
        print_text(&format!("{sound}; nothing was loaded"))?;
        return broken.map_or(Ok(()), |broken| Err(CliError::usage(broken).maybe_hint(hint)));
    }
    let result = executor.run_nodes_with(&prompt, &valid.outputs, &reporter, &cancel);
    reporter.finish();
    let report = result.map_err(session::failure)?;
    if args.json {
        let mut shown = json!(report.outputs);
        if broken.is_some() {
            shown["node_errors"] = json!(valid.node_errors);
        }
        print_json(&shown)?;
    } else {
        let mut text = session::memory(&executor.environment().session);
        for ui in report.outputs.values() {
            for path in saved(&executor, ui) {
                text += &format!("\nsaved {path}");
            }
        }
        print_text(text.trim_start_matches('\n'))?;
    }
    // What is wrong is in the JSON already.
    let failure = |broken| CliError::usage(broken).maybe_hint(hint).with_json(&Json::Null);
    broken.map_or(Ok(()), |broken| Err(failure(broken)))
}

/// Which outputs cannot be run, in words.
fn broken(valid: &Valid) -> Option<String> {
    let outputs = valid.node_errors.values().flat_map(|node| &node.dependent_outputs);
    let ids: std::collections::BTreeSet<&str> = outputs.map(String::as_str).collect();
    let list = ids.iter().copied().collect::<Vec<_>>().join(", ");
    match ids.len() {
        0 => None,
        1 => Some(format!("the output {list} cannot be run")),
        _ => Some(format!("the outputs {list} cannot be run")),
    }
}

/// The first form of the workflow that can be run as it is; else that of which a part can; else the
/// first, with all that is wrong with it.
fn choose(forms: Vec<Prompt>, executor: &Executor) -> (Prompt, Result<Valid, Invalid>) {
    let mut best: Option<(Prompt, Result<Valid, Invalid>)> = None;
    for mut prompt in forms {
        let validated = executor.validate(&prompt);
        let is_whole = validated.as_ref().is_ok_and(|valid| valid.node_errors.is_empty());
        let is_better = match &best {
            None => true,
            Some((_, best)) => is_whole || (best.is_err() && validated.is_ok()),
        };
        if is_better && best.is_some() {
            let note = "the picture's `prompt` cannot be run as it is; its `workflow` is used";
            prompt.notes.insert(0, note.to_owned());
        }
        if is_better {
            best = Some((prompt, validated));
        }
        if is_whole {
            break;
        }
    }
    best.unwrap_or_else(|| {
        let prompt = Prompt::default();
        let validated = executor.validate(&prompt);
        (prompt, validated)
    })
}

/// The forms of the workflow that a file has, with the overrides, the one that is meant first: one
/// form, or of a picture the prompt that was run and the workflow as the editor had it.
fn read(args: &RunArgs, registry: &Registry) -> Result<Vec<Prompt>, CliError> {
    let path = &args.workflow;
    let name = path.display();
    let wrong = |problem: String| CliError::usage(format!("`{name}`: {problem}"));
    let options = ReadOptions { prompt_seed: args.prompt_seed };
    let read = match path.to_str() {
        Some("-") => given_file::all_of(std::io::stdin()),
        _ => given_file::read(path),
    };
    let bytes = read.map_err(|error| CliError::usage(format!("cannot read `{name}`: {error}")))?;
    let (texts, missing) = match in_picture(&bytes).map_err(wrong)? {
        Some(texts) => (texts, Missing::Any),
        None => {
            let text = json_text::decode(&bytes).map_err(|error| wrong(error.to_string()))?;
            (vec![text], Missing::AddedLater)
        }
    };
    let mut forms: Vec<Prompt> = Vec::new();
    let mut unreadable = None;
    for text in &texts {
        let mut prompt = match Prompt::read(text, registry, options) {
            Ok(prompt) => prompt,
            Err(error) => {
                unreadable = unreadable.or(Some(wrong(error.to_string())));
                continue;
            }
        };
        if unreadable.is_some() {
            let note = "the picture's `prompt` cannot be read; its `workflow` is used";
            prompt.notes.insert(0, note.to_owned());
        }
        prompt.fill_in(missing, registry);
        let mut overrides = args.set.iter().map(|given| prompt.set(given, registry));
        match overrides.find_map(Result::err) {
            None => forms.push(prompt),
            Some(error) if forms.is_empty() => {
                return Err(CliError::usage(format!("`--set` {error}")));
            }
            Some(_) => {}
        }
    }
    match unreadable {
        Some(problem) if forms.is_empty() => Err(problem),
        _ => Ok(forms),
    }
}

/// What a picture carries: the prompt as it was run, and the workflow as the editor had it. `None`
/// where the file is no picture.
fn in_picture(file: &[u8]) -> Result<Option<Vec<String>>, String> {
    let found = Embedded::read(&mut Cursor::new(file)).map_err(|error| error.to_string())?;
    let Some(Embedded { prompt, workflow }) = found else { return Ok(None) };
    let found: Vec<String> = prompt.into_iter().chain(workflow).collect();
    match found.is_empty() {
        true => Err("this picture carries no workflow; those that SaveImage saves do".to_owned()),
        false => Ok(Some(found)),
    }
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
        Some(session::shown(&folder.join(name)))
    };
    let lists = ui.as_object().into_iter().flat_map(|ui| ui.values()).filter_map(Json::as_array);
    lists.flatten().filter_map(path).collect()
}
