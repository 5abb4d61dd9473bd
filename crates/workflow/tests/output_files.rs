//! What is saved, and what is known about it before a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use distorch_test_support::runs::Harness;
use distorch_workflow::ExecutionError;
use serde_json::{Value as Json, json};

/// A picture that is saved under a prefix, and one that is shown.
fn saved(prefix: &str) -> Json {
    json!({
        "1": {"class_type": "EmptyImage", "inputs":
              {"width": 8, "height": 8, "batch_size": 2, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs":
              {"images": ["1", 0], "filename_prefix": prefix}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "4": {"class_type": "EmptyLatentImage", "inputs":
              {"width": 64, "height": 64, "batch_size": 1}},
        "5": {"class_type": "SaveLatent", "inputs":
              {"samples": ["4", 0], "filename_prefix": prefix}},
    })
}

#[test]
fn a_folder_that_cannot_be_is_an_error_before_anything_runs() {
    let mut harness = Harness::empty();
    fs::write(harness.path("output/file.png"), "x").unwrap();
    for prefix in ["file.png/x", "file.png/sub/x", "../x", "a\0b"] {
        for node in ["2", "5"] {
            match harness.try_run(&saved(prefix), node).unwrap_err() {
                ExecutionError::Invalid(invalid) => {
                    let problems = &invalid.node_errors[node];
                    assert_eq!(problems.errors[0].kind, "custom_validation_failed");
                    assert_eq!(problems.dependent_outputs, [node]);
                }
                other => panic!("{prefix}: {other}"),
            }
        }
    }
    assert_eq!(fs::read_dir(harness.path("output")).unwrap().count(), 1);
    // The folder of previews has nothing to do with it, until it is the one.
    harness.run(&saved("../x"), "3");
    fs::remove_dir_all(harness.path("temp")).unwrap();
    fs::write(harness.path("temp"), "x").unwrap();
    let error = harness.fail(&saved("x"), "3");
    assert!(error.contains("temp` is not a folder"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_no_folder() {
    let mut harness = Harness::empty();
    fs::remove_dir(harness.path("output")).unwrap();
    std::os::unix::fs::symlink("gone", harness.path("output")).unwrap();
    let error = harness.fail(&saved("x"), "2");
    assert!(error.contains("is a link to `gone`, which is missing"), "{error}");
}

#[test]
fn a_batch_is_numbered_and_leaves_nothing_else() {
    let mut harness = Harness::empty();
    fs::remove_dir(harness.path("output")).unwrap(); // it is made
    for _ in 0..2 {
        let report = harness.report(&saved("12:30 %width%"), "2").unwrap();
        assert_eq!(report.outputs["2"]["images"][0]["type"], "output");
    }
    let mut names: Vec<_> = fs::read_dir(harness.path("output"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    // The second run is that of the first, and has its result.
    assert_eq!(names, ["12:30 8_00001_.png", "12:30 8_00002_.png"]);
}
