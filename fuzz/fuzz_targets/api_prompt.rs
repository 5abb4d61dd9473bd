//! Any bytes as a prompt in the API form, as a client of the server sends it: reading and checking it neither panics nor
//! depends on anything but the text.

#![no_main]

use std::sync::LazyLock;

use distorch_allocation::{DeviceInfo, Topology};
use distorch_checkpoint::folders::ModelFolders;
use distorch_workflow::graph::Prompt;
use distorch_workflow::{Environment, Registry, nodes, validate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        check(text);
    }
});

static REGISTRY: LazyLock<Registry> = LazyLock::new(nodes::all);

/// A machine without models.
static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join("distorch-fuzz-api-prompt");
    std::fs::create_dir_all(&folder).unwrap();
    let cpu = DeviceInfo::new("cpu".parse().unwrap(), "", 8 << 30);
    let folders = ModelFolders::new(&folder, &[]).unwrap();
    Environment::on(folders, Topology::new(vec![cpu]).unwrap())
});

fn check(text: &str) {
    let Ok(prompt) = Prompt::from_json(text, &REGISTRY) else { return };
    let written = prompt.to_json().to_string();
    if let Ok(again) = Prompt::from_json(&written, &REGISTRY) {
        assert_eq!(again.to_json().to_string(), written);
    }
    let checked = || validate::validate(&prompt, &REGISTRY, &ENVIRONMENT);
    match (checked(), checked()) {
        (Ok(one), Ok(other)) => assert_eq!(one.outputs, other.outputs),
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
        _ => panic!("it is valid, and is not"),
    }
}
