//! Every command line that the documents and `--help` show is run as it stands, in a folder that holds
//! small files by the names that they use.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "common/documents.rs"]
mod documents;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{distorch, sparse_list};
use distorch_checkpoint::Dtype;
use documents::{Shown, documents, shown_by, shown_in, subcommands};

/// What is not a command line of this program, by how it begins, and why it is not run here.
const OTHERS: [(&str, &str); 26] = [
    ("cargo test", "runs these tests"),
    ("cargo build", "builds"),
    ("cargo bench", "measures, for minutes"),
    ("cargo run --release -p", "builds, and measures beside PyTorch"),
    ("cargo install", "installs"),
    ("cargo fmt", "CI runs it"),
    ("cargo clippy", "CI runs it"),
    ("cargo deny", "CI runs it"),
    (".ci/run", "is CI"),
    ("pip install", "installs"),
    ("npm ci", "installs"),
    ("node tools/web", "drives a browser"),
    ("distorch run tools/reference/", "takes 10 GB of random weights"),
    ("mkdir /sys/fs/cgroup", "limits memory, as root"),
    ("echo $", "limits memory, as root"),
    ("curl ", "asks a server, as its tests do"),
    ("python ", "needs PyTorch"),
    ("tools/server/", "asks a server, for minutes"),
    ("tools/clients/", "is a stage of CI"),
    ("python3 tools/hostile", "is a stage of CI"),
    ("tools/gpu/", "measures a GPU; CI runs it without one"),
    ("OUT=results tools/gpu/", "measures a GPU; CI runs it without one"),
    ("python3 tools/gpu/", "makes tables of that; CI tests it"),
    ("export RUSTC_WRAPPER", "is for fuzzing, which takes minutes"),
    ("for target in", "is for fuzzing"),
    ("done", "ends the loop of fuzzing"),
];

/// Lines inside of those, which are no commands of their own.
const INSIDE: [(&str, &str); 2] =
    [("mkdir -p fuzz/", "is for fuzzing"), ("fuzz/target/", "is for fuzzing")];

/// Command lines of which only the form is checked, and why.
const NOT_RUN: [(&str, &str); 5] = [
    ("distorch bench link --device cuda:0", "measures a link that is there"),
    ("distorch bench link --device cuda:0 --mib 256 --json", "measures a link that is there"),
    ("distorch bench offload --random sdxl --device cuda:0 --pin", "measures a link that is there"),
    ("distorch bench offload --device vulkan:0", "names a command and an option"),
    ("CUDA_VISIBLE_DEVICES=0,1 NCCL_DEBUG=INFO distorch generate …", "leaves its options out"),
];

/// Names of commands in sentences, which are no command lines.
const NAMES: [&str; 7] = [
    "distorch bench",
    "distorch bench link",
    "distorch run",
    "distorch worker",
    "distorch generate",
    "distorch plan",
    "distorch inspect",
];

/// What stands for something else here: written, run.
const REPLACED: [(&str, &str); 10] = [
    // So do operators in the shapes of models.
    ("operators --device", "operators --set tiny --device"),
    ("operators --set sdxl", "operators --set tiny"),
    ("operators --set sd15", "operators --set tiny"),
    // The program is built already.
    ("cargo run --release --", "distorch"),
    ("/usr/bin/time -v ", ""),
    // Models at full size take minutes and gigabytes.
    ("--random sd15", "--ckpt zeros.safetensors"),
    ("--random sdxl", "--ckpt zeros.safetensors"),
    ("--width 768 --height 768", "--width 64 --height 64"),
    ("--width 384 --height 384", "--width 64 --height 64"),
    ("--width 256 --height 256", "--width 64 --height 64"),
];

