//! The files that a model is read from: one, or several whose components make one model.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::dtype::Dtype;
use crate::family::{self, FamilyError, JoinError, Member, Model};
use crate::file::{Checkpoint, OpenError};
use crate::layer::ComponentKind;

/// The files that a model is read from, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelFiles {
    /// The files.
    pub paths: Vec<PathBuf>,
    /// What they are to each other.
    pub reading: Reading,
}

/// What the files of a model are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading {
    /// One file as it is.
    Whole,
    /// One file, whose values are rounded to an 8-bit float where they have more bits.
    Rounded(Dtype),
    /// Text encoders, one or more in each file; nothing else of these files is used.
    TextEncoders,
    /// The files of a folder as diffusers saves a pipeline: those in one folder are shards of one model.
    Diffusers,
}

/// Why a model cannot be read from its files.
#[derive(Debug, Error)]
pub enum SourceError {
    /// A file cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file is nothing that is known.
    #[error("`{name}`: {error}")]
    Family {
        /// The file's name.
        name: String,
        /// What was looked for.
        error: FamilyError,
    },
    /// The files make no model.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A folder that holds no pipeline of diffusers.
    #[error("`{name}`: {problem}")]
    Folder {
        /// The folder.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}

const ALL: &[ComponentKind] =
    &[ComponentKind::DiffusionModel, ComponentKind::TextEncoders, ComponentKind::Vae];

impl From<&Path> for ModelFiles {
    fn from(path: &Path) -> Self {
        Self { paths: vec![path.to_owned()], reading: Reading::Whole }
    }
}

impl From<PathBuf> for ModelFiles {
    fn from(path: PathBuf) -> Self {
        Self { paths: vec![path], reading: Reading::Whole }
    }
}

impl ModelFiles {
    /// The files of a folder that diffusers saved a pipeline in: `model_index.json`, and a folder for each model with
    /// its weights in one file or in shards.
    ///
    /// # Errors
    /// When there is no such folder, or no weights in it.
    pub fn of_diffusers(folder: &Path) -> Result<Self, SourceError> {
        let wrong = |problem: &str| SourceError::Folder {
            name: folder.display().to_string(),
            problem: problem.to_owned(),
        };
        if !folder.join(MODEL_INDEX).is_file() {
            return Err(wrong(
                "there is no `model_index.json`: diffusers saves one with a pipeline",
            ));
        }
        let mut paths = Vec::new();
        for part in PARTS {
            paths.extend(weights(&folder.join(part)));
        }
        match paths.is_empty() {
            true => {
                Err(wrong("there are no weights in `unet`, `transformer`, `text_encoder` or `vae`"))
            }
            false => Ok(Self { paths, reading: Reading::Diffusers }),
        }
    }

    /// What stands for a path: the file's own where there is one, else all of them with what is done to them.
    pub fn path(&self) -> PathBuf {
        let paths: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        let text = paths.join(" + ");
        match (self.reading, self.paths.as_slice()) {
            (Reading::Whole, [path]) => path.clone(),
            (Reading::Rounded(dtype), _) => PathBuf::from(format!("{text} as {dtype}")),
            (Reading::Whole | Reading::Diffusers, _) => PathBuf::from(text),
            (Reading::TextEncoders, _) => PathBuf::from(format!("{text} (text encoders)")),
        }
    }

    /// Opens the files and recognises the model that they make. `name` is what it is called in errors.
    ///
    /// # Errors
    /// When a file cannot be opened, is nothing known, or they make no model.
    pub fn open(&self, name: &str) -> Result<(Arc<Checkpoint>, Model), SourceError> {
        match self.reading {
            Reading::Whole => open_one(&self.paths, name),
            Reading::Rounded(dtype) => {
                let checkpoint = open_shards(&self.paths)?;
                let checkpoint = original(&checkpoint, name)?.rounded(dtype)?;
                let model = recognise(&checkpoint, name)?;
                Ok((checkpoint, model))
            }
            Reading::TextEncoders => {
                let members = self.paths.iter().map(|path| {
                    let paths = std::slice::from_ref(path);
                    member(paths, label(path), &[ComponentKind::TextEncoders])
                });
                let members = members.collect::<Result<Vec<_>, SourceError>>()?;
                Ok(family::join(self.path(), &members)?)
            }
            Reading::Diffusers => {
                let mut folders: BTreeMap<&Path, Vec<PathBuf>> = BTreeMap::new();
                for path in &self.paths {
                    let folder = path.parent().unwrap_or(Path::new(""));
                    folders.entry(folder).or_default().push(path.clone());
                }
                let members =
                    folders.iter().map(|(folder, paths)| member(paths, label(folder), ALL));
                let members = members.collect::<Result<Vec<_>, SourceError>>()?;
                Ok(family::join(self.path(), &members)?)
            }
        }
    }
}

fn open_one(paths: &[PathBuf], name: &str) -> Result<(Arc<Checkpoint>, Model), SourceError> {
    let checkpoint = original(&open_shards(paths)?, name)?;
    let model = recognise(&checkpoint, name)?;
    Ok((checkpoint, model))
}

fn member(
    paths: &[PathBuf],
    label: String,
    kinds: &'static [ComponentKind],
) -> Result<Member, SourceError> {
    let (checkpoint, model) = open_one(paths, &label)?;
    Ok(Member { label, checkpoint, model, kinds })
}

fn open_shards(paths: &[PathBuf]) -> Result<Arc<Checkpoint>, SourceError> {
    let open = |path: &PathBuf| Checkpoint::open(path).map(Arc::new);
    let shards = paths.iter().map(open).collect::<Result<Vec<_>, OpenError>>()?;
    Ok(family::shards(shards)?)
}

fn original(checkpoint: &Arc<Checkpoint>, name: &str) -> Result<Arc<Checkpoint>, SourceError> {
    family::original(checkpoint).map_err(|error| of(name, error))
}

fn recognise(checkpoint: &Checkpoint, name: &str) -> Result<Model, SourceError> {
    family::recognise(checkpoint).map_err(|error| of(name, error))
}

fn of(name: &str, error: FamilyError) -> SourceError {
    SourceError::Family { name: name.to_owned(), error }
}

fn label(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What tells a folder of diffusers.
pub const MODEL_INDEX: &str = "model_index.json";

/// The folders of a pipeline that hold models which are used.
const PARTS: [&str; 6] =
    ["unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"];

/// The files of a model's weights in a folder: one set of them, in 16 bits where there is a choice, safetensors before
/// pickles.
fn weights(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.contains("non_ema"))
        .collect();
    names.sort();
    for extension in [".safetensors", ".bin"] {
        for variant in [".fp16", ".bf16", ""] {
            let found: Vec<PathBuf> = names
                .iter()
                .filter(|name| variant_of(name, extension) == Some(variant))
                .map(|name| folder.join(name))
                .collect();
            if !found.is_empty() {
                return found;
            }
        }
    }
    Vec::new()
}

/// The variant in the name of a file of weights: `model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`, or
/// `model-00001-of-00002.fp16.safetensors`.
fn variant_of<'n>(name: &'n str, extension: &str) -> Option<&'n str> {
    let stem = name.strip_suffix(extension)?;
    let known = ["diffusion_pytorch_model", "pytorch_model", "model"];
    let rest = known.iter().find_map(|start| stem.strip_prefix(start))?;
    let is_shard = |text: &str| text.starts_with('-') && text.contains("-of-");
    match (rest.find('.'), rest.find('-')) {
        (None, None) => Some(""),
        (None, Some(_)) => is_shard(rest).then_some(""),
        (Some(0), None) => Some(rest),
        (Some(0), Some(dash)) => is_shard(rest.get(dash..)?).then_some(rest.get(..dash)?),
        (Some(dot), Some(0)) => is_shard(rest.get(..dot)?).then_some(rest.get(dot..)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_read_off_names() {
        let of = |name| variant_of(name, ".safetensors");
        assert_eq!(of("diffusion_pytorch_model.safetensors"), Some(""));
        assert_eq!(of("model.fp16.safetensors"), Some(".fp16"));
        assert_eq!(of("model-00001-of-00002.safetensors"), Some(""));
        assert_eq!(of("model.fp16-00001-of-00002.safetensors"), Some(".fp16"));
        assert_eq!(of("model-00001-of-00002.fp16.safetensors"), Some(".fp16"));
        assert_eq!(of("flax_model.safetensors"), None);
        assert_eq!(of("model.bin"), None);
    }
}
