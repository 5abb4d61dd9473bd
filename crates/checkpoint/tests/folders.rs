//! Listing and resolving models in real folders.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use distorch_checkpoint::folders::{
    EXTRA_PATHS_FILE, FolderError, FolderWarning, Listing, ModelFolders, ModelKind, Root,
    RootOrigin,
};
use proptest::prelude::*;
use tempfile::TempDir;

const CHECKPOINTS: ModelKind = ModelKind::Checkpoints;

/// An installation: `base/`, and beside it whatever a test adds.
struct Install {
    dir: TempDir,
}

impl Install {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("base/models/checkpoints")).unwrap();
        Self { dir }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Writes a file and the folders above it.
    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn yaml(&self, text: &str) -> &Self {
        self.file(&format!("base/{EXTRA_PATHS_FILE}"), text)
    }

    #[cfg(unix)]
    fn link(&self, target: &str, link: &str) -> &Self {
        std::os::unix::fs::symlink(self.path(target), self.path(link)).unwrap();
        self
    }

    fn folders(&self) -> ModelFolders {
        self.try_folders(&[]).unwrap()
    }

    fn try_folders(&self, extra: &[PathBuf]) -> Result<ModelFolders, FolderError> {
        let home = self.path("home").into_os_string();
        let environment =
            move |name: &str| matches!(name, "HOME" | "USERPROFILE").then(|| home.clone());
        ModelFolders::with_environment(&self.path("base"), extra, Box::new(environment))
    }

    fn names(&self) -> Vec<String> {
        names(&self.folders().list(CHECKPOINTS).unwrap())
    }

    fn roots(&self, folders: &ModelFolders, kind: ModelKind) -> Vec<String> {
        let shorten = |root: Root| {
            let path = root.path.strip_prefix(self.dir.path()).unwrap().to_owned();
            path.to_str().unwrap().replace('\\', "/")
        };
        folders.roots(kind).unwrap().into_iter().map(shorten).collect()
    }
}

fn names(listing: &Listing) -> Vec<String> {
    listing.entries.iter().map(|entry| entry.name.clone()).collect()
}

#[test]
fn model_extensions_in_any_case_and_nothing_else_are_listed() {
    let install = Install::new();
    for name in ["a.safetensors", "B.CKPT", "c.Pt", "d.pt2", "e.bin", "f.pth", "g.pkl", "h.sft"] {
        install.file(&format!("base/models/checkpoints/{name}"), "x");
    }
    for name in ["a.gguf", "b.onnx", "c.yaml", "put_checkpoints_here", ".safetensors"] {
        install.file(&format!("base/models/checkpoints/{name}"), "x");
    }
    assert_eq!(
        install.names(),
        ["B.CKPT", "a.safetensors", "c.Pt", "d.pt2", "e.bin", "f.pth", "g.pkl", "h.sft"]
    );
}

#[test]
fn subfolders_are_part_of_the_name_and_git_is_skipped() {
    let install = Install::new();
    install
        .file("base/models/checkpoints/z.ckpt", "12345")
        .file("base/models/checkpoints/sd/xl/a.ckpt", "x")
        .file("base/models/checkpoints/.hidden/b.ckpt", "x")
        .file("base/models/checkpoints/.c.ckpt", "x")
        .file("base/models/checkpoints/sd/.git/no.ckpt", "x")
        .file("base/models/checkpoints/dir.safetensors/d.ckpt", "x");
    let listing = install.folders().list(CHECKPOINTS).unwrap();
    assert_eq!(
        names(&listing),
        [".c.ckpt", ".hidden/b.ckpt", "dir.safetensors/d.ckpt", "sd/xl/a.ckpt", "z.ckpt"]
    );
    assert_eq!(listing.warnings, []);
    let last = listing.entries.last().unwrap();
    assert_eq!(last.bytes, 5);
    assert_eq!(last.root, install.path("base/models/checkpoints"));
    assert_eq!(last.path, install.path("base/models/checkpoints/z.ckpt"));
}