/// Devices that lines name without declaring them.
const DEVICES: &str = "cuda:0=24GiB,cuda:1=24GiB,vulkan:0=24GiB";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A folder with everything that the command lines name.
struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap() };
        let root = root();
        let (checkpoint, lora) = (
            root.join("models/checkpoints/tiny-shapes.safetensors"),
            root.join("models/loras/tiny-outlines.safetensors"),
        );
        for name in [
            "models/checkpoints/tiny-shapes.safetensors",
            "models/checkpoints/MODEL.safetensors",
            "models/checkpoints/CKPT",
            "models/checkpoints/sd_xl_base_1.0.safetensors",
            "models/checkpoints/v1-5-pruned-emaonly.safetensors",
            "models/checkpoints/v1-5-pruned.ckpt",
            "models/checkpoints/big.safetensors",
            "downloads/model.ckpt",
            "home/ComfyUI/models/checkpoints/mine.safetensors",
            "FILE",
        ] {
            folder.copy(&checkpoint, name);
        }
        for name in ["models/loras/ink.safetensors", "home/ComfyUI/models/loras/l.safetensors"] {
            folder.copy(&lora, name);
        }
        for name in ["flux1-dev.safetensors", "flux1-dev-fp8.safetensors"] {
            let path = folder.path(&format!("models/checkpoints/{name}"));
            sparse_list("tiny-flux", Dtype::F16, &path, None);
        }
        let zeros = folder.path("models/checkpoints/zeros.safetensors");
        sparse_list("tiny-sd1", Dtype::F16, &zeros, Some("64x64"));
        folder.write("home/ComfyUI/extra_model_paths.yaml", "a:\n  checkpoints: models\n");
        for name in ["home/.zfunc", "home/.local/share/bash-completion/completions"] {
            fs::create_dir_all(folder.path(name)).unwrap();
        }
        for name in ["examples", "input"] {
            for entry in fs::read_dir(root.join(name)).unwrap() {
                let path = entry.unwrap().path();
                let file = path.file_name().unwrap().to_str().unwrap();
                folder.copy(&path, &format!("{name}/{file}"));
            }
        }
        folder.copy(&root.join("input/blue_square.png"), "photo.png");
        let workflow = fs::read_to_string(root.join("examples/txt2img_distorch2.json")).unwrap();
        let workflow = workflow.replace("\"Positive\"", "\"CLIP Text Encode\"");
        folder.write("workflow.json", &workflow);
        folder.write("workflow_api.json", &workflow);
        let blocks = fs::read_to_string(root.join("docs/blocks.md")).unwrap();
        let blocks = blocks.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
        for name in ["docs-list.json", "model.json", "FILE.json"] {
            folder.write(name, blocks);
        }
        // Stands for a tool that need not be there.
        folder.write("bin/jq", "#!/bin/sh\ncat\n");
        fs::set_permissions(folder.path("bin/jq"), fs::Permissions::from_mode(0o755)).unwrap();
        folder.run(
            "distorch generate --ckpt tiny-shapes.safetensors --prompt x --steps 1 -o picture.png",
        );
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn copy(&self, from: &Path, name: &str) {
        fs::copy(from, self.path(name)).unwrap();
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Runs a line in a shell; on failure, what it said.
    fn try_run(&self, line: &str) -> Result<String, String> {
        let program = PathBuf::from(distorch(&[]).get_program());
        let bin = self.dir.path().join("bin");
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{}:{path}", program.parent().unwrap().display(), bin.display());
        let output = Command::new("sh")
            .args(["-ec", line])
            .current_dir(self.dir.path())
            .env("PATH", path)
            .env("HOME", self.dir.path().join("home"))
            .env_remove("COMFYUI_PATH")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.code() {
            Some(0) => Ok(text(&output.stdout)),
            code => Err(format!("exit code {code:?}\n{}", text(&output.stderr))),
        }
    }

    fn run(&self, line: &str) -> String {
        self.try_run(line).unwrap_or_else(|error| panic!("{line}\n{error}"))
    }
}

