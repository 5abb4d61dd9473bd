//! `extra_model_paths.yaml`: further model folders, in ComfyUI's format.
//!
//! ```yaml
//! any_name:                       # sections, as many as wanted
//!     base_path: ~/stable-diffusion/   # relative to this file's folder
//!     is_default: true            # these folders come before the built-in ones
//!     checkpoints: models/Stable-diffusion
//!     loras: |                    # several folders, one a line
//!         models/Lora
//!         models/LyCORIS
//!     vae: [models/VAE, /mnt/vae] # or as a list
//! ```
//!
//! Beyond ComfyUI: lists are read, lines are trimmed, an empty file is fine, variables and `~`
//! are replaced in every path, and of several default folders the first written stays the first.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Options, Spanned};

use super::expand::{Lookup, expand, normalize};
use super::kind::OTHER_COMFYUI_KINDS;
use super::{FolderError, FolderWarning, ModelKind, Root, RootOrigin};

/// The largest extra model paths file that is read, in bytes.
pub const MAX_EXTRA_PATHS_BYTES: u64 = 1 << 20;

/// What an extra model paths file asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtraPaths {
    /// The folders, in written order.
    pub folders: Vec<ExtraFolder>,
    /// Unknown kinds, variables that are not set, keys written twice.
    pub warnings: Vec<FolderWarning>,
}

/// One folder of an extra model paths file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraFolder {
    /// What is searched for in it.
    pub kind: ModelKind,
    /// Absolute path, without `.` and `..`.
    pub path: PathBuf,
    /// Whether its section has `is_default: true`.
    pub is_default: bool,
    /// The section it is in.
    pub section: String,
    /// Line of the value that names it, from 1.
    pub line: u64,
}

impl ExtraFolder {
    pub(super) fn to_root(&self, file: &Path) -> Root {
        let (line, section) = (self.line, self.section.clone());
        let origin = RootOrigin::ExtraPaths { file: file.to_owned(), line, section };
        Root { path: self.path.clone(), origin }
    }
}

/// Reads the text of an extra model paths file. `file` is its path, which must be absolute:
/// relative folders are relative to the folder it is in. Touches no file.
///
/// # Errors
/// [`FolderError::ExtraPaths`] with the place and what was expected there.
pub fn parse_extra_paths(
    text: &str,
    file: &Path,
    environment: Lookup,
) -> Result<ExtraPaths, FolderError> {
    let mut reader = Reader { text, file, environment, found: ExtraPaths::default() };
    let root: Node = serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        let mut message = error.without_snippet().to_string();
        if message.contains("escape") {
            message.push_str("; write Windows paths without quotes or in single quotes");
        }
        reader.error(line, section_at(text, line), message)
    })?;
    match root {
        Node::Null => {}
        Node::Map(sections) => reader.sections(sections)?,
        other => {
            let message = format!(
                "expected sections, each a name with `base_path` and model kinds below it, \
                 but the file is {}",
                other.description()
            );
            return Err(reader.error(1, None, message));
        }
    }
    Ok(reader.found)
}

/// Limits far above any real file's needs; they stop alias bombs and deep nesting.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 16,
            flow_nesting_limit: 16,
            max_nodes: 20_000,
            max_events: 50_000,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 10_000,
            max_replay_stack_depth: 8,
        },
        // Repeated keys are found, and warned about, by `last_of_each`.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        with_snippet: false,
    }
}

/// Any YAML value, with the place of everything in it.
#[derive(Debug)]
enum Node {
    Null,
    Text(String),
    /// A number or boolean: what was written is in the source.
    Plain,
    List(Vec<Spanned<Node>>),
    Map(Pairs),
}

type Pairs = Vec<(Spanned<String>, Spanned<Node>)>;

impl Node {
    fn description(&self) -> &'static str {
        match self {
            Self::Null => "empty",
            Self::Text(_) | Self::Plain => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a list or a mapping")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Node::Map(pairs))
    }
}

/// Turns the YAML tree into folders and warnings.
struct Reader<'a> {
    text: &'a str,
    file: &'a Path,
    environment: Lookup<'a>,
    found: ExtraPaths,
}

/// What applies to all folders of a section.
struct Section {
    name: String,
    base: PathBuf,
    is_default: bool,
}

