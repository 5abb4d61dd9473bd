//! Any text as `extra_model_paths.yaml`: read or refused, and never a folder that is relative.

#![no_main]

use std::path::Path;

use distorch_checkpoint::folders::parse_extra_paths;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let environment = |name: &str| (name == "HOME" || name == "A").then(|| "/home/me".into());
    if let Ok(extra) = parse_extra_paths(text, Path::new("/cfg/extra.yaml"), &environment) {
        for folder in extra.folders {
            assert!(folder.path.is_absolute(), "{folder:?}");
        }
    }
});
