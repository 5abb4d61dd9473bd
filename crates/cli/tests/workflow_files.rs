//! Workflow files of all kinds, as a user runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// What a command did.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

/// A folder to run workflows in, with the shipped models.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, file: &[u8], args: &[&str]) -> Ended {
        fs::write(self.path("file"), file).unwrap();
        let mut command = Command::cargo_bin("distorch").unwrap();
        command.current_dir(self.0.path()).env_remove("COMFYUI_PATH").arg("--base-dir").arg(root());
        let output =
            command.args(["run", "file", "--output-dir", "out"]).args(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Ended { code: output.status.code().unwrap(), stdout, stderr }
    }
}

/// One step at 64×64.
fn workflow() -> Value {
    json!({
        "3": {"class_type": "KSampler", "inputs": {
            "seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal",
            "denoise": 1.0, "model": ["4", 0], "positive": ["6", 0], "negative": ["6", 0],
            "latent_image": ["5", 0]}},
        "4": {"class_type": "CheckpointLoaderSimple",
              "inputs": {"ckpt_name": "tiny-shapes.safetensors"}},
        "5": {"class_type": "EmptyLatentImage",
              "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode",
              "inputs": {"text": "a {red|blue} circle // yes", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["8", 0]}}
    })
}

/// The same in the editor's form.
fn edited() -> Value {
    let input = |name: &str, link: u32| json!({"name": name, "link": link});
    json!({
        "nodes": [
            {"id": 3, "type": "KSampler", "order": 3,
             "inputs": [input("model", 1), input("positive", 2), input("negative", 2),
                        input("latent_image", 3)],
             "widgets_values": [1, true, 1, 1.0, "sample_euler", "normal", 1.0]},
            {"id": 4, "type": "CheckpointLoaderSimple", "order": 0,
             "widgets_values": ["tiny-shapes.safetensors"]},
            {"id": 5, "type": "EmptyLatentImage", "order": 1, "widgets_values": [64, 64, 1]},
            {"id": 6, "type": "CLIPTextEncode", "order": 2, "inputs": [input("clip", 4)],
             "widgets_values": ["a {red|blue} circle // yes"]},
            {"id": 8, "type": "VAEDecode", "order": 4,
             "inputs": [input("samples", 5), input("vae", 6)]},
            {"id": 9, "type": "SaveImage", "order": 5, "inputs": [input("images", 7)],
             "widgets_values": ["x"]}
        ],
        "links": [[1, 4, 0, 3, 0, "MODEL"], [2, 6, 0, 3, 1, "CONDITIONING"], null,
                  [3, 5, 0, 3, 3, "LATENT"], [4, 4, 1, 6, 0, "CLIP"], [5, 3, 0, 8, 0, "LATENT"],
                  [6, 4, 2, 8, 1, "VAE"], [7, 8, 0, 9, 0, "IMAGE"]]
    })
}

/// A PNG picture with texts.
fn picture(texts: &[(&str, &str)]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 1, 1);
    encoder.set_color(png::ColorType::Rgb);
    for (keyword, text) in texts {
        encoder.add_text_chunk((*keyword).to_owned(), (*text).to_owned()).unwrap();
    }
    encoder.write_header().unwrap().write_image_data(&[1, 2, 3]).unwrap();
    file
}

fn texts(path: &Path) -> Value {
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap()));
    let reader = decoder.read_info().unwrap();
    let mut chunks = reader.info().uncompressed_latin1_text.iter();
    serde_json::from_str(&chunks.find(|chunk| chunk.keyword == "prompt").unwrap().text).unwrap()
}