#[test]
fn every_listed_name_resolves_to_its_path() {
    let install = Install::new();
    install
        .file("base/models/checkpoints/a b/é.ckpt", "x")
        .file("base/models/checkpoints/..a.ckpt", "x")
        .file("base/models/checkpoints/~/$HOME.ckpt", "x");
    let folders = install.folders();
    let entries = folders.list(CHECKPOINTS).unwrap().entries;
    assert_eq!(entries.len(), 3);
    for entry in entries {
        assert_eq!(folders.resolve(CHECKPOINTS, &entry.name).unwrap(), entry.path);
        let windows = entry.name.replace('/', "\\");
        assert_eq!(folders.resolve(CHECKPOINTS, &windows).unwrap(), entry.path);
    }
}

#[test]
fn the_built_in_folders_are_comfyuis() {
    let install = Install::new();
    let folders = install.folders();
    let roots = |kind| install.roots(&folders, kind);
    assert_eq!(roots(CHECKPOINTS), ["base/models/checkpoints"]);
    assert_eq!(roots(ModelKind::TextEncoders), ["base/models/text_encoders", "base/models/clip"]);
    assert_eq!(
        roots(ModelKind::DiffusionModels),
        ["base/models/unet", "base/models/diffusion_models"]
    );
    assert_eq!(roots(ModelKind::Embeddings), ["base/models/embeddings"]);
    // Built-in folders that never were are not worth a warning.
    for kind in ModelKind::ALL {
        assert_eq!(folders.list(kind).unwrap(), Listing::default(), "{kind}");
    }
}

