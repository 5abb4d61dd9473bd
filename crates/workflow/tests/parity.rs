//! Small workflows whose pictures ComfyUI made: every value within 1 of 255.
//!
//! A case is a folder in `fixtures/parity`: `workflow.json`, the expected pictures in the order of node ids, what it
//! loads in `input/`, further models in `models/`. The checkpoint is the one that is shipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use distorch_allocation::{DeviceId, DeviceInfo, Topology};
use distorch_checkpoint::folders::ModelFolders;
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::Silent;
use distorch_workflow::{Environment, Executor, nodes};
use serde_json::Value as Json;

/// The largest difference of two values from 0 to 255: what rounding may make of sums in another order.
const TOLERANCE: u8 = 1;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity")
}

/// Copies a folder into another, which may be there.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false => drop(fs::copy(&path, &to).unwrap()),
        }
    }
}

/// The pictures that a case saves, by node id and number.
fn pictures(case: &Path, base: &Path) -> Vec<PathBuf> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/checkpoints");
    copy(&shipped, &base.join("models/checkpoints"));
    for folder in ["input", "models"].map(|name| (case.join(name), base.join(name))) {
        if folder.0.is_dir() {
            copy(&folder.0, &folder.1);
        }
    }
    let cpu = DeviceInfo::new(DeviceId::CPU, "CPU", 8 << 30);
    let topology = Topology::new(vec![cpu]).unwrap();
    let environment = Environment::on(ModelFolders::new(base, &[]).unwrap(), topology);
    let workflow = fs::read_to_string(case.join("workflow.json")).unwrap();
    let prompt = Prompt::from_json(&workflow, &nodes::all()).unwrap();
    let mut outputs =
        Executor::new(environment, nodes::all()).run(&prompt, &Silent).unwrap().outputs;
    outputs.sort_by(|one, _, other, _| (one.len(), one).cmp(&(other.len(), other)));
    let images = outputs.values().filter_map(|ui| ui["images"].as_array()).flatten();
    let part = |image: &Json, name: &str| image[name].as_str().unwrap().to_owned();
    images
        .map(|image| {
            let folder = base.join(part(image, "type")).join(part(image, "subfolder"));
            folder.join(part(image, "filename"))
        })
        .collect()
}

#[test]
fn pictures_are_comfyuis() {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(cases()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(!folders.is_empty());
    let mut wrong = Vec::new();
    for case in folders {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let base = tempfile::tempdir().unwrap();
        let saved = pictures(&case, base.path());
        let expected = (0..).map(|number| case.join(format!("expected_{number}.png")));
        let expected: Vec<PathBuf> = expected.take_while(|path| path.is_file()).collect();
        assert_eq!(saved.len(), expected.len(), "{name}");
        assert!(!saved.is_empty(), "{name}");
        for (saved, expected) in saved.iter().zip(&expected) {
            let [saved, expected] =
                [saved, expected].map(|path| image::open(path).unwrap().into_rgb8());
            assert_eq!(saved.dimensions(), expected.dimensions(), "{name}");
            let values = saved.as_raw().iter().zip(expected.as_raw());
            let largest = values.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            if largest > TOLERANCE {
                wrong.push(format!("{name}: a value differs by {largest}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
