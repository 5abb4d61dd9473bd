//! Finding ComfyUI's official frontend, as pip installs it, and what may lie beside it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The folder of the frontend's package.
const PACKAGE: &str = "comfyui_frontend_package";
/// The folder of the package with the documentation of nodes.
const DOCS: &str = "comfyui_embedded_docs";
/// What the folders of packages with templates begin with.
const TEMPLATES: &str = "comfyui_workflow_templates";

/// An unpacked frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    /// The folder with its `index.html`.
    pub root: PathBuf,
    /// Its version, where it was installed by pip.
    pub version: Option<String>,
    /// Folders with template workflows.
    pub templates: Vec<PathBuf>,
    /// The folder with the documentation of nodes.
    pub docs: Option<PathBuf>,
}

/// Why there is no frontend.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FrontendError {
    /// It is not installed where it was looked for.
    #[error(
        "no ComfyUI frontend is installed; this command gets one, and `--web auto` finds it then: \
         pip install --no-deps --target \"{}\" comfyui-frontend-package",
        own.display()
    )]
    NotInstalled {
        /// The folder beside the models where one would be found.
        own: PathBuf,
    },
    /// The path leads to a file.
    #[error("`{}` is no folder; a wheel is a zip archive: unpack it, and name the folder", path.display())]
    NoFolder {
        /// The path.
        path: PathBuf,
    },
    /// The folder holds no frontend.
    #[error("`{}` holds no `index.html`, nor does `static` or `{PACKAGE}/static` in it", path.display())]
    NoPage {
        /// The folder.
        path: PathBuf,
    },
}

impl Frontend {
    /// The frontend in a folder: unpacked, as the package, or as a folder of packages.
    ///
    /// # Errors
    /// When there is none.
    pub fn at(path: &Path) -> Result<Self, FrontendError> {
        if !path.is_dir() {
            return Err(FrontendError::NoFolder { path: path.to_owned() });
        }
        let places = [path.to_owned(), path.join("static"), path.join(PACKAGE).join("static")];
        let root = places.into_iter().find(|place| place.join("index.html").is_file());
        let root = root.ok_or_else(|| FrontendError::NoPage { path: path.to_owned() })?;
        Ok(Self::with_packages(root))
    }

    /// The frontend that is installed: in `web` beside the models, in the Python environment that is active, or for this user or
    /// all users.
    ///
    /// # Errors
    /// When there is none.
    pub fn installed(base_dir: &Path) -> Result<Self, FrontendError> {
        let own = base_dir.join("web");
        let places = site_packages(base_dir, &|name| env::var_os(name).map(PathBuf::from));
        let found = places.iter().find_map(|place| Self::at(&place.join(PACKAGE)).ok());
        found.ok_or(FrontendError::NotInstalled { own })
    }

    /// Looks for the packages beside the frontend's.
    fn with_packages(root: PathBuf) -> Self {
        let package =
            root.parent().filter(|package| package.file_name().is_some_and(|n| n == PACKAGE));
        let Some(site) = package.and_then(Path::parent) else {
            return Self { root, ..Self::default() };
        };
        let names = names(site);
        let templates = names.iter().filter(|name| name.starts_with(TEMPLATES));
        let templates = templates.map(|name| site.join(name).join("templates"));
        let docs = site.join(DOCS).join("docs");
        let version = names.iter().find_map(|name| {
            let version = name.strip_prefix(PACKAGE)?.strip_prefix('-')?;
            version.strip_suffix(".dist-info").map(str::to_owned)
        });
        Self {
            version,
            templates: templates.filter(|folder| folder.is_dir()).collect(),
            docs: docs.is_dir().then_some(docs),
            root,
        }
    }
}

/// The folders that pip installs packages in, those that were chosen first. `variable` is the environment.
fn site_packages(base_dir: &Path, variable: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let mut places = vec![base_dir.join("web")];
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable);
    let environments = environments.chain(["venv", ".venv"].map(|name| base_dir.join(name)));
    for environment in environments {
        places.push(environment.join("Lib").join("site-packages"));
        places.extend(of_versions(&environment));
    }
    if let Some(home) = variable("HOME") {
        places.extend(of_versions(&home.join(".local")));
        for version in newest(&home.join("Library/Python")) {
            places.push(version.join("lib/python/site-packages"));
        }
    }
    if let Some(data) = variable("APPDATA") {
        places.extend(newest(&data.join("Python")).into_iter().map(|v| v.join("site-packages")));
    }
    for prefix in ["/usr/local", "/usr", "/opt/homebrew"] {
        places.extend(of_versions(Path::new(prefix)));
    }
    places
}