#[test]
fn default_roots_come_first_in_written_order_and_each_root_once() {
    let install = Install::new();
    install.yaml(
        "
late: {base_path: .., checkpoints: [late, base/models/checkpoints, late/.]}
first: {base_path: .., is_default: true, checkpoints: \"one\\ntwo\"}
second: {base_path: .., is_default: true, checkpoints: [three, one]}
",
    );
    let folders = install.folders();
    assert_eq!(
        install.roots(&folders, CHECKPOINTS),
        ["one", "two", "three", "base/models/checkpoints", "late"]
    );
    let roots = folders.roots(CHECKPOINTS).unwrap();
    assert_eq!(roots[3].origin, RootOrigin::BuiltIn);
    assert_eq!(
        roots[4].origin,
        RootOrigin::ExtraPaths {
            file: install.path("base").join(EXTRA_PATHS_FILE),
            line: 2,
            section: "late".to_owned(),
        }
    );
}

#[test]
fn a_default_section_may_move_a_built_in_folder_to_the_front() {
    let install = Install::new();
    install.yaml("a: {is_default: true, clip: models/clip}");
    let folders = install.folders();
    assert_eq!(
        install.roots(&folders, ModelKind::TextEncoders),
        ["base/models/clip", "base/models/text_encoders"]
    );
}

#[test]
fn on_a_clash_the_first_root_wins() {
    let install = Install::new();
    install
        .file("base/models/checkpoints/same.ckpt", "built in")
        .file("base/models/checkpoints/own.ckpt", "x")
        .file("late/same.ckpt", "late")
        .file("late/other.ckpt", "x")
        .yaml("a: {base_path: .., checkpoints: late}");
    let folders = install.folders();
    let listing = folders.list(CHECKPOINTS).unwrap();
    assert_eq!(names(&listing), ["other.ckpt", "own.ckpt", "same.ckpt"]);
    assert_eq!(listing.entries[2].path, install.path("base/models/checkpoints/same.ckpt"));
    assert_eq!(folders.resolve(CHECKPOINTS, "same.ckpt").unwrap(), listing.entries[2].path);

    install.yaml("a: {base_path: .., is_default: true, checkpoints: late}");
    let listing = folders.list(CHECKPOINTS).unwrap();
    assert_eq!(listing.entries[2].path, install.path("late/same.ckpt"));
    assert_eq!(folders.resolve(CHECKPOINTS, "same.ckpt").unwrap(), listing.entries[2].path);
}

#[test]
fn yaml_files_given_by_hand_add_to_the_one_in_the_base_directory() {
    let install = Install::new();
    install
        .yaml("a: {checkpoints: inbase}")
        .file("cfg/one.yaml", "a: {checkpoints: here}")
        .file("cfg/two.yaml", "a: {base_path: ~/sd, checkpoints: m}");
    let extra = [install.path("cfg/one.yaml"), install.path("cfg/../cfg/two.yaml")];
    let folders = install.try_folders(&extra).unwrap();
    assert_eq!(
        install.roots(&folders, CHECKPOINTS),
        ["base/models/checkpoints", "base/inbase", "cfg/here", "home/sd/m"]
    );
}

#[test]
fn a_yaml_file_that_is_missing_or_no_yaml_is_an_error_that_names_it() {
    let install = Install::new();
    let missing = install.path("cfg/none.yaml");
    let error = install.try_folders(std::slice::from_ref(&missing)).unwrap_err();
    assert!(matches!(&error, FolderError::ReadExtraPaths { path, .. } if *path == missing));
    assert!(error.to_string().contains("none.yaml"), "{error}");

    fs::create_dir_all(&missing).unwrap();
    assert!(install.try_folders(&[missing]).is_err());

    fs::write(install.path("latin1.yaml"), b"a: {vae: caf\xe9}").unwrap();
    assert!(install.try_folders(&[install.path("latin1.yaml")]).is_err());

    fs::File::create(install.path("big.yaml")).unwrap().set_len(1 << 40).unwrap();
    let error = install.try_folders(&[install.path("big.yaml")]).unwrap_err();
    assert!(matches!(error, FolderError::ExtraPathsTooLarge { .. }), "{error}");

    install.yaml("a:\n  vae: [\n");
    let error = install.try_folders(&[]).unwrap_err().to_string();
    assert!(error.contains(EXTRA_PATHS_FILE) && error.contains("section `a`"), "{error}");
}

#[test]
fn a_yaml_file_is_read_again_when_it_changes() {
    let install = Install::new();
    let folders = install.folders();
    assert_eq!(folders.roots(CHECKPOINTS).unwrap().len(), 1);
    install.yaml("a: {checkpoints: x}");
    assert_eq!(install.roots(&folders, CHECKPOINTS), ["base/models/checkpoints", "base/x"]);
    install.yaml("a: {checkpoints: y}");
    assert_eq!(install.roots(&folders, CHECKPOINTS), ["base/models/checkpoints", "base/y"]);
    install.yaml("a: [");
    assert!(folders.list(CHECKPOINTS).is_err());
    fs::remove_file(install.path("base").join(EXTRA_PATHS_FILE)).unwrap();
    assert_eq!(folders.roots(CHECKPOINTS).unwrap().len(), 1);
}

#[test]
fn what_changes_is_seen_by_the_next_listing() {
    let install = Install::new();
    install.file("base/models/checkpoints/sub/deep/a.ckpt", "1");
    let folders = install.folders();
    let listed = || names(&folders.list(CHECKPOINTS).unwrap());
    assert_eq!(listed(), ["sub/deep/a.ckpt"]);
    install.file("base/models/checkpoints/sub/deep/b.ckpt", "1");
    assert_eq!(listed(), ["sub/deep/a.ckpt", "sub/deep/b.ckpt"]);
    install.file("base/models/checkpoints/new/c.ckpt", "1");
    assert_eq!(listed(), ["new/c.ckpt", "sub/deep/a.ckpt", "sub/deep/b.ckpt"]);
    fs::rename(install.path("base/models/checkpoints/sub"), install.path("gone")).unwrap();
    assert_eq!(listed(), ["new/c.ckpt"]);
    install.file("base/models/checkpoints/new/c.ckpt", "12345678");
    assert_eq!(folders.list(CHECKPOINTS).unwrap().entries[0].bytes, 8);
}

/// The same, with time enough between for the first listing to be relied on.
#[test]
fn what_changes_after_a_while_is_seen_too() {
    let install = Install::new();
    install.file("base/models/checkpoints/sub/a.ckpt", "1");
    let folders = install.folders();
    std::thread::sleep(std::time::Duration::from_millis(4_200));
    let first = folders.list(CHECKPOINTS).unwrap();
    assert_eq!(folders.list(CHECKPOINTS).unwrap(), first);
    install.file("base/models/checkpoints/sub/b.ckpt", "1");
    assert_eq!(names(&folders.list(CHECKPOINTS).unwrap()), ["sub/a.ckpt", "sub/b.ckpt"]);
    fs::remove_file(install.path("base/models/checkpoints/sub/a.ckpt")).unwrap();
    assert_eq!(names(&folders.list(CHECKPOINTS).unwrap()), ["sub/b.ckpt"]);
}

#[test]
fn a_root_that_vanishes_is_a_warning_and_comes_back() {
    let install = Install::new();
    install
        .file("base/models/checkpoints/a.ckpt", "x")
        .file("drive/b.ckpt", "x")
        .yaml("usb:\n  base_path: ..\n  checkpoints: drive\n");
    let folders = install.folders();
    assert_eq!(names(&folders.list(CHECKPOINTS).unwrap()), ["a.ckpt", "b.ckpt"]);

    fs::rename(install.path("drive"), install.path("unplugged")).unwrap();
    for _ in 0..2 {
        let listing = folders.list(CHECKPOINTS).unwrap();
        assert_eq!(names(&listing), ["a.ckpt"]);
        let [FolderWarning::MissingRoot { path, .. }] = listing.warnings.as_slice() else {
            panic!("{:?}", listing.warnings)
        };
        assert_eq!(*path, install.path("drive"));
        let message = listing.warnings[0].to_string();
        assert!(message.contains("line 3, section `usb`"), "{message}");
    }

    fs::rename(install.path("unplugged"), install.path("drive")).unwrap();
    let listing = folders.list(CHECKPOINTS).unwrap();
    assert_eq!((names(&listing).len(), listing.warnings.len()), (2, 0));

    // A built-in folder that was there is missed too.
    fs::remove_dir_all(install.path("base/models/checkpoints")).unwrap();
    let listing = folders.list(CHECKPOINTS).unwrap();
    assert_eq!((names(&listing).len(), listing.warnings.len()), (1, 1));
}

#[test]
fn a_missing_model_is_answered_with_near_names_and_the_folders_searched() {
    let install = Install::new();
    install
        .file("base/models/checkpoints/SDXL/sd_xl_base_1.0.safetensors", "x")
        .file("base/models/checkpoints/flux.sft", "x")
        .yaml("a: {checkpoints: nowhere}");
    let error = install.folders().resolve(CHECKPOINTS, "sd_xl_base_1.0.safetensors").unwrap_err();
    let FolderError::NotFound { near, searched, .. } = &error else { panic!("{error}") };
    assert_eq!(*near, ["SDXL/sd_xl_base_1.0.safetensors"]);
    assert_eq!(*searched, [install.path("base/models/checkpoints"), install.path("base/nowhere")]);
    let message = error.to_string();
    assert!(message.contains("did you mean `SDXL/sd_xl_base_1.0.safetensors`?"), "{message}");
    assert!(message.contains("(which does not exist)"), "{message}");

    // A folder is no model, and a name of another kind is not found.
    assert!(install.folders().resolve(CHECKPOINTS, "SDXL").is_err());
    assert!(install.folders().resolve(ModelKind::Loras, "flux.sft").is_err());
}

#[test]
fn names_cannot_leave_their_root() {
    let install = Install::new();
    install
        .file("base/models/secret.ckpt", "x")
        .file("base/models/checkpoints/a.ckpt", "x")
        .file("base/models/checkpoints/sub/b.ckpt", "x");
    let folders = install.folders();
    let absolute = install.path("base/models/secret.ckpt");
    for name in [
        "../secret.ckpt",
        "..\\secret.ckpt",
        "sub/../../secret.ckpt",
        "sub\\..\\a.ckpt",
        "/a.ckpt",
        "\\a.ckpt",
        "C:\\a.ckpt",
        "",
        ".",
        "a.ckpt\0",
        absolute.to_str().unwrap(),
    ] {
        let error = folders.resolve(CHECKPOINTS, name).unwrap_err();
        assert!(matches!(error, FolderError::BadName { .. }), "{name}: {error}");
    }
    assert!(folders.resolve(CHECKPOINTS, "./sub//b.ckpt").is_ok());
}

#[test]
fn a_deep_tree_does_not_overflow_the_stack() {
    let install = Install::new();
    let mut path = install.path("base/models/checkpoints");
    let name = vec!["d"; 1_000].join("/");
    path.push(&name);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("a.ckpt"), "x").unwrap();
    let folders = install.folders();
    let listing = std::thread::Builder::new()
        .stack_size(256 * 1024)
        .spawn(move || folders.list(CHECKPOINTS).unwrap())
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(names(&listing), [format!("{name}/a.ckpt")]);
}

