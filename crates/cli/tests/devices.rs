//! `distorch devices`.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{json, refused, stdout};

#[test]
fn the_host_is_always_there() {
    let survey = json(&["devices", "--json"]);
    let devices = survey["devices"].as_array().unwrap();
    let cpu = devices.last().unwrap();
    assert_eq!(cpu["id"], "cpu");
    assert_eq!(cpu["simulated"], false);
    let (total, free) = (cpu["total"].as_u64().unwrap(), cpu["free"].as_u64().unwrap());
    assert!(total > 0 && free <= total);
    assert!(cpu["dtypes"].as_array().unwrap().contains(&"f32".into()));
}

#[test]
fn simulated_devices_are_marked_and_come_first() {
    let args = ["devices", "--simulate", "cuda:1=6GiB@12GB/s, cuda:0=8GiB"];
    let text = stdout(&args);
    let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
    assert!(line("cuda:0").contains("(simulated)") && line("cuda:0").contains("8.00 GiB"));
    assert!(line("cuda:1").contains("12 GB/s"));
    assert!(!line("cpu").contains("cpu (simulated)"));

    let survey = json(&[&args[..], &["--json"]].concat());
    let ids: Vec<_> =
        survey["devices"].as_array().unwrap().iter().map(|d| d["id"].as_str().unwrap()).collect();
    let position = |id: &str| ids.iter().position(|&found| found == id).unwrap();
    assert!(position("cuda:0") < position("cuda:1") && position("cuda:1") < position("cpu"));
    assert_eq!(survey["devices"][position("cuda:1")]["bandwidth"], 12_000_000_000_u64);
}

#[test]
fn simulated_memory_of_the_host() {
    let survey = json(&["devices", "--simulate", "cpu=2GiB", "--json"]);
    let cpu = survey["devices"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&cpu["total"], &cpu["simulated"]), (&(2_u64 << 30).into(), &true.into()));
}

#[test]
fn a_bad_declaration_is_refused_with_its_place() {
    let error = refused(&["devices", "--simulate", "cuda:0=8GiB,cuda:1=lots"]);
    assert!(error.contains("--simulate") && error.contains("entry 2"), "{error}");
}
