//! What the backend learns on `vulkan:0` is on disk for the next run, and does no harm there. Where the environment
//! promises no Vulkan driver, nothing is tried.
//!
//! CubeCL reads its folders once a process, so each run is one: this program, which computes where a variable says so.

#![cfg(feature = "vulkan")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use distorch_runtime::caches::{self, Caches, VARIABLE};
use distorch_runtime::tensor::{Tensor, TensorData};
use distorch_runtime::{Device, devices};

/// Set for a run of its own.
const RUN: &str = "DISTORCH_TEST_CACHES_RUN";

/// Computes, and prints the bits of the result.
#[test]
fn a_run_of_its_own() {
    let Some(expected) = std::env::var_os(RUN) else { return };
    let survey = devices::survey();
    let kept = caches::keep(&survey);
    assert_eq!(matches!(kept, Caches::Kept { .. }), expected == "kept", "{kept:?}");
    let vulkan =
        survey.devices.iter().find(|found| found.info.id.to_string() == "vulkan:0").unwrap();
    let device: Device = devices::open(&vulkan.info).unwrap();
    let values =
        |seed: usize| (0..96 * 96).map(move |i| ((i * seed) % 17) as f32 - 8.0).collect::<Vec<_>>();
    let matrix = |seed| Tensor::<2>::from_data(TensorData::new(values(seed), [96, 96]), &device);
    let product = matrix(3).matmul(matrix(5)).exp().sum_dim(1);
    let bits: Vec<u32> = product.into_data().iter::<f32>().map(f32::to_bits).collect();
    caches::seal();
    println!("result {bits:?}");
}

/// A run with its caches below this path: what it computed.
fn run(caches: &Path, expected: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_run_of_its_own", "--nocapture"])
        .env(VARIABLE, caches)
        .env(RUN, expected)
        .output()
        .unwrap();
    let (out, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{errors}");
    out.lines()
        .find(|line| line.contains("result ["))
        .unwrap_or_else(|| panic!("{out}\n{errors}"))
        .to_owned()
}

/// Every file below the folder, with what is in it.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(found.insert(path.clone(), std::fs::read(path).unwrap())),
            }
        }
    }
    found
}

#[test]
fn the_second_run_uses_what_the_first_one_learned() {
    if std::env::var_os("DISTORCH_EXPECT_VULKAN").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let caches = folder.path().join("made/by/the/run");
    let first = run(&caches, "kept");
    let learned = files(&caches);
    let largest = |part: &str| {
        let named = learned.iter().filter(|(path, _)| path.to_string_lossy().contains(part));
        named.map(|(_, bytes)| bytes.len()).max().unwrap_or(0)
    };
    assert!(largest("autotune") > 0, "{:?}", learned.keys());
    assert!(largest("kernels-") > 1000, "{:?}", learned.keys());

    assert_eq!(run(&caches, "kept"), first);
    let after = files(&caches);
    assert!(after.keys().eq(learned.keys()), "{:?}", after.keys());
    for (path, bytes) in &learned {
        // The seals are written anew, with the same in them.
        assert!(after[path] == *bytes, "the second run found something new: {}", path.display());
    }

    // Every file spoilt, in its middle.
    for (path, bytes) in &learned {
        let mut spoilt = bytes.clone();
        let half = spoilt.len() / 2;
        spoilt.iter_mut().skip(half).take(40).for_each(|byte| *byte ^= 0x5A);
        std::fs::write(path, spoilt).unwrap();
    }
    assert_eq!(run(&caches, "kept"), first, "spoilt caches change nothing");
    // Every file without its end, as a run leaves it that is killed.
    for (path, bytes) in files(&caches) {
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }
    assert_eq!(run(&caches, "kept"), first, "nor do halves of them");

    let file = folder.path().join("file");
    std::fs::write(&file, b"no folder").unwrap();
    assert_eq!(run(&file, "off"), first, "a folder that can't be made is done without");
    assert_eq!(run(Path::new(""), "off"), first, "so is none");
}