#[cfg(unix)]
mod unix {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn linked_folders_and_files_are_followed() {
        let install = Install::new();
        install
            .file("elsewhere/sub/a.ckpt", "x")
            .file("elsewhere/one.bin", "12")
            .link("elsewhere", "base/models/checkpoints/linked")
            .link("elsewhere/one.bin", "base/models/checkpoints/renamed.ckpt")
            .link("elsewhere/sub", "base/models/loras");
        let folders = install.folders();
        let listing = folders.list(CHECKPOINTS).unwrap();
        assert_eq!(names(&listing), ["linked/one.bin", "linked/sub/a.ckpt", "renamed.ckpt"]);
        assert_eq!(listing.entries[2].bytes, 2);
        for entry in &listing.entries {
            assert_eq!(folders.resolve(CHECKPOINTS, &entry.name).unwrap(), entry.path);
        }
        // The root itself may be a link.
        assert_eq!(names(&folders.list(ModelKind::Loras).unwrap()), ["a.ckpt"]);
    }

    #[test]
    fn loops_are_walked_once() {
        let install = Install::new();
        install
            .file("base/models/checkpoints/a.ckpt", "x")
            .file("base/models/checkpoints/sub/b.ckpt", "x")
            .file("base/models/checkpoints/other/c.ckpt", "x")
            .link("base/models/checkpoints", "base/models/checkpoints/sub/up")
            .link("base/models/checkpoints/sub/myself", "base/models/checkpoints/sub/myself")
            .link("base/models/checkpoints/sub", "base/models/checkpoints/other/to_sub")
            .link("base/models/checkpoints/other", "base/models/checkpoints/sub/to_other")
            .link("base/models/checkpoints/sub", "base/models/checkpoints/0_alias")
            .link("base", "base/models/checkpoints/base");
        let listing = install.folders().list(CHECKPOINTS).unwrap();
        assert_eq!(names(&listing), ["a.ckpt", "other/c.ckpt", "sub/b.ckpt"]);
        // The link to itself is the only one that leads nowhere.
        assert_eq!(
            listing.warnings,
            [FolderWarning::BrokenLink {
                path: install.path("base/models/checkpoints/sub/myself")
            }]
        );
        // A name by way of a link still resolves.
        assert!(install.folders().resolve(CHECKPOINTS, "0_alias/b.ckpt").is_ok());
    }