impl Reader<'_> {
    fn sections(&mut self, sections: Pairs) -> Result<(), FolderError> {
        for (name, value) in self.last_of_each(sections) {
            let line = value.referenced.line();
            match value.value {
                Node::Null => {}
                Node::Map(keys) => self.section(name.value, keys)?,
                other => {
                    let message = format!(
                        "expected `base_path` and model kinds below the section's name, found {}",
                        other.description()
                    );
                    return Err(self.error(line, Some(name.value), message));
                }
            }
        }
        Ok(())
    }

    fn section(&mut self, name: String, keys: Pairs) -> Result<(), FolderError> {
        let keys = self.last_of_each(keys);
        let here = self.file.parent().unwrap_or(Path::new("")).to_owned();
        let mut section = Section { name, base: here, is_default: false };
        for (key, value) in &keys {
            match key.value.as_str() {
                "base_path" => self.base_path(&mut section, value)?,
                "is_default" => section.is_default = self.boolean(&section, value)?,
                _ => {}
            }
        }
        for (key, value) in &keys {
            if key.value != "base_path" && key.value != "is_default" {
                self.folders(&section, key, value)?;
            }
        }
        Ok(())
    }

    fn base_path(
        &mut self,
        section: &mut Section,
        value: &Spanned<Node>,
    ) -> Result<(), FolderError> {
        let lines = self.lines(section, "base_path", value)?;
        match lines.as_slice() {
            [] => Ok(()),
            [(line, path)] => {
                section.base = self.expanded(section, *line, path)?;
                Ok(())
            }
            _ => Err(self.error(
                value.referenced.line(),
                Some(section.name.clone()),
                "`base_path` takes one folder; use a section for each base".to_owned(),
            )),
        }
    }

    fn boolean(&self, section: &Section, value: &Spanned<Node>) -> Result<bool, FolderError> {
        let text = match &value.value {
            Node::Null => return Ok(false),
            _ => self.scalar(value).unwrap_or_default(),
        };
        // The spellings of YAML 1.1, which ComfyUI's parser reads.
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" | "1" => Ok(true),
            "false" | "no" | "off" | "n" | "0" => Ok(false),
            _ => Err(self.error(
                value.referenced.line(),
                Some(section.name.clone()),
                "`is_default` takes `true` or `false`".to_owned(),
            )),
        }
    }

    fn folders(
        &mut self,
        section: &Section,
        key: &Spanned<String>,
        value: &Spanned<Node>,
    ) -> Result<(), FolderError> {
        let kind = match key.value.parse::<ModelKind>() {
            Ok(kind) => kind,
            Err(_) if OTHER_COMFYUI_KINDS.contains(&key.value.as_str()) => return Ok(()),
            Err(unknown) => {
                self.found.warnings.push(FolderWarning::UnknownKind {
                    file: self.file.to_owned(),
                    line: key.referenced.line(),
                    section: section.name.clone(),
                    suggestion: unknown.suggestion(),
                    name: unknown.given,
                });
                return Ok(());
            }
        };
        for (line, folder) in self.lines(section, kind.name(), value)? {
            let path = self.expanded(section, line, &folder)?;
            let (section, is_default) = (section.name.clone(), section.is_default);
            self.found.folders.push(ExtraFolder { kind, path, is_default, section, line });
        }
        Ok(())
    }

    /// The paths in a value, one a line, trimmed, with the line that each value starts on.
    fn lines(
        &self,
        section: &Section,
        key: &str,
        value: &Spanned<Node>,
    ) -> Result<Vec<(u64, String)>, FolderError> {
        let items = match &value.value {
            Node::List(items) => items.as_slice(),
            _ => std::slice::from_ref(value),
        };
        let mut lines = Vec::new();
        for item in items {
            let line = item.referenced.line();
            let text = match (&item.value, self.scalar(item)) {
                (Node::Null, _) => continue,
                (_, Some(text)) => text,
                (node, None) => {
                    let found = node.description();
                    let message = format!(
                        "`{key}` takes a folder, several folders one a line, or a list of \
                         folders, but there is {found}"
                    );
                    return Err(self.error(line, Some(section.name.clone()), message));
                }
            };
            if text.contains('\0') {
                let message = format!("there is a NUL character in `{key}`");
                return Err(self.error(line, Some(section.name.clone()), message));
            }
            let paths = text.lines().map(str::trim).filter(|path| !path.is_empty());
            lines.extend(paths.map(|path| (line, path.to_owned())));
        }
        Ok(lines)
    }

    /// The text of a single value; of a number or boolean as it is written in the file.
    fn scalar<'n>(&'n self, value: &'n Spanned<Node>) -> Option<String> {
        match &value.value {
            Node::Text(text) => Some(text.clone()),
            Node::Plain => {
                let span = value.defined.span();
                let start = usize::try_from(span.byte_offset()?).ok()?;
                let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
                self.text.get(start..end).map(|text| text.trim().to_owned())
            }
            Node::Null | Node::List(_) | Node::Map(_) => None,
        }
    }

    fn expanded(
        &mut self,
        section: &Section,
        line: u64,
        path: &str,
    ) -> Result<PathBuf, FolderError> {
        let expanded = expand(path, cfg!(windows), self.environment)
            .map_err(|message| self.error(line, Some(section.name.clone()), message))?;
        let warnings = expanded.unset.into_iter().map(|variable| FolderWarning::UnsetVariable {
            file: self.file.to_owned(),
            line,
            section: section.name.clone(),
            variable,
        });
        self.found.warnings.extend(warnings);
        Ok(normalize(&section.base.join(expanded.path)))
    }

    /// The pairs without those whose key comes again later, as YAML parsers that allow repeated
    /// keys have it.
    fn last_of_each(&mut self, mut pairs: Pairs) -> Pairs {
        let mut later = HashSet::new();
        let mut warned = HashSet::new();
        let mut last = Vec::with_capacity(pairs.len());
        while let Some((key, value)) = pairs.pop() {
            if later.insert(key.value.clone()) {
                last.push((key, value));
            } else {
                warned.insert(key.value);
            }
        }
        last.reverse();
        for (key, _) in last.iter().filter(|(key, _)| warned.contains(&key.value)) {
            let (file, line, key) =
                (self.file.to_owned(), key.referenced.line(), key.value.clone());
            self.found.warnings.push(FolderWarning::WrittenTwice { file, line, key });
        }
        last
    }

    fn error(&self, line: u64, section: Option<String>, message: String) -> FolderError {
        FolderError::ExtraPaths { path: self.file.to_owned(), line, section, message }
    }
}

/// The section that a line of a file that cannot be parsed is in, by indentation.
fn section_at(text: &str, line: u64) -> Option<String> {
    let upto = usize::try_from(line).ok()?;
    text.lines().take(upto).filter_map(top_level_key).last().map(str::to_owned)
}

fn top_level_key(line: &str) -> Option<&str> {
    let first = line.chars().next()?;
    let (key, _) = line.split_once(':')?;
    (!first.is_whitespace() && !matches!(first, '#' | '-' | '}' | ']')).then_some(key.trim_end())
}
