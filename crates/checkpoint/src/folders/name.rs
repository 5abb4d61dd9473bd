//! Names of model files: paths below a root that cannot leave it.

use std::path::PathBuf;

/// The relative path that a name stands for, made of plain components only.
///
/// `/` and `\` both separate; empty components and `.` are dropped. On error the reason.
pub(super) fn relative_path(name: &str) -> Result<PathBuf, &'static str> {
    if name.contains('\0') {
        return Err("it has a NUL character in it");
    }
    if name.starts_with(['/', '\\']) || has_drive(name) {
        return Err("it is an absolute path; names are relative to a model folder");
    }
    let mut path = PathBuf::new();
    for component in name.split(['/', '\\']) {
        match component {
            "" | "." => {}
            _ if is_parent(component) => {
                return Err("it has a `..` in it; a name may not leave its model folder");
            }
            _ if cfg!(windows) && component.contains(':') => return Err("it has a `:` in it"),
            _ => path.push(component),
        }
    }
    if path.as_os_str().is_empty() {
        return Err("it is empty");
    }
    Ok(path)
}

/// Whether the name starts with a Windows drive, as in `C:\models`.
fn has_drive(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|letter| letter.is_ascii_alphabetic())
        && chars.next() == Some(':')
        && matches!(chars.next(), None | Some('/' | '\\'))
}

/// Windows drops dots and spaces at the end of a component, so that `.. ` means `..` there.
fn is_parent(component: &str) -> bool {
    component == ".." || (cfg!(windows) && component.trim_end_matches(['.', ' ']).is_empty())
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_slashes_separate() {
        for name in ["a/b.ckpt", "a\\b.ckpt", "./a//b.ckpt", "a/./b.ckpt", "a/b.ckpt/"] {
            assert_eq!(relative_path(name).unwrap(), Path::new("a/b.ckpt"), "{name}");
        }
        assert_eq!(relative_path("..a/b..").unwrap(), Path::new("..a/b.."));
    }

    #[test]
    fn names_that_leave_their_folder_are_refused() {
        for name in ["..", "../x", "a/../../x", "a\\..\\..\\x", "a/../x", "a/.."] {
            assert!(relative_path(name).unwrap_err().contains(".."), "{name}");
        }
        for name in ["/etc/x", "\\\\server\\x", "\\x", "C:\\x", "c:/x", "C:"] {
            assert!(relative_path(name).unwrap_err().contains("absolute"), "{name}");
        }
        for name in ["", ".", "./.", "a\0b"] {
            assert!(relative_path(name).is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn only_plain_components_come_out(
            parts in prop::collection::vec(
                prop_oneof![
                    Just("..".to_owned()), Just(".".to_owned()), Just("/".to_owned()),
                    Just("\\".to_owned()), Just("C:".to_owned()), Just("~".to_owned()),
                    "[a-z. ]{0,3}", any::<String>(),
                ],
                0..8,
            ),
        ) {
            let name = parts.concat();
            if let Ok(path) = relative_path(&name) {
                prop_assert!(path.components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert!(path.components().next().is_some());
            }
        }
    }
}
