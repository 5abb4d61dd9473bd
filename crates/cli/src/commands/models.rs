//! `distorch models`.

use distorch_allocation::ByteSize;
use distorch_checkpoint::folders::{Entry, FolderWarning, ModelFolders, ModelKind};
use serde::{Serialize, Serializer};

use super::{Table, print_json, print_text};
use crate::args::{ModelsArgs, Shared};
use crate::error::CliError;
use crate::machine;

/// The files of one kind, as `--json` prints them.
#[derive(Serialize)]
struct Models {
    #[serde(serialize_with = "as_text")]
    kind: ModelKind,
    entries: Vec<Entry>,
    #[serde(serialize_with = "as_texts")]
    warnings: Vec<FolderWarning>,
}

fn as_text<S: Serializer>(value: &impl ToString, to: S) -> Result<S::Ok, S::Error> {
    value.to_string().serialize(to)
}

fn as_texts<S: Serializer>(values: &[impl ToString], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().map(ToString::to_string))
}

/// Lists the model files of one kind, or of all.
pub fn run(shared: &Shared, args: &ModelsArgs) -> Result<(), CliError> {
    let folders = machine::folders(shared)?;
    let kinds = match &args.kind {
        Some(kind) => vec![kind.parse::<ModelKind>().map_err(CliError::usage)?],
        None => ModelKind::ALL.to_vec(),
    };
    let list = |kind: ModelKind| {
        let listing = folders.list(kind).map_err(CliError::usage)?;
        Ok(Models { kind, entries: listing.entries, warnings: listing.warnings })
    };
    let found = kinds.into_iter().map(list).collect::<Result<Vec<_>, CliError>>()?;
    machine::print_warnings(&folders.config_warnings().map_err(CliError::usage)?);
    for models in &found {
        machine::print_warnings(&models.warnings);
    }
    if args.json {
        return print_json(&found);
    }
    if found.iter().all(|models| models.entries.is_empty()) {
        return nothing(&folders, &found);
    }
    let mut files =
        Table::new(["Kind", "Name", "Size", "Folder"], &[2]).optional(&[3, 2]).unbroken(&[0]);
    for models in &found {
        for entry in &models.entries {
            files.add_row([
                models.kind.to_string(),
                entry.name.clone(),
                ByteSize(entry.bytes).to_string(),
                entry.root.display().to_string(),
            ]);
        }
    }
    print_text(&files.to_string())
}

/// Nothing found: says where it was looked for.
fn nothing(folders: &ModelFolders, looked_for: &[Models]) -> Result<(), CliError> {
    let mut text = "no models found; searched:\n".to_owned();
    for models in looked_for {
        for root in folders.roots(models.kind).map_err(CliError::usage)? {
            let missing = if root.path.is_dir() { "" } else { " (not there)" };
            text += &format!("  {}: {}{missing}\n", models.kind, root.path.display());
        }
    }
    print_text(&text)
}
