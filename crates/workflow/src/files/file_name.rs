//! The names of saved files: `prefix_00001_.png`, inside the output folder whatever the prefix.

use std::fs;
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Local};
use serde_json::Value as Json;
use thiserror::Error;

use crate::graph::{InputValue, Prompt, PromptNode};
use distorch_pipeline::image::output_file::{self, FolderError, SaveError, Unfinished};

/// A prefix that names no place in the output folder.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PrefixError {
    /// It leads somewhere else.
    #[error(
        "`{prefix}` leads out of the output folder: a prefix is a name, with folders below it at most"
    )]
    Outside {
        /// The prefix, tokens replaced.
        prefix: String,
    },
    /// It has a character that names of files do not have on this system.
    #[error("`{}` has the character {character:?}, which no file name has here: leave it out", prefix.escape_debug())]
    Character {
        /// The prefix, tokens replaced.
        prefix: String,
        /// The character.
        character: char,
    },
}

/// What the tokens of a prefix stand for.
pub struct Tokens<'a> {
    /// The nodes, whose inputs a prefix may name.
    pub prompt: &'a Prompt,
    /// Columns of the picture.
    pub width: usize,
    /// Rows of the picture.
    pub height: usize,
    /// Now.
    pub time: DateTime<Local>,
}

impl Tokens<'_> {
    /// The prefix with its tokens replaced; those that mean nothing stay.
    ///
    /// As in ComfyUI this goes in two turns. The editor's tokens come first, each from one `%` to the
    /// next: `%date:yyyy-MM-dd%`, `%Node.widget%`, and here `%date%` too. Then come the server's,
    /// wherever they are: `%width%`, `%height%`, `%year%`, `%month%`, `%day%`, `%hour%`, `%minute%`,
    /// `%second%`.
    pub fn replace(&self, prefix: &str) -> String {
        let mut out = String::with_capacity(prefix.len());
        let mut rest = prefix;
        while let Some((before, from)) = rest.split_once('%') {
            out += before;
            match from.split_once('%') {
                Some(("", _)) | None => {
                    out.push('%');
                    rest = from;
                }
                Some((token, after)) => {
                    match self.editors(token) {
                        Some(value) => out += &value,
                        None => out += &format!("%{token}%"),
                    }
                    rest = after;
                }
            }
        }
        out += rest;
        let now = |format: &str| self.time.format(format).to_string();
        for (token, value) in [
            ("%width%", self.width.to_string()),
            ("%height%", self.height.to_string()),
            ("%year%", now("%Y")),
            ("%month%", now("%m")),
            ("%day%", now("%d")),
            ("%hour%", now("%H")),
            ("%minute%", now("%M")),
            ("%second%", now("%S")),
        ] {
            out = out.replace(token, &value);
        }
        out
    }

    /// The value of a token of the editor.
    fn editors(&self, token: &str) -> Option<String> {
        if token == "date" {
            return Some(self.time.format("%Y%m%d%H%M%S").to_string());
        }
        match token.split_once('.') {
            Some((node, widget)) if !widget.contains('.') => self.widget(node, widget),
            _ => Some(date(token.strip_prefix("date:")?, &self.time)),
        }
    }

    /// The value of a widget, with `_` for what does not belong into names.
    fn widget(&self, node: &str, widget: &str) -> Option<String> {
        let value = match &self.prompt.workflow {
            Some(_) => {
                let node = self.prompt.named(node)?;
                self.literal(&node.id, widget).or_else(|| node.widgets.get(widget).cloned())?
            }
            None => self.literal(self.called(node)?, widget)?,
        };
        let clean = |c: char| {
            let odd = "/?<>\\:*|\"\u{7f}".contains(c) || c < ' ';
            if odd { '_' } else { c }
        };
        Some(text(&value).chars().map(clean).collect())
    }

    /// The input of a node that is written in the prompt.
    fn literal(&self, id: &str, input: &str) -> Option<Json> {
        match self.prompt.nodes.get(id)?.inputs.get(input)? {
            InputValue::Literal(value) => Some(value.clone()),
            InputValue::Link { .. } => None,
        }
    }

    /// The first node of a prompt that has this id, title or class. A prompt in the API's form no
    /// longer has the names that the editor goes by.
    fn called(&self, name: &str) -> Option<&str> {
        let nodes = &self.prompt.nodes;
        let titled = |(_, node): &(&String, &PromptNode)| node.title.as_deref() == Some(name);
        let classed = |(_, node): &(&String, &PromptNode)| node.class == name;
        let found = nodes
            .get_key_value(name)
            .or_else(|| nodes.iter().find(titled))
            .or_else(|| nodes.iter().find(classed));
        found.map(|(id, _)| id.as_str())
    }
}