/// Runs the lines, and notes which exceptions were needed.
fn run_all(shown: &[Shown], used: &mut BTreeSet<&'static str>) {
    let folder = Folder::new();
    let mut failed = Vec::new();
    let mut ran = 0;
    for Shown { place, line } in shown {
        if let Some(prefix) = exception(line) {
            used.insert(prefix);
            continue;
        }
        let result = match NOT_RUN.iter().find(|(written, _)| written == line) {
            Some((written, _)) => {
                used.insert(written);
                form(&folder, line)
            }
            None if serves(line) => form(&folder, line),
            None => {
                ran += 1;
                let start = std::time::Instant::now();
                let result = folder.try_run(&as_run(line));
                eprintln!("{:.1} s: {line}", start.elapsed().as_secs_f64());
                result
            }
        };
        if let Err(error) = result {
            failed.push(format!("{place}: {line}\n{error}"));
        }
    }
    assert!(failed.is_empty(), "{} of {ran} lines:\n\n{}", failed.len(), failed.join("\n"));
}

/// The exception that a line falls under: it is none of this program's.
fn exception(line: &str) -> Option<&'static str> {
    let begins = |list: &'static [(&str, &str)]| {
        list.iter().map(|(prefix, _)| *prefix).find(|prefix| line.starts_with(prefix))
    };
    begins(&OTHERS).or_else(|| begins(&INSIDE)).or(NAMES.iter().copied().find(|name| line == *name))
}

/// The line as it is run: with small models, and with devices for those that it names.
fn as_run(line: &str) -> String {
    let line = REPLACED.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
    let names = ["cuda", "vulkan"].iter().any(|kind| line.contains(kind));
    match names && !line.contains("--simulate") && !line.contains("devices") {
        true => format!("{line} --simulate '{DEVICES}'"),
        false => line,
    }
}

/// Whether a line starts a server, which does not end by itself: its own tests run it.
fn serves(line: &str) -> bool {
    line.starts_with("distorch serve") || line.starts_with("distorch worker")
}

/// Whether the program takes such arguments: with a mistake added that is found after they are read.
fn form(folder: &Folder, line: &str) -> Result<String, String> {
    // Neither has all that its command needs.
    if line.contains('…') || line == "distorch bench offload --device vulkan:0" {
        return Ok(String::new());
    }
    match folder.try_run(&format!("{line} --simulate mistake")) {
        Err(error) if error.contains("`--simulate`, entry 1") => Ok(error),
        Err(error) => Err(error),
        Ok(_) => Err("the mistake was not found".to_owned()),
    }
}

#[test]
fn every_line_of_the_documents_works() {
    let (root, mut used) = (root(), BTreeSet::new());
    let files = documents(&root);
    let shown: Vec<Shown> = files.iter().flat_map(|file| shown_in(file, &root)).collect();
    let of = |name: &str| shown.iter().filter(|s| s.place.starts_with(name)).count();
    // What is extracted: a README whose blocks were not found would pass as well.
    assert!(of("README.md") >= 15 && of("docs/gpu.md") >= 7, "{shown:#?}");
    run_all(&shown, &mut used);
    let written = OTHERS.iter().chain(&INSIDE).chain(&NOT_RUN).map(|(line, _)| *line);
    let stale: Vec<_> = written.filter(|line| !used.contains(line)).collect();
    let from_help = [
        "distorch bench link --device cuda:0 --mib 256 --json",
        "distorch bench offload --random sdxl --device cuda:0 --pin",
    ];
    assert_eq!(stale, from_help, "exceptions that nothing needs");
}

#[test]
fn every_example_of_the_help_works() {
    let help = |command: &[&str]| common::stdout(&[command, &["--help"]].concat());
    let mut commands = vec![Vec::new()];
    let mut shown = Vec::new();
    while let Some(command) = commands.pop() {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let text = help(&command);
        let examples = shown_by(&text, &format!("distorch {}", command.join(" ")));
        assert!(!examples.is_empty(), "{command:?} has no examples");
        shown.extend(examples);
        let own = |name: String| {
            command.iter().map(|&word| word.to_owned()).chain([name]).collect::<Vec<_>>()
        };
        commands.extend(subcommands(&text).into_iter().map(own));
    }
    assert!(shown.len() >= 35, "{shown:#?}");
    assert!(shown.iter().all(|shown| shown.line.starts_with("distorch ")), "{shown:#?}");
    run_all(&shown, &mut BTreeSet::new());
}
