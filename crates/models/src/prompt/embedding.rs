//! Textual inversions (Gal et al., <https://arxiv.org/abs/2208.01618>): files with vectors that
//! stand in for tokens.
//!
//! Several forms are about, told apart by their keys:
//!
//! | form | keys |
//! | --- | --- |
//! | A1111 `.pt` | `string_to_param.*` |
//! | SDXL | the encoder's name: `clip_l`, `clip_g` |
//! | bundled with a LoRA | `bundle_emb.NAME.string_to_param.*` or `bundle_emb.NAME.clip_l` |
//! | diffusers, and all others | the first tensor, `<token>` |

use std::path::{Path, PathBuf};
use std::sync::Arc;

use distorch_checkpoint::decode::to_f32;
use distorch_checkpoint::dtype::Dtype;
use distorch_checkpoint::file::{Checkpoint, OpenError};
use distorch_checkpoint::folders::{FolderError, ModelFolders, ModelKind};

/// The extensions that a prompt may leave out, in the order in which they are tried.
const EXTENSIONS: [&str; 3] = [".safetensors", ".pt", ".bin"];

/// Why an `embedding:name` in a prompt was left out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddingProblem {
    /// No file of that name.
    #[error("the prompt names `embedding:{name}`, and there is no such file among the embeddings")]
    Unknown {
        /// The name in the prompt.
        name: String,
    },
    /// The file could not be read.
    #[error("`embedding:{name}` is left out of the prompt: {error}")]
    Open {
        /// The name in the prompt.
        name: String,
        /// What is wrong with the file.
        error: OpenError,
    },
    /// The file's tensor is no list of vectors.
    #[error(
        "`embedding:{name}` is left out of the prompt: `{key}` in {} has the dtype {dtype} and the \
         shape {shape:?}, where rows of floats are needed",
        path.display()
    )]
    NotVectors {
        /// The name in the prompt.
        name: String,
        /// The file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The vectors are for another text encoder.
    #[error(
        "`embedding:{name}` is left out for {encoder}: its vectors have {found} values and this \
         text encoder takes {expected}; it was made for another model family"
    )]
    Width {
        /// The name in the prompt.
        name: String,
        /// The text encoder.
        encoder: String,
        /// Values of a vector in the file.
        found: usize,
        /// Values of a vector that the encoder takes.
        expected: usize,
    },
}

/// The textual inversions that prompts may name.
#[derive(Clone, Debug, Default)]
pub struct Embeddings {
    /// Path below the folder of embeddings, with `/`, and where the file is.
    files: Vec<(String, PathBuf)>,
}

impl Embeddings {
    /// These files; names are paths below the folder of embeddings, extension included.
    pub fn from_files(files: impl IntoIterator<Item = (String, PathBuf)>) -> Self {
        let files = files.into_iter().map(|(name, path)| (name.replace('\\', "/"), path));
        Self { files: files.collect() }
    }

    /// Those in the `embeddings` folders.
    ///
    /// # Errors
    /// When the folders cannot be listed.
    pub fn from_folders(folders: &ModelFolders) -> Result<Self, FolderError> {
        let listing = folders.list(ModelKind::Embeddings)?;
        Ok(Self::from_files(listing.entries.into_iter().map(|entry| (entry.name, entry.path))))
    }

    /// The file that a prompt means by `name`, with or without the extension, and with or without
    /// the sub-folder.
    pub fn find(&self, name: &str) -> Option<&Path> {
        let name = name.replace('\\', "/");
        if name.is_empty() {
            return None;
        }
        let names: Vec<String> =
            [""].iter().chain(&EXTENSIONS).map(|extension| format!("{name}{extension}")).collect();
        let file = |matches: &dyn Fn(&str) -> bool| {
            self.files.iter().find(|(file, _)| matches(file)).map(|(_, path)| path.as_path())
        };
        let exact = names.iter().find_map(|name| file(&|file| file == name));
        exact.or_else(|| {
            let below = |name: &str, file: &str| {
                file.strip_suffix(name).is_some_and(|folder| folder.ends_with('/'))
            };
            names.iter().find_map(|name| file(&|file| below(name, file)))
        })
    }

    /// The vectors of `name` for a text encoder (`clip_l`, `clip_h`, `clip_g`) of that width.
    ///
    /// # Errors
    /// When there is no such file, it cannot be read, or its vectors do not fit.
    pub fn load(
        &self,
        name: &str,
        encoder: &str,
        width: usize,
    ) -> Result<Vec<Arc<[f32]>>, EmbeddingProblem> {
        let unknown = || EmbeddingProblem::Unknown { name: name.to_owned() };
        let path = self.find(name).ok_or_else(unknown)?;
        let open = |error| EmbeddingProblem::Open { name: name.to_owned(), error };
        let file = Checkpoint::open(path).map_err(open)?;
        let mut vectors = Vec::new();
        for key in keys(&file, encoder) {
            let Some(info) = file.get(key) else { continue };
            let data = file.bytes(key).map_err(open)?;
            let found = info.shape.last().copied().unwrap_or(0);
            let values = floats(info.dtype, &data).filter(|_| found > 0).ok_or_else(|| {
                EmbeddingProblem::NotVectors {
                    name: name.to_owned(),
                    path: path.to_owned(),
                    key: key.to_owned(),
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                }
            })?;
            if found != width {
                let (name, encoder) = (name.to_owned(), encoder.to_owned());
                return Err(EmbeddingProblem::Width { name, encoder, found, expected: width });
            }
            vectors.extend(values.chunks_exact(width).map(Arc::from));
        }
        Ok(vectors)
    }
}

/// The keys whose rows are the vectors for this text encoder.
fn keys<'a>(file: &'a Checkpoint, encoder: &str) -> Vec<&'a str> {
    let all = || file.tensors().map(|(key, _)| key);
    if let Some(key) = all().find(|key| key.starts_with("string_to_param.")) {
        return vec![key];
    }
    if let Some(key) = all().find(|key| *key == encoder) {
        return vec![key];
    }
    for suffix in [".string_to_param.*", &format!(".{encoder}")] {
        let bundled = |key: &&str| key.starts_with("bundle_emb.") && key.ends_with(suffix);
        let bundled: Vec<_> = all().filter(bundled).collect();
        if !bundled.is_empty() {
            return bundled;
        }
    }
    all().take(1).collect()
}

/// Little-endian floats of a dtype that embeddings come in.
fn floats(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    let usual = matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
    usual.then(|| to_f32(data, dtype))
}
