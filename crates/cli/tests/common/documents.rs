//! The command lines that documents and `--help` show.

use std::fs;
use std::path::{Path, PathBuf};

/// One command line, with the place where it stands.
#[derive(Clone, Debug)]
pub struct Shown {
    /// File and line, or the command whose help it is.
    pub place: String,
    /// The line, without its comment; what a backslash continues is on one line.
    pub line: String,
}

/// Folders of what is built and installed.
const OTHERS: [&str; 3] = ["build", "node_modules", "target"];

/// The Markdown files of the project, without those of others and of build folders.
pub fn documents(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                let own = !name.starts_with('.') && !OTHERS.contains(&name.as_str());
                folders.extend((own && !path.is_symlink()).then_some(path));
            } else if name.ends_with(".md") && name != "CHANGELOG.md" {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The lines of a document's shell blocks, and what it calls `distorch …` in a sentence.
pub fn shown_in(document: &Path, root: &Path) -> Vec<Shown> {
    let text = fs::read_to_string(document).unwrap();
    let name = document.strip_prefix(root).unwrap().display().to_string();
    let mut shown = Vec::new();
    let mut block: Option<(bool, usize, String)> = None;
    let mut prose = String::new();
    for (index, line) in text.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut block, fence) {
            (None, Some(language)) => {
                let shell = ["sh", "bash", "shell", "console"].contains(&language.trim());
                block = Some((shell, index + 2, String::new()));
                prose.push('\n');
            }
            (Some((shell, first, lines)), Some(_)) => {
                if *shell {
                    shown.extend(commands(lines, &format!("{name}:{first}")));
                }
                block = None;
            }
            (Some((_, _, lines)), None) => *lines += &format!("{line}\n"),
            (None, None) => prose += &format!("{line}\n"),
        }
    }
    assert!(block.is_none(), "{name}: a block has no end");
    // Odd parts are between backticks, which may be on two lines.
    for paragraph in prose.split("\n\n") {
        for code in paragraph.split('`').skip(1).step_by(2) {
            let line = code.split_whitespace().collect::<Vec<_>>().join(" ");
            if line.starts_with("distorch ") || line.contains(" distorch ") {
                shown.push(Shown { place: format!("{name}, in a sentence"), line });
            }
        }
    }
    shown
}

/// The examples of a command's help.
pub fn shown_by(help: &str, command: &str) -> Vec<Shown> {
    let Some((_, examples)) = help.split_once("Examples:\n") else { return Vec::new() };
    let block = examples.split("\n\n").next().unwrap();
    commands(block, &format!("{command} --help"))
}

/// The commands that a help lists.
pub fn subcommands(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("Commands:\n") else { return Vec::new() };
    let names = list.lines().take_while(|line| !line.is_empty());
    let names = names.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned);
    names.filter(|name| name != "help").collect()
}

/// The commands of a shell block, one a line.
fn commands(block: &str, place: &str) -> Vec<Shown> {
    let joined = block.replace("\\\n", " ");
    let lines = joined.lines().map(|line| without_comment(line).trim().to_owned());
    let lines = lines.filter(|line| !line.is_empty());
    let spaced = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    spaced.map(|line| Shown { place: place.to_owned(), line }).collect()
}

/// The line up to a `#` that begins a word outside of quotes.
fn without_comment(line: &str) -> &str {
    let (mut quote, mut before) = (None, ' ');
    for (at, letter) in line.char_indices() {
        match (quote, letter) {
            (None, '#') if before.is_whitespace() => return &line[..at],
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            _ => {}
        }
        before = letter;
    }
    line
}
