//! `extra_model_paths.yaml`: what is read, in which order, and how mistakes are told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail by panicking")]
#![cfg(unix)] // The paths in these files are absolute on Unix only.

use std::ffi::OsString;
use std::path::Path;

use distorch_checkpoint::folders::{
    ExtraPaths, FolderError, FolderWarning, ModelKind, parse_extra_paths,
};
use proptest::prelude::*;

const FILE: &str = "/cfg/comfy/extra.yaml";

fn environment(name: &str) -> Option<OsString> {
    match name {
        "HOME" | "USERPROFILE" => Some("/home/me".into()),
        "MODELS" => Some("/data/models".into()),
        _ => None,
    }
}

fn parse(text: &str) -> ExtraPaths {
    parse_extra_paths(text, Path::new(FILE), &environment).unwrap()
}

/// The paths of one kind, in order, with `*` for those of default sections.
fn paths(extra: &ExtraPaths, kind: ModelKind) -> Vec<String> {
    let folders = extra.folders.iter().filter(|folder| folder.kind == kind);
    folders
        .map(|f| format!("{}{}", if f.is_default { "*" } else { "" }, f.path.display()))
        .collect()
}

fn checkpoints(text: &str) -> Vec<String> {
    paths(&parse(text), ModelKind::Checkpoints)
}

fn error(text: &str) -> (u64, Option<String>, String) {
    match parse_extra_paths(text, Path::new(FILE), &environment).unwrap_err() {
        FolderError::ExtraPaths { line, section, message, .. } => (line, section, message),
        other => panic!("{other}"),
    }
}

#[test]
fn several_sections_with_every_kind() {
    let extra = parse(
        "
# A web UI and a second installation
a111:
    base_path: /a111
    checkpoints: models/Stable-diffusion
    vae: models/VAE
    loras: |
         models/Lora
         models/LyCORIS
    upscale_models: |
                  models/ESRGAN
                  models/RealESRGAN
    embeddings: embeddings
    controlnet: models/ControlNet
comfyui:
    base_path: /comfy/
    checkpoints: models/checkpoints/
    clip: models/clip/
    text_encoders: models/text_encoders/
    unet: models/unet/
    diffusion_models: models/diffusion_models/
    clip_vision: models/clip_vision/
    configs: models/configs/
",
    );
    assert_eq!(
        paths(&extra, ModelKind::Checkpoints),
        ["/a111/models/Stable-diffusion", "/comfy/models/checkpoints"]
    );
    assert_eq!(paths(&extra, ModelKind::Loras), ["/a111/models/Lora", "/a111/models/LyCORIS"]);
    assert_eq!(
        paths(&extra, ModelKind::UpscaleModels),
        ["/a111/models/ESRGAN", "/a111/models/RealESRGAN"]
    );
    assert_eq!(
        paths(&extra, ModelKind::TextEncoders),
        ["/comfy/models/clip", "/comfy/models/text_encoders"]
    );
    assert_eq!(
        paths(&extra, ModelKind::DiffusionModels),
        ["/comfy/models/unet", "/comfy/models/diffusion_models"]
    );
    assert_eq!(paths(&extra, ModelKind::Vae), ["/a111/models/VAE"]);
    assert_eq!(paths(&extra, ModelKind::Embeddings), ["/a111/embeddings"]);
    assert_eq!(paths(&extra, ModelKind::Controlnet), ["/a111/models/ControlNet"]);
    assert_eq!(extra.warnings, []);
    assert_eq!((extra.folders[0].section.as_str(), extra.folders[0].line), ("a111", 5));
}

#[test]
fn base_path_is_relative_to_the_file_and_expanded() {
    assert_eq!(checkpoints("a: {base_path: ../sd, checkpoints: m}"), ["/cfg/sd/m"]);
    assert_eq!(checkpoints("a: {base_path: ., checkpoints: m}"), ["/cfg/comfy/m"]);
    assert_eq!(checkpoints("a: {base_path: ~/sd, checkpoints: m}"), ["/home/me/sd/m"]);
    assert_eq!(checkpoints("a: {base_path: $MODELS/x, checkpoints: m}"), ["/data/models/x/m"]);
    assert_eq!(checkpoints("a:\n  base_path: ${MODELS}\n  checkpoints: m"), ["/data/models/m"]);
    assert_eq!(checkpoints("a: {checkpoints: m}"), ["/cfg/comfy/m"]);
    assert_eq!(checkpoints("a: {base_path: null, checkpoints: m}"), ["/cfg/comfy/m"]);
}

