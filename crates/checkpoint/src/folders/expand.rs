//! `~` and environment variables in paths, and paths without `.` and `..`.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Looks up an environment variable.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A path with `~` and variables replaced, and the variables that were not set.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    pub path: PathBuf,
    pub unset: Vec<String>,
}

/// Replaces a leading `~` by the home directory, then `$NAME` and `${NAME}` (on Windows `%NAME%`
/// too) by the variables' values. A variable that is not set stays as written, as in Python's
/// `os.path.expandvars`. On error the reason.
pub(super) fn expand(text: &str, windows: bool, lookup: Lookup) -> Result<Expanded, String> {
    let (mut path, mut rest) = match text.strip_prefix('~') {
        Some(rest)
            if rest.is_empty() || rest.starts_with('/') || starts_with(rest, windows, '\\') =>
        {
            (home(windows, lookup)?, rest)
        }
        Some(_) => {
            return Err(format!(
                "`{text}` means the home directory of another user, which is not supported; \
                 write the path in full, or start it with `./` if the folder's name starts with `~`"
            ));
        }
        None => (OsString::new(), text),
    };
    let mut unset = Vec::new();
    while let Some(at) = rest.find(|c| c == '$' || (windows && c == '%')) {
        let (before, from_sign) = rest.split_at(at);
        path.push(before);
        let (written, name) = variable(from_sign).unwrap_or((&from_sign[..1], ""));
        match lookup(name).filter(|_| !name.is_empty()) {
            Some(value) => path.push(value),
            None => {
                path.push(written);
                unset.extend((!name.is_empty()).then(|| name.to_owned()));
            }
        }
        rest = &from_sign[written.len()..];
    }
    path.push(rest);
    Ok(Expanded { path: path.into(), unset })
}

fn starts_with(rest: &str, windows: bool, separator: char) -> bool {
    windows && rest.starts_with(separator)
}

fn home(windows: bool, lookup: Lookup) -> Result<OsString, String> {
    let variable = if windows { "USERPROFILE" } else { "HOME" };
    lookup(variable).filter(|home| !home.is_empty()).ok_or_else(|| {
        format!("`~` has no meaning, since {variable} is not set; write the path in full")
    })
}

/// The reference to a variable that `text`, which starts with `$` or `%`, starts with: as written,
/// and the variable's name.
fn variable(text: &str) -> Option<(&str, &str)> {
    let (sign, after) = text.split_at_checked(1)?;
    let delimited = |skip: usize, close: char| {
        let name = after.get(skip..)?.split_once(close)?.0;
        let written = text.get(..1 + skip + name.len() + 1)?;
        (!name.is_empty()).then_some((written, name))
    };
    match sign {
        "%" => delimited(0, '%'),
        _ if after.starts_with('{') => delimited(1, '}'),
        _ => {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let length = after.find(|c| !word(c)).unwrap_or(after.len());
            (length > 0).then(|| (&text[..1 + length], &after[..length]))
        }
    }
}

/// The path without `.` and `..`, by its text alone (links are not looked at), as Python's
/// `os.path.normpath` does it. A `..` above the root is dropped.
pub(super) fn normalize(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            _ => plain.push(component),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn environment(name: &str) -> Option<OsString> {
        match name {
            "HOME" => Some("/home/me".into()),
            "USERPROFILE" => Some("C:\\Users\\me".into()),
            "A" => Some("alpha".into()),
            "A_1" => Some("$A".into()),
            "odd name" => Some("odd".into()),
            _ => None,
        }
    }

    fn unix(text: &str) -> String {
        expand(text, false, &environment).unwrap().path.to_str().unwrap().to_owned()
    }

    fn windows(text: &str) -> String {
        expand(text, true, &environment).unwrap().path.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_leading_tilde_is_the_home_directory() {
        assert_eq!(unix("~"), "/home/me");
        assert_eq!(unix("~/models"), "/home/me/models");
        assert_eq!(unix("/a/~/b"), "/a/~/b");
        assert_eq!(windows("~\\models"), "C:\\Users\\me\\models");
        assert!(expand("~you/models", false, &environment).unwrap_err().contains("another user"));
        assert!(expand("~/models", false, &|_| None).unwrap_err().contains("HOME"));
    }

    #[test]
    fn variables_are_replaced_once() {
        assert_eq!(unix("$A/x"), "alpha/x");
        assert_eq!(unix("/m/${A}x$A"), "/m/alphaxalpha");
        assert_eq!(unix("$A_1"), "$A");
        assert_eq!(unix("${odd name}"), "odd");
        assert_eq!(unix("%A%"), "%A%");
        assert_eq!(windows("D:\\%A%\\$A"), "D:\\alpha\\alpha");
    }

    #[test]
    fn what_is_not_set_or_no_variable_stays() {
        let expanded = expand("$NO/${NONE}/x", false, &environment).unwrap();
        assert_eq!(expanded.path, Path::new("$NO/${NONE}/x"));
        assert_eq!(expanded.unset, ["NO", "NONE"]);
        for text in ["$", "a$", "$/x", "${", "${A", "${}", "$ä", "100%"] {
            assert_eq!(unix(text), text);
        }
        assert_eq!(windows("100% %"), "100% %");
    }

    #[test]
    fn normalizing_looks_at_the_text_alone() {
        let normal = |text: &str| normalize(Path::new(text)).to_str().unwrap().to_owned();
        assert_eq!(normal("/a/./b/../c/"), "/a/c");
        assert_eq!(normal("/../../a"), "/a");
    }

    proptest! {
        #[test]
        fn any_text_expands_or_is_refused(text in "[~$%{}A_/\\\\ä ]{0,24}", on_windows: bool) {
            let _ = expand(&text, on_windows, &environment);
        }

        #[test]
        fn text_without_signs_is_unchanged(text in "[^~$%]{0,24}", on_windows: bool) {
            let expanded = expand(&text, on_windows, &environment).unwrap();
            prop_assert_eq!(expanded.path, PathBuf::from(text));
            prop_assert!(expanded.unset.is_empty());
        }
    }
}
