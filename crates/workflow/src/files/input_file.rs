//! The files that a prompt names to be read: in the input folder, or in another that the name is
//! marked with (`picture.png [output]`), and never outside it.

use std::fs;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use crate::environment::Environment;

/// Why a file that a prompt names is not read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InputFileError {
    /// It is not there.
    #[error("there is no file `{name}` in the {folder} folder{near}")]
    Missing {
        /// The name, without its mark.
        name: String,
        /// The folder: `input`, `output` or `temp`.
        folder: &'static str,
        /// Files that are there with names like it, in words; empty without any.
        near: String,
    },
    /// It is a folder, a device or a pipe.
    #[error("`{name}` in the {folder} folder is no file with contents: name one that is")]
    NotAFile {
        /// The name, without its mark.
        name: String,
        /// The folder: `input`, `output` or `temp`.
        folder: &'static str,
    },
    /// It is somewhere else.
    #[error(
        "`{name}` leads out of the {folder} folder: name a file there, or in a folder below it"
    )]
    Outside {
        /// The name, without its mark.
        name: String,
        /// The folder: `input`, `output` or `temp`.
        folder: &'static str,
    },
}

/// The file of a name, which may have folders in it and a mark for its folder at its end.
///
/// # Errors
/// When there is none, or it is not in its folder: links are followed to see that.
pub fn find(environment: &Environment, marked: &str) -> Result<PathBuf, InputFileError> {
    let (name, folder, root) = unmarked(environment, marked);
    let missing =
        || InputFileError::Missing { name: name.to_owned(), folder, near: near(name, root) };
    let outside = || InputFileError::Outside { name: name.to_owned(), folder };
    let inside = |path: &Path| {
        let mut parts = path.components();
        parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    };
    let slashes = name.replace('\\', "/");
    if !inside(Path::new(name)) || !inside(Path::new(&slashes)) {
        return Err(outside());
    }
    let there = [name, &slashes].into_iter().find_map(|name| root.join(name).canonicalize().ok());
    let path = there.ok_or_else(missing)?;
    let root = root.canonicalize().map_err(|_| missing())?;
    match path.starts_with(root) {
        true if path.is_file() => Ok(path),
        true if path.is_dir() => Err(missing()),
        true => Err(InputFileError::NotAFile { name: name.to_owned(), folder }),
        false => Err(outside()),
    }
}

/// The files right in the input folder with one of these endings, in order.
pub fn list(environment: &Environment, endings: &[&str]) -> Vec<String> {
    let has_ending = |name: &String| {
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| endings.iter().any(|one| one.eq_ignore_ascii_case(ending)))
    };
    let mut names: Vec<String> = files(&environment.input_dir).filter(has_ending).collect();
    names.sort();
    names
}

fn files(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
}

/// The name without its mark, and the folder that the mark is for.
fn unmarked<'a>(
    environment: &'a Environment,
    marked: &'a str,
) -> (&'a str, &'static str, &'a Path) {
    let folders = [
        ("[input]", "input", &environment.input_dir),
        ("[output]", "output", &environment.output_dir),
        ("[temp]", "temp", &environment.temp_dir),
    ];
    for (mark, folder, root) in folders {
        if let Some(name) = marked.strip_suffix(mark) {
            return (name.trim_end(), folder, root);
        }
    }
    (marked, "input", &environment.input_dir)
}

/// Names like the one that is not there, in words.
fn near(name: &str, root: &Path) -> String {
    let likeness = |other: &str| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    let mut near: Vec<(f64, String)> =
        files(root).map(|other| (likeness(&other), other)).filter(|(l, _)| *l > 0.75).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    match near.is_empty() {
        true => String::new(),
        false => {
            let names = near.iter().take(5).map(|(_, name)| format!("`{name}`"));
            format!("; near: {}", crate::graph::join(names))
        }
    }
}

#[cfg(test)]
mod tests {
    use distorch_allocation::{DeviceInfo, Topology};
    use distorch_checkpoint::folders::ModelFolders;
    use distorch_pipeline::image::regular_file;

    use super::*;

    fn environment(base: &Path) -> Environment {
        let folders = ModelFolders::new(base, &[]).unwrap();
        let cpu = DeviceInfo::new("cpu".parse().unwrap(), "", 1 << 30);
        Environment::on(folders, Topology::new(vec![cpu]).unwrap())
    }

    #[test]
    fn names_lead_to_their_folder_and_nowhere_else() {
        let base = tempfile::tempdir().unwrap();
        for file in ["input/a.png", "input/sub/b.png", "output/c.png", "temp/d.png", "e.png"] {
            let path = base.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let environment = environment(base.path());
        let found = |name: &str| {
            let path = find(&environment, name)?;
            let base = base.path().canonicalize().unwrap();
            Ok::<_, InputFileError>(path.strip_prefix(base).unwrap().to_str().unwrap().to_owned())
        };
        for (name, path) in [
            ("a.png", "input/a.png"),
            ("./a.png", "input/a.png"),
            ("a.png [input]", "input/a.png"),
            ("sub/b.png", "input/sub/b.png"),
            ("sub\\b.png", "input/sub/b.png"),
            ("c.png [output]", "output/c.png"),
            ("d.png[temp]", "temp/d.png"),
        ] {
            assert_eq!(found(name).unwrap(), path, "{name}");
        }
        for name in ["../e.png", "sub/../../e.png", "/etc/hostname", "..\\e.png", "../a.png [temp]"]
        {
            assert!(matches!(found(name), Err(InputFileError::Outside { .. })), "{name}");
        }
        for name in ["", "sub", "c.png", "a.png [nothing]", "a.png\0"] {
            assert!(matches!(found(name), Err(InputFileError::Missing { .. })), "{name}");
        }
        assert!(found("A.pgn").unwrap_err().to_string().ends_with("near: `a.png`"));
        assert_eq!(list(&environment, &["png"]), ["a.png"]);
    }

    #[cfg(unix)]
    #[test]
    fn devices_are_no_files() {
        let error = regular_file::open(Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().contains("device"), "{error}");
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("input")).unwrap();
        std::os::unix::net::UnixListener::bind(base.path().join("input/a.png")).unwrap();
        let error = find(&environment(base.path()), "a.png").unwrap_err();
        assert!(matches!(error, InputFileError::NotAFile { .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out() {
        let base = tempfile::tempdir().unwrap();
        let input = base.path().join("input");
        fs::create_dir(&input).unwrap();
        fs::write(base.path().join("secret.png"), "x").unwrap();
        fs::write(input.join("a.png"), "x").unwrap();
        let link =
            |to: &Path, name: &str| std::os::unix::fs::symlink(to, input.join(name)).unwrap();
        link(&base.path().join("secret.png"), "out.png");
        link(base.path(), "up");
        link(&input.join("a.png"), "in.png");
        let environment = environment(base.path());
        for name in ["out.png", "up/secret.png"] {
            let error = find(&environment, name).unwrap_err();
            assert!(matches!(error, InputFileError::Outside { .. }), "{name}");
        }
        assert!(find(&environment, "in.png").is_ok());
    }
}