    #[test]
    fn broken_links_are_warned_about_and_not_listed() {
        let install = Install::new();
        install
            .file("base/models/checkpoints/a.ckpt", "x")
            .link("nowhere", "base/models/checkpoints/broken.ckpt");
        let folders = install.folders();
        let listing = folders.list(CHECKPOINTS).unwrap();
        let link = install.path("base/models/checkpoints/broken.ckpt");
        assert_eq!(names(&listing), ["a.ckpt"]);
        assert_eq!(listing.warnings, [FolderWarning::BrokenLink { path: link.clone() }]);
        let error = folders.resolve(CHECKPOINTS, "broken.ckpt").unwrap_err();
        assert!(
            matches!(&error, FolderError::NotFound { broken_link: Some(path), .. } if *path == link)
        );
        assert!(error.to_string().contains("leads nowhere"), "{error}");
    }

    #[test]
    fn names_that_cannot_be_told_are_warned_about() {
        let install = Install::new();
        let root = install.path("base/models/checkpoints");
        fs::write(root.join(OsStr::from_bytes(b"caf\xe9.ckpt")), "x").unwrap();
        fs::write(root.join("back\\slash.ckpt"), "x").unwrap();
        fs::write(root.join(OsStr::from_bytes(b"caf\xe9.txt")), "x").unwrap();
        fs::create_dir(root.join(OsStr::from_bytes(b"dir\xe9"))).unwrap();
        let listing = install.folders().list(CHECKPOINTS).unwrap();
        assert_eq!(names(&listing), [""; 0]);
        assert_eq!(listing.warnings.len(), 3, "{:?}", listing.warnings);
    }

