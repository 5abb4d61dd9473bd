//! The names of saved files: `prefix_00001_.png`, inside the output folder whatever the prefix.

use std::fs;
use std::path::{Component, Path, PathBuf};

use chrono::{DateTime, Local};
use thiserror::Error;

use crate::graph::{Given, Prompt};

/// A prefix that leads out of the output folder.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "`{prefix}` leads out of the output folder: a prefix is a name, with folders below it at most"
)]
pub struct PrefixError {
    /// The prefix, tokens replaced.
    pub prefix: String,
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
    /// The prefix with `%width%`, `%height%`, `%date%`, `%date:yyyy-MM-dd%`, `%year%`, … and
    /// `%Title.input%` replaced. Others stay as they are.
    pub fn replace(&self, prefix: &str) -> String {
        let mut out = String::with_capacity(prefix.len());
        let mut rest = prefix;
        while let Some(start) = rest.find('%') {
            let (before, from) = rest.split_at(start);
            out += before;
            let token = from[1..].find('%').map(|end| &from[1..=end]);
            match token.and_then(|token| Some((token, self.value(token)?))) {
                Some((token, value)) => {
                    out += &value;
                    rest = &from[token.len() + 2..];
                }
                None => {
                    out.push('%');
                    rest = &from[1..];
                }
            }
        }
        out + rest
    }

    fn value(&self, token: &str) -> Option<String> {
        let now = |format: &str| Some(self.time.format(format).to_string());
        match token {
            "width" => Some(self.width.to_string()),
            "height" => Some(self.height.to_string()),
            "year" => now("%Y"),
            "month" => now("%m"),
            "day" => now("%d"),
            "hour" => now("%H"),
            "minute" => now("%M"),
            "second" => now("%S"),
            "date" => now("%Y%m%d%H%M%S"),
            _ => match token.strip_prefix("date:") {
                Some(format) => Some(date(format, &self.time)),
                None => self.input(token),
            },
        }
    }

    /// The literal input that `Title.input` names.
    fn input(&self, token: &str) -> Option<String> {
        let (node, input) = token.rsplit_once('.')?;
        let id = self.prompt.find(node).ok()?;
        let text = match self.prompt.nodes.get(&id)?.inputs.get(input)? {
            Given::Literal(serde_json::Value::String(text)) => text.clone(),
            Given::Literal(value) => value.to_string(),
            Given::Link { .. } => return None,
        };
        let clean = |c: char| {
            let forbidden = "/?<>\\:*|\"".contains(c) || c.is_control();
            if forbidden { '_' } else { c }
        };
        Some(text.chars().map(clean).collect())
    }
}

/// A date in the pattern of ComfyUI's editor: `yyyy-MM-dd hh:mm:ss`; one letter leaves a leading 0
/// out.
fn date(pattern: &str, time: &DateTime<Local>) -> String {
    const PARTS: [(&str, &str); 12] = [
        ("yyyy", "%Y"),
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
                out.push(if "/\\:".contains(next) { '_' } else { next });
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    out
}

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
    /// The series of a prefix in the output folder.
    ///
    /// # Errors
    /// When the prefix leads out of the folder.
    pub fn new(output: &Path, prefix: &str) -> Result<Self, PrefixError> {
        let wrong = || PrefixError { prefix: prefix.to_owned() };
        let slashes = prefix.replace('\\', "/");
        let mut parts: Vec<&str> = Vec::new();
        for part in Path::new(&slashes).components() {
            match part {
                Component::Normal(part) => parts.push(part.to_str().ok_or_else(wrong)?),
                Component::CurDir => {}
                _ => return Err(wrong()),
            }
        }
        let odd = |part: &&str| part.contains(':') || part.chars().any(char::is_control);
        if parts.iter().any(odd) {
            return Err(wrong());
        }
        let name = match slashes.ends_with('/') {
            true => String::new(),
            false => parts.pop().unwrap_or_default().to_owned(),
        };
        let subfolder = parts.join("/");
        let folder = output.join(&subfolder);
        if leaves(output, &folder) {
            return Err(wrong());
        }
        Ok(Self { folder, subfolder, name })
    }

    /// One more than the highest number in the folder.
    pub fn next(&self) -> u64 {
        let start = format!("{}_", self.name);
        let number = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let head = name.get(..start.len())?;
            let digits = name.get(start.len()..)?.split(['_', '.']).next()?.to_owned();
            head.eq_ignore_ascii_case(&start).then(|| digits.parse::<u64>().ok()).flatten()
        };
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(number).max().map_or(1, |highest| highest.saturating_add(1))
    }

    /// The name of a file: `name_00001_.png`.
    pub fn file_name(&self, number: u64, extension: &str) -> String {
        format!("{}_{number:05}_.{extension}", self.name)
    }
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

    use super::*;

    #[test]
    fn tokens_are_replaced() {
        let prompt = Prompt::from_json(
            r#"{"3": {"class_type": "KSampler", "inputs": {"seed": 7, "sampler_name": "a/b"},
                      "_meta": {"title": "Sample it"}}}"#,
        )
        .unwrap();
        let time = Local.with_ymd_and_hms(2026, 3, 4, 5, 6, 7).unwrap();
        let tokens = Tokens { prompt: &prompt, width: 64, height: 96, time };
        for (prefix, expected) in [
            ("a_%width%x%height%", "a_64x96"),
            ("%date%", "20260304050607"),
            ("%date:yyyy-MM-dd%/x", "2026-03-04/x"),
            ("%date:yy.M.d h_m_s%", "26.3.4 5_6_7"),
            ("%year%-%month%-%day% %hour%%minute%%second%", "2026-03-04 050607"),
            ("%Sample it.seed%", "7"),
            ("%KSampler.sampler_name%", "a_b"),
            ("%3.seed%%width%", "764"),
            ("100% %nothing% %None.seed%", "100% %nothing% %None.seed%"),
            ("%", "%"),
            ("%%width%", "%64"),
        ] {
            assert_eq!(tokens.replace(prefix), expected, "{prefix}");
        }
    }

    #[test]
    fn a_prefix_stays_in_the_output_folder() {
        let output = tempfile::tempdir().unwrap();
        let series = |prefix: &str| Series::new(output.path(), prefix);
        let inside = series("a/b\\c").unwrap();
        assert_eq!((inside.subfolder.as_str(), inside.name.as_str()), ("a/b", "c"));
        assert_eq!(series("ComfyUI").unwrap().folder, output.path().join(""));
        assert_eq!(series("a/").unwrap().name, "");
        for outside in ["../x", "a/../../x", "/etc/x", "\\x", "..\\x", "c:\\x", "a/c:/x", "a/.."] {
            assert!(series(outside).is_err(), "{outside}");
        }
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
        assert_eq!(series.next(), 1);
        for name in ["a_00002_.png", "A_00007_.png", "a_x_.png", "ab_00009_.png", "a_12.txt"] {
            fs::write(output.path().join(name), "").unwrap();
        }
        assert_eq!(series.next(), 13);
        assert_eq!(series.file_name(13, "png"), "a_00013_.png");
    }
}