#[test]
fn base_path_may_come_after_the_kinds_that_use_it() {
    assert_eq!(checkpoints("a:\n  checkpoints: m\n  base_path: /b\n  is_default: true"), ["*/b/m"]);
}

#[test]
fn an_absolute_folder_ignores_the_base() {
    assert_eq!(checkpoints("a: {base_path: /b, checkpoints: /abs/m}"), ["/abs/m"]);
    assert_eq!(checkpoints("a: {base_path: /b, checkpoints: ~/m}"), ["/home/me/m"]);
    assert_eq!(checkpoints("a: {base_path: /b, checkpoints: $MODELS/m}"), ["/data/models/m"]);
}

#[test]
fn lines_are_trimmed_and_blank_ones_skipped() {
    let text =
        "a:\r\n  base_path: /b \r\n  checkpoints: |\r\n    one  \r\n\r\n      two\t\r\n    \r\n";
    assert_eq!(checkpoints(text), ["/b/one", "/b/two"]);
    assert_eq!(
        checkpoints("a: {base_path: /b, checkpoints: \" one \\n\\n two \\n\"}"),
        ["/b/one", "/b/two"]
    );
}

#[test]
fn lists_nulls_and_odd_scalars() {
    assert_eq!(
        checkpoints("a:\n  base_path: /b\n  checkpoints:\n    - one\n    -\n    - \"two\\nthree\""),
        ["/b/one", "/b/two", "/b/three"]
    );
    assert_eq!(checkpoints("a: {base_path: /b, checkpoints: [], vae: null}"), [""; 0]);
    assert_eq!(checkpoints("a: {base_path: /b, checkpoints:}"), [""; 0]);
    // Numbers and booleans are folder names as they are written.
    assert_eq!(
        checkpoints("a: {base_path: /b, checkpoints: [2024, 1.10, 007, true, yes, 0x10, 1_000]}"),
        ["/b/2024", "/b/1.10", "/b/007", "/b/true", "/b/yes", "/b/0x10", "/b/1_000"]
    );
}

#[test]
fn empty_files_and_sections_are_fine() {
    for text in ["", "\n\n", "# only a comment\n", "---\n", "null", "\u{feff}", "a:", "a: ~\nb: {}"]
    {
        assert_eq!(parse(text), ExtraPaths::default(), "{text:?}");
    }
}

#[test]
fn is_default_takes_the_spellings_of_yaml() {
    for yes in ["true", "True", "yes", "on", "1", "\"true\""] {
        let text = format!("a: {{is_default: {yes}, checkpoints: /m}}");
        assert_eq!(checkpoints(&text), ["*/m"], "{yes}");
    }
    for no in ["false", "no", "OFF", "0", "'false'", "null", ""] {
        let text = format!("a:\n  is_default: {no}\n  checkpoints: /m\n");
        assert_eq!(checkpoints(&text), ["/m"], "{no}");
    }
    let (line, section, message) = error("a:\n  is_default: perhaps\n  checkpoints: /m\n");
    assert_eq!((line, section.as_deref()), (2, Some("a")));
    assert!(message.contains("`true` or `false`"), "{message}");
}

#[test]
fn anchors_and_merge_keys_work() {
    let text = "a: &a\n  base_path: /b\n  checkpoints: m\nb:\n  <<: *a\n  vae: v\n";
    assert_eq!(checkpoints(text), ["/b/m", "/b/m"]);
    assert_eq!(paths(&parse(text), ModelKind::Vae), ["/b/v"]);
}