#[test]
fn a_broken_output_does_not_stop_the_others() {
    let folder = Folder::new();
    let mut workflow = workflow();
    workflow["10"] = json!({"class_type": "SaveImage", "inputs": {"filename_prefix": "z"}});
    let ended = folder.run(workflow.to_string().as_bytes(), &["--json"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("the output 10 cannot be run"), "{}", ended.stderr);
    assert!(ended.stderr.contains("Required input is missing: images"), "{}", ended.stderr);
    assert!(folder.path("out/x_00001_.png").is_file());
    let shown: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(shown["9"]["images"][0]["filename"], "x_00001_.png");
    let errors = &shown["node_errors"]["10"];
    assert_eq!(errors["class_type"], "SaveImage");
    assert_eq!(errors["dependent_outputs"], json!(["10"]));
    assert_eq!(errors["errors"][0]["type"], "required_input_missing");
    assert_eq!(errors["errors"][0]["extra_info"]["input_name"], "images");
    // Nor in a rehearsal.
    let ended = folder.run(workflow.to_string().as_bytes(), &["--dry-run"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stdout.contains("nothing was loaded"), "{}", ended.stdout);
}

#[test]
fn an_invalid_workflow_is_json_too() {
    let folder = Folder::new();
    let mut workflow = workflow();
    workflow["3"]["inputs"]["steps"] = json!(0);
    let ended = folder.run(workflow.to_string().as_bytes(), &["--json"]);
    assert_eq!(ended.code, 2);
    let shown: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(shown["error"]["type"], "prompt_outputs_failed_validation");
    assert_eq!(shown["node_errors"]["3"]["errors"][0]["type"], "value_smaller_than_min");
    assert_eq!(shown["node_errors"]["3"]["dependent_outputs"], json!(["9"]));
    assert!(!folder.path("out").exists());
}

#[test]
fn an_override_of_an_input_that_is_not_there_is_an_error() {
    let folder = Folder::new();
    let file = workflow().to_string();
    let ended = folder.run(file.as_bytes(), &["--set", "3.sede=7", "--dry-run"]);
    assert_eq!(ended.code, 2);
    for part in ["node 3 (KSampler) has no input `sede`", "seed", "denoise"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
}

#[test]
fn marks_wide_characters_and_what_is_not_finite_are_read() {
    let folder = Folder::new();
    let text = workflow().to_string();
    let changed =
        text.replacen("{\"class_type\"", "{\"is_changed\": [NaN, -Infinity], \"class_type\"", 1);
    assert!(changed != text);
    let wide = format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    for file in [format!("\u{feff}{text}").into_bytes(), changed.into_bytes(), wide] {
        let ended = folder.run(&file, &["--dry-run"]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
    }
    let ended = folder.run(b"{\"1\": \"\xff\"}", &["--dry-run"]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("no text"), "{}", ended.stderr);
}

#[test]
fn an_older_picture_runs_with_defaults_or_by_its_workflow() {
    let folder = Folder::new();
    let mut older = workflow();
    older["3"]["inputs"].as_object_mut().unwrap().remove("denoise");
    let older = older.to_string();
    let ended = folder.run(&picture(&[("prompt", &older)]), &["--dry-run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let note = "node 3 (KSampler): `denoise` is missing and has its default, 1.0";
    assert!(ended.stderr.contains(note), "{}", ended.stderr);
    // A file for the API is as ComfyUI takes it.
    let ended = folder.run(older.as_bytes(), &["--dry-run"]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("Required input is missing: denoise"), "{}", ended.stderr);
    // Where the prompt is of no use, the workflow is.
    let edited = edited().to_string();
    let unlinked = older.replace("[\"4\",0]", "7");
    assert!(unlinked != older);
    for prompt in ["{", "[]", &unlinked] {
        let file = picture(&[("workflow", &edited), ("prompt", prompt)]);
        let ended = folder.run(&file, &["--dry-run"]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        assert!(ended.stderr.contains("its `workflow` is used"), "{}", ended.stderr);
        let ended = folder.run(&picture(&[("prompt", prompt)]), &["--dry-run"]);
        assert_eq!(ended.code, 2, "{}", ended.stderr);
    }
    let ended = folder.run(&picture(&[("parameters", "x")]), &["--dry-run"]);
    assert!(ended.code == 2 && ended.stderr.contains("carries no workflow"), "{}", ended.stderr);
}

#[test]
fn choices_in_an_editors_text_are_made_and_in_an_api_file_left() {
    let folder = Folder::new();
    let text = |place: usize| {
        let prompt = texts(&folder.path(&format!("out/x_0000{place}_.png")));
        prompt["6"]["inputs"]["text"].as_str().unwrap().to_owned()
    };
    let edited = edited().to_string();
    let ended = folder.run(edited.as_bytes(), &[]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("prompt seed 0"), "{}", ended.stderr);
    let first = text(1);
    assert!(["a red circle ", "a blue circle "].contains(&first.as_str()), "{first}");
    assert_eq!(folder.run(edited.as_bytes(), &[]).code, 0);
    assert_eq!(text(2), first, "as before");
    let other = (1..20).find(|seed| {
        let seed = seed.to_string();
        let ended = folder.run(edited.as_bytes(), &["--prompt-seed", &seed, "--dry-run"]);
        ended.code == 0 && ended.stderr.contains(&format!("prompt seed {seed}"))
    });
    assert_eq!(other, Some(1));
    assert_eq!(folder.run(workflow().to_string().as_bytes(), &[]).code, 0);
    assert_eq!(text(3), "a {red|blue} circle // yes");
}