/// `lib/python3.N/site-packages` and its like below a prefix, the newest Python first.
fn of_versions(prefix: &Path) -> Vec<PathBuf> {
    let libraries = ["lib", "lib64"].map(|name| newest(&prefix.join(name)));
    let versions = libraries.into_iter().flatten();
    versions.flat_map(|v| ["site-packages", "dist-packages"].map(|name| v.join(name))).collect()
}

/// Folders of Python versions in a folder (`python3.12`, `Python312`, `3.12`), the newest first.
fn newest(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(Vec<u32>, String)> = names(folder)
        .into_iter()
        .filter_map(|name| {
            let version = name.to_ascii_lowercase();
            let version = version.strip_prefix("python").unwrap_or(&version).to_owned();
            let numbers = version.split('.').map(|part| part.parse().ok());
            Some((numbers.collect::<Option<Vec<u32>>>()?, name))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, name)| folder.join(name)).collect()
}

/// The names in a folder, sorted; none where it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Folders of packages with the frontend in a version.
    fn install(site: &Path, version: &str) {
        let root = site.join(PACKAGE).join("static");
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("index.html"), version).unwrap();
        fs::create_dir_all(site.join(format!("{PACKAGE}-{version}.dist-info"))).unwrap();
    }

    #[test]
    fn the_active_environment_comes_before_what_the_user_installed_and_the_newest_python_first() {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name);
        install(&path("home/.local/lib/python3.9/site-packages"), "1.0.0");
        install(&path("home/.local/lib/python3.12/site-packages"), "1.2.0");
        install(&path("active/lib/python3.11/site-packages"), "1.3.0");
        let found = |active: bool| {
            let variable = |name: &str| match name {
                "HOME" => Some(path("home")),
                "VIRTUAL_ENV" if active => Some(path("active")),
                _ => None,
            };
            let places = site_packages(base.path(), &variable);
            let first = places.iter().find_map(|place| Frontend::at(&place.join(PACKAGE)).ok());
            first.and_then(|frontend| frontend.version)
        };
        assert_eq!(found(true).as_deref(), Some("1.3.0"));
        assert_eq!(found(false).as_deref(), Some("1.2.0"));
        install(&path("web"), "1.4.0");
        assert_eq!(found(true).as_deref(), Some("1.4.0"));
    }

    #[test]
    fn what_lies_beside_an_installed_frontend_is_found() {
        let site = tempfile::tempdir().unwrap();
        install(site.path(), "1.58.1");
        for folder in ["comfyui_workflow_templates_json/templates", "comfyui_embedded_docs/docs"] {
            fs::create_dir_all(site.path().join(folder)).unwrap();
        }
        // A package without templates.
        fs::create_dir_all(site.path().join("comfyui_workflow_templates_core")).unwrap();
        let frontend = Frontend::at(site.path()).unwrap();
        assert_eq!(frontend.version.as_deref(), Some("1.58.1"));
        let templates = site.path().join("comfyui_workflow_templates_json/templates");
        assert_eq!(frontend.templates, [templates]);
        assert_eq!(frontend.docs, Some(site.path().join("comfyui_embedded_docs/docs")));
        assert_eq!(Frontend::at(&site.path().join(PACKAGE)).unwrap(), frontend);
        assert_eq!(Frontend::at(&site.path().join(PACKAGE).join("static")).unwrap(), frontend);
    }

    #[test]
    fn what_is_missing_is_named_with_the_way_out() {
        let base = tempfile::tempdir().unwrap();
        let error = |path: &Path| Frontend::at(path).unwrap_err().to_string();
        assert!(error(base.path()).contains("holds no `index.html`"));
        let wheel = base.path().join("comfyui_frontend_package-1.58.1-py3-none-any.whl");
        fs::write(&wheel, "PK").unwrap();
        assert!(error(&wheel).contains("unpack it"));
        let none = FrontendError::NotInstalled { own: PathBuf::from("/a b/web") }.to_string();
        assert!(
            none.ends_with("pip install --no-deps --target \"/a b/web\" comfyui-frontend-package"),
            "{none}"
        );
    }
}