#[test]
fn mistakes_name_file_line_and_section() {
    let (line, section, message) = error("a:\n  checkpoints: m\nb:\n  vae: {x: y}\n");
    assert_eq!((line, section.as_deref()), (4, Some("b")));
    assert!(message.contains("`vae`") && message.contains("mapping"), "{message}");

    let (line, section, _) = error("a:\n  vae: x\nsecond:\n  checkpoints: [unclosed\n");
    assert!(line >= 4, "{line}");
    assert_eq!(section.as_deref(), Some("second"));

    let (line, section, message) = error("a:\nb: /models\n");
    assert_eq!((line, section.as_deref()), (2, Some("b")));
    assert!(message.contains("single value"), "{message}");

    let (_, _, message) = error("a:\n  base_path: \"C:\\models\"\n");
    assert!(message.contains("single quotes"), "{message}");

    assert!(error("- a\n- b\n").2.contains("list"));
    assert!(error("just text").2.contains("single value"));
    assert!(error("a: {base_path: [/x, /y], vae: v}").2.contains("one folder"));
    assert!(error("a: {base_path: ~you/x, vae: v}").2.contains("another user"));
    assert!(error("a: {vae: \"x\\0y\"}").2.contains("NUL"));

    let error = parse_extra_paths("b: 1", Path::new(FILE), &environment).unwrap_err();
    assert!(
        error.to_string().starts_with("/cfg/comfy/extra.yaml, line 1, section `b`: "),
        "{error}"
    );
}

#[test]
fn oddities_are_warned_about() {
    let extra = parse("a:\n  checkpoint: m\n  sams: s\n  vae: $NOPE/v\n");
    let messages: Vec<String> = extra.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert!(messages[0].contains("line 2") && messages[0].contains("did you mean `checkpoints`?"));
    assert!(messages[1].contains("`sams`") && !messages[1].contains("did you mean"));
    assert!(messages[2].contains("`NOPE`") && messages[2].contains("line 4"));
    assert_eq!(paths(&extra, ModelKind::Vae), ["/cfg/comfy/$NOPE/v"]);
}

#[test]
fn of_a_key_written_twice_the_last_counts() {
    let extra = parse("a:\n  vae: one\n  vae: two\nb: {vae: three}\nb: {vae: four}\n");
    assert_eq!(paths(&extra, ModelKind::Vae), ["/cfg/comfy/two", "/cfg/comfy/four"]);
    let twice: Vec<_> = extra
        .warnings
        .iter()
        .map(|warning| match warning {
            FolderWarning::WrittenTwice { key, line, .. } => (key.as_str(), *line),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(twice, [("b", 5), ("vae", 3)]);
}

#[test]
fn bombs_are_refused_quickly() {
    let mut aliases = "a: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let row = vec![format!("*a{}", i - 1); 9].join(", ");
        aliases.push_str(&format!("k{i}: &a{i} [{row}]\n"));
    }
    let deep_flow = format!("a: {}", "[".repeat(100_000));
    let deep_block = (0..2_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
    let myself = "a: &a {b: *a}".to_owned();
    for bomb in [aliases, deep_flow, deep_block, myself] {
        assert!(parse_extra_paths(&bomb, Path::new(FILE), &environment).is_err());
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        let _ = parse_extra_paths(&text, Path::new(FILE), &environment);
    }

    #[test]
    fn any_yaml_like_text_gives_absolute_plain_paths(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "a:", "b: ", "\n", "\n  ", "\n    ", "base_path: ", "is_default: ", "true",
                "checkpoints: ", "vae: ", "|", ">-", "- ", "[", "]", "{", "}", ", ", "~", "~/x",
                "$HOME", "${", "../..", "/abs", "&a ", "*a", "<<: ", "\"", "'", "\\", "é", "\t", "# c",
            ]),
            0..40,
        ),
    ) {
        if let Ok(extra) = parse_extra_paths(&parts.concat(), Path::new(FILE), &environment) {
            for folder in extra.folders {
                prop_assert!(folder.path.is_absolute());
                prop_assert!(folder.line > 0);
                let text = folder.path.to_str().unwrap();
                prop_assert!(!text.split('/').any(|part| part == ".." || part == "."));
            }
        }
    }
}