    #[test]
    fn an_unreadable_folder_is_a_warning() {
        use std::os::unix::fs::PermissionsExt;

        let install = Install::new();
        install
            .file("base/models/checkpoints/a.ckpt", "x")
            .file("base/models/checkpoints/locked/b.ckpt", "x");
        let locked = install.path("base/models/checkpoints/locked");
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
        let may_read = fs::read_dir(&locked).is_ok();
        let listing = install.folders().list(CHECKPOINTS).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
        if may_read {
            // The superuser reads everything.
            assert_eq!(names(&listing), ["a.ckpt", "locked/b.ckpt"]);
        } else {
            assert_eq!(names(&listing), ["a.ckpt"]);
            assert!(matches!(listing.warnings.as_slice(), [FolderWarning::Unreadable { .. }]));
        }
    }

    #[test]
    fn pipes_are_no_models() {
        let install = Install::new();
        let pipe = install.path("base/models/checkpoints/pipe.ckpt");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo is part of every Unix");
        assert_eq!(install.names(), [""; 0]);
        assert!(install.folders().resolve(CHECKPOINTS, "pipe.ckpt").is_err());
    }
}

/// What a name can be made of to get out of a folder, and what is there to be found.
fn hostile_name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "..",
        ".",
        "/",
        "\\",
        "//",
        "C:",
        "~",
        "$HOME",
        "%2e%2e",
        "sub",
        "a.ckpt",
        "secret.ckpt",
        "models",
        "checkpoints",
        "\0",
        " ",
        ".. ",
        "...",
        "\u{202e}",
        "file:",
    ]);
    prop::collection::vec(part, 0..10).prop_map(|parts| parts.concat())
}

#[test]
fn no_name_escapes() {
    let install = Install::new();
    install
        .file("secret.ckpt", "x")
        .file("base/secret.ckpt", "x")
        .file("base/models/secret.ckpt", "x")
        .file("base/models/checkpoints/a.ckpt", "x")
        .file("base/models/checkpoints/sub/a.ckpt", "x");
    let folders = install.folders();
    let root = fs::canonicalize(install.path("base/models/checkpoints")).unwrap();
    let inside = |path: &Path| fs::canonicalize(path).unwrap().starts_with(&root);
    assert!(inside(&folders.resolve(CHECKPOINTS, "sub/a.ckpt").unwrap()));
    proptest!(|(name in hostile_name())| {
        if let Ok(path) = folders.resolve(CHECKPOINTS, &name) {
            prop_assert!(inside(&path), "{name:?} gave {path:?}");
        }
    });
}

#[test]
fn a_file_from_anywhere_is_a_model_like_others() {
    let install = Install::new();
    install
        .file("base/models/checkpoints/sub/a.safetensors", "1")
        .file("base/models/checkpoints/b.safetensors", "12")
        .file("down/b.safetensors", "123")
        .file("other/b.safetensors", "1234");
    let folders = install.folders();
    let add = |path: &str| folders.add_file(CHECKPOINTS, &install.path(path)).unwrap();
    let read =
        |name: &str| fs::read_to_string(folders.resolve(CHECKPOINTS, name).unwrap()).unwrap();

    assert_eq!(add("base/models/checkpoints/sub/a.safetensors"), "sub/a.safetensors");
    assert_eq!(add("base/models/checkpoints/../checkpoints/b.safetensors"), "b.safetensors");
    assert_eq!(read("b.safetensors"), "12");
    // The one that was added by path is meant, and two of one name are told apart.
    assert_eq!(add("down/b.safetensors"), "b.safetensors");
    assert_eq!(add("down/b.safetensors"), "b.safetensors");
    assert_eq!(add("other/b.safetensors"), "other/b.safetensors");
    assert_eq!((read("b.safetensors"), read("other/b.safetensors")), ("123".into(), "1234".into()));
    let listing = folders.list(CHECKPOINTS).unwrap();
    let names: Vec<_> = listing.entries.iter().map(|e| (e.name.as_str(), e.bytes)).collect();
    let expected = [("b.safetensors", 3), ("other/b.safetensors", 4), ("sub/a.safetensors", 1)];
    assert_eq!(names, expected);
    // Other kinds don't have it, nor anybody once it is gone.
    assert!(folders.resolve(ModelKind::Loras, "b.safetensors").is_err());
    fs::remove_file(install.path("down/b.safetensors")).unwrap();
    assert_eq!(read("b.safetensors"), "12");
}