/// A value as the editor writes it into a text.
fn text(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        Json::Number(number) => match number.as_f64() {
            // Whole numbers have no fraction there.
            Some(float) if number.is_f64() => format!("{float}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// A date in the pattern of ComfyUI's editor: `yyyy-MM-dd hh:mm:ss`; one letter leaves a leading 0
/// out. Slashes stay, and make folders.
fn date(pattern: &str, time: &DateTime<Local>) -> String {
    const PARTS: [(&str, &str); 13] = [
        ("yyyy", "%Y"),
        ("yyy", "yyy"),
        ("yy", "%y"),
        ("MM", "%m"),
        ("M", "%-m"),
        ("dd", "%d"),
        ("d", "%-d"),
        ("hh", "%H"),
        ("h", "%-H"),
        ("mm", "%M"),
        ("m", "%-M"),
        ("ss", "%S"),
        ("s", "%-S"),
    ];
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(next) = rest.chars().next() {
        match PARTS.iter().find(|(part, _)| rest.starts_with(part)) {
            Some((part, format)) => {
                out += &time.format(format).to_string();
                rest = &rest[part.len()..];
            }
            None => {
                out.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    out
}

/// What no name of a file has: on Windows more than elsewhere.
const FORBIDDEN: &[char] =
    if cfg!(windows) { &['\0', '<', '>', ':', '"', '|', '?', '*'] } else { &['\0'] };

/// Digits of the largest number that counts. Longer ones are parts of other names.
const MOST_DIGITS: usize = 18;

/// A place for files of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// The folder below the output folder, with `/`; empty for that itself.
    pub subfolder: String,
    /// The folder.
    pub folder: PathBuf,
    /// What the names begin with.
    pub name: String,
}

impl Series {
    /// The series of a prefix in the output folder. Both slashes separate folders, and a slash at the
    /// end says nothing, as in ComfyUI.
    ///
    /// # Errors
    /// When the prefix leads out of the folder, or has a character that no name has.
    pub fn new(output: &Path, prefix: &str) -> Result<Self, PrefixError> {
        let outside = || PrefixError::Outside { prefix: prefix.to_owned() };
        if let Some(character) = prefix.chars().find(|c| FORBIDDEN.contains(c)) {
            return Err(PrefixError::Character { prefix: prefix.to_owned(), character });
        }
        let below = Path::new(prefix).strip_prefix(output).ok().and_then(Path::to_str);
        let slashes = below.unwrap_or(prefix).replace('\\', "/");
        let drive = prefix.get(1..3) == Some(":\\");
        if slashes.starts_with('/') || drive {
            return Err(outside());
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in slashes.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop().ok_or_else(outside)?),
                part => parts.push(part),
            }
        }
        let name = parts.pop().unwrap_or_default().to_owned();
        let subfolder = parts.join("/");
        let folder = output.join(&subfolder);
        if leaves(output, &folder) {
            return Err(outside());
        }
        Ok(Self { folder, subfolder, name })
    }

    /// Checks, without leaving anything behind, that a file of the series could be made.
    ///
    /// # Errors
    /// When not, with the part of the path that is to blame.
    pub fn check(&self, extension: &str) -> Result<(), FolderError> {
        output_file::check(&self.folder, &self.file_name(1, extension))
    }

    /// Saves a file under the next number that no other program has taken meanwhile, and returns its
    /// name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(
        &self,
        extension: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<String, SaveError> {
        let names = || {
            (next_number(&self.folder, &self.name)..)
                .map(|number| self.file_name(number, extension))
        };
        let save = || {
            let mut file = BufWriter::new(Unfinished::in_folder(&self.folder)?);
            write(&mut file)?;
            file.into_inner().map_err(IntoInnerError::into_error)?.publish(names())
        };
        save().map_err(|error| SaveError { path: self.folder.clone(), error })
    }

    /// The name of a file: `name_00001_.png`.
    pub fn file_name(&self, number: u64, extension: &str) -> String {
        format!("{}_{number:05}_.{extension}", self.name)
    }
}

/// One more than the highest number of a file in the folder whose name begins with `name_`.
pub fn next_number(folder: &Path, name: &str) -> u64 {
    let start = format!("{name}_");
    let number = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let head = name.get(..start.len())?;
        let digits = name.get(start.len()..)?.split(['_', '.']).next()?;
        let counts = digits.len() <= MOST_DIGITS && head.eq_ignore_ascii_case(&start);
        counts.then(|| digits.parse::<u64>().ok()).flatten()
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(number).max().map_or(1, |highest| highest + 1)
}

/// Whether links on the way lead out of the output folder.
fn leaves(output: &Path, folder: &Path) -> bool {
    let Ok(output) = output.canonicalize() else { return false };
    let there = folder.ancestors().find_map(|part| part.canonicalize().ok());
    there.is_some_and(|there| !there.starts_with(&output) && !output.starts_with(&there))
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use serde_json::json;

    use super::*;
    use crate::nodes;

    #[test]
    fn tokens_are_replaced() {
        let prompt = Prompt::from_json(
            r#"{"3": {"class_type": "KSampler", "inputs": {"seed": 7, "sampler_name": "a/b", "cfg": 5.0,
                                                           "model": ["4", 0]},
                      "_meta": {"title": "Sample it"}}}"#,
            &nodes::all(),
        )
        .unwrap();
        let time = Local.with_ymd_and_hms(2026, 3, 4, 5, 6, 7).unwrap();
        let tokens = Tokens { prompt: &prompt, width: 64, height: 96, time };
        for (prefix, expected) in [
            ("a_%width%x%height%", "a_64x96"),
            ("%date%", "20260304050607"),
            ("%date:yyyy-MM-dd%/x", "2026-03-04/x"),
            ("%date:yyyy/MM/dd%/x", "2026/03/04/x"),
            ("%date:hh:mm yyy%", "05:06 yyy"),
            ("%date:yy.M.d h_m_s%", "26.3.4 5_6_7"),
            ("%year%-%month%-%day% %hour%%minute%%second%", "2026-03-04 050607"),
            ("%Sample it.seed%", "7"),
            ("%KSampler.sampler_name%", "a_b"),
            ("%KSampler.cfg%", "5"),
            ("%KSampler.model%", "%KSampler.model%"),
            ("%KSampler.a.seed%", "%KSampler.a.seed%"),
            ("%3.seed%%width%", "764"),
            ("100% %nothing% %None.seed%", "100% %nothing% %None.seed%"),
            // From one sign to the next, whatever is between: as the editor reads it.
            ("100% %3.seed%", "100% %3.seed%"),
            ("%", "%"),
            ("%%width%", "%64"),
        ] {
            assert_eq!(tokens.replace(prefix), expected, "{prefix}");
        }
    }

    #[test]
    fn the_editor_finds_nodes_by_their_name_for_replacing() {
        let node = |id: u32, class: &str, properties: Json, values: Json| json!({"id": id, "type": class, "properties": properties, "widgets_values": values});
        let name = |name: &str| json!({"Node name for S&R": name});
        let mut workflow = json!({"links": [], "nodes": [
            node(5, "EmptyLatentImage", name("size"), json!([64, 96, 1])),
            node(6, "EmptyLatentImage", json!({}), json!([128, 128, 1])),
            node(7, "EmptyLatentImage", name("EmptyLatentImage"), json!([256, 256, 1])),
            node(8, "LoraLoader", json!({}), json!(["a/b.safetensors", 0.5, 1.0])),
            node(9, "Odd", json!({}), json!({"text": "x?\n", "nothing": null})),
        ]});
        workflow["nodes"][1]["title"] = json!("size");
        workflow["nodes"][3]["mode"] = json!(4); // bypassed
        let prompt = Prompt::from_json(&workflow.to_string(), &nodes::all()).unwrap();
        let tokens = Tokens { prompt: &prompt, width: 1, height: 2, time: Local::now() };
        for (prefix, expected) in [
            ("%size.width%", "64"),               // by name before by title
            ("%EmptyLatentImage.height%", "128"), // the first; its name is its class
            ("%Empty Latent Image.width%", "64"), // the title of the class, where it has no other
            ("%LoraLoader.lora_name%", "a_b.safetensors"),
            ("%LoraLoader.strength_clip%", "1"),
            ("%LoraLoader.strength_model%", "0.5"),
            ("%Odd.text%%Odd.nothing%", "x__"),
            ("%5.width%", "%5.width%"),
            ("%size.seed%", "%size.seed%"),
        ] {
            assert_eq!(tokens.replace(prefix), expected, "{prefix}");
        }
    }

    #[cfg(not(windows))] // where names have fewer characters
    #[test]
    fn a_prefix_stays_in_the_output_folder() {
        let output = tempfile::tempdir().unwrap();
        let series = |prefix: &str| Series::new(output.path(), prefix);
        let inside = series("a/b\\c").unwrap();
        assert_eq!((inside.subfolder.as_str(), inside.name.as_str()), ("a/b", "c"));
        assert_eq!(series("ComfyUI").unwrap().folder, output.path().join(""));
        for (prefix, subfolder, name) in [
            ("a/", "", "a"),
            ("a/../b/./c", "b", "c"),
            ("12:30", "", "12:30"),
            ("a?<*>|\"\n", "", "a?<*>|\"\n"),
            ("a:b/c", "a:b", "c"),
        ] {
            let series = series(prefix).unwrap();
            assert_eq!((series.subfolder.as_str(), series.name.as_str()), (subfolder, name));
        }
        let below = output.path().join("a/b");
        assert_eq!(series(below.to_str().unwrap()).unwrap().subfolder, "a");
        for outside in ["../x", "a/../../x", "/etc/x", "\\x", "..\\x", "c:\\x", "a/../.."] {
            assert!(matches!(series(outside), Err(PrefixError::Outside { .. })), "{outside}");
        }
        assert!(series("a\0b").unwrap_err().to_string().contains("`a\\0b`"));
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out() {
        let [output, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(elsewhere.path(), output.path().join("link")).unwrap();
        assert!(Series::new(output.path(), "link/x").is_err());
        assert!(Series::new(output.path(), "other/x").is_ok());
        assert!(Series::new(&output.path().join("not there yet"), "a/x").is_ok());
    }

    #[test]
    fn numbers_go_on_after_the_highest() {
        let output = tempfile::tempdir().unwrap();
        let series = Series::new(output.path(), "a").unwrap();
        assert_eq!(next_number(&series.folder, &series.name), 1);
        for name in [
            "a_00002_.png",
            "A_00007_.png",
            "a_x_.png",
            "ab_00009_.png",
            "a_12.txt",
            "a_18446744073709551615_.png",
        ] {
            fs::write(output.path().join(name), "").unwrap();
        }
        assert_eq!(next_number(&series.folder, &series.name), 13);
        assert_eq!(series.file_name(13, "png"), "a_00013_.png");
        assert_eq!(series.save("png", |file| file.write_all(b"x")).unwrap(), "a_00013_.png");
        assert_eq!(series.save("png", |file| file.write_all(b"x")).unwrap(), "a_00014_.png");
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_an_error_and_no_loop() {
        let output = tempfile::tempdir().unwrap();
        fs::write(output.path().join("a.png"), "x").unwrap();
        let series = Series::new(output.path(), "a.png/b").unwrap();
        assert!(series.check("png").is_err());
        assert!(series.save("png", |file| file.write_all(b"x")).is_err());
    }
}
