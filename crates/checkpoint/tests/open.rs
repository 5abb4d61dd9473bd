//! Files written by PyTorch and by the `safetensors` crate, read back.
//!
//! The PyTorch files and what torch.load makes of them are from `tools/reference/make_pickles.py`.
//! All comparisons are of bits.

#![allow(clippy::unwrap_used)] // in the helpers too

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use distorch_checkpoint::Dtype;
use distorch_checkpoint::file::{Checkpoint, Format, OpenError};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    good: indexmap::IndexMap<String, Contents>,
    refused: indexmap::IndexMap<String, String>,
}

#[derive(Deserialize)]
struct Contents {
    metadata: indexmap::IndexMap<String, String>,
    tensors: Vec<Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    key: String,
    dtype: Dtype,
    shape: Vec<usize>,
    hex: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pickles")
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_pytorch_wrote_is_read_bit_for_bit() {
    let good = expected().good;
    assert!(good.len() >= 22, "the list of fixtures is whole");
    for (name, expected) in good {
        let opened = Checkpoint::open(&folder().join(&name)).unwrap();
        let legacy = name.contains("-legacy") || name == "storage-views.pt";
        let format = if legacy { Format::TorchLegacy } else { Format::TorchZip };
        assert_eq!(opened.format(), format, "{name}");
        let keys: Vec<_> = opened.tensors().map(|(key, _)| key).collect();
        let expected_keys: Vec<_> = expected.tensors.iter().map(|t| t.key.as_str()).collect();
        assert_eq!(keys, expected_keys, "{name}");
        assert_eq!(opened.metadata(), &expected.metadata, "{name}");
        for tensor in expected.tensors {
            let info = opened.get(&tensor.key).unwrap();
            let place = format!("{name}: {}", tensor.key);
            assert_eq!((info.dtype, &info.shape), (tensor.dtype, &tensor.shape), "{place}");
            let bytes = opened.bytes(&tensor.key).unwrap();
            assert_eq!(bytes.len() as u64, info.bytes(), "{place}");
            assert_eq!(hex(&bytes), tensor.hex, "{place}");
            let half = bytes.len() / 2;
            let mut copy = vec![0; bytes.len() - half];
            opened.read_into(&tensor.key, half as u64, &mut copy).unwrap();
            assert_eq!(hex(&copy), tensor.hex[2 * half..], "{place}, copied");
            let too_far = opened.read_into(&tensor.key, half as u64 + 1, &mut copy);
            assert!(copy.is_empty() || too_far.is_err(), "{place}");
        }
    }
}

/// A view is the tensor's bytes, and stays one whatever becomes of the file: no look ends the process, and
/// the check tells that what was seen is not what was opened.
#[cfg(target_os = "linux")]
#[test]
fn views_of_a_file_that_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.safetensors");
    let length = 1 << 20;
    let data: Vec<u8> = (0..length).map(|at: usize| (at / 4096) as u8 | 1).collect();
    let header =
        format!(r#"{{"a":{{"dtype":"U8","shape":[{length}],"data_offsets":[0,{length}]}}}}"#);
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    let open = || {
        std::fs::write(&path, &file).unwrap();
        Checkpoint::open(&path).unwrap()
    };
    let whole = open();
    let view = whole.view("a", 0, length).unwrap().unwrap();
    assert!(view[..] == data && whole.check().is_ok());
    let part = whole.view("a", 5000, 10).unwrap().unwrap();
    assert_eq!(part[..], data[5000..5010]);
    assert!(whole.view("a", 5000, length).is_err(), "beyond its end");
    assert!(whole.view("b", 0, 1).is_err());

    std::fs::File::options().write(true).open(&path).unwrap().set_len(300_000).unwrap();
    assert_eq!(view[299_000], data[299_000 - 100], "a page that is still there");
    assert_eq!(view[length - 1], 0, "one that is gone");
    assert_eq!((part[0], view[600_000]), (data[5000], 0));
    let changed = |error: OpenError| {
        let error = error.to_string();
        assert!(
            error.contains("large.safetensors") && error.contains("changed on disk"),
            "{error}"
        );
    };
    changed(whole.check().unwrap_err());
    changed(whole.view("a", 0, 10).unwrap_err());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(view[400_000..].iter().all(|&byte| byte == 0)));
        }
    });
    drop((view, part));

    // Another file of the same length, written over the first, and back again: a look saw something else.
    let written = open();
    let view = written.view("a", 0, length).unwrap().unwrap();
    std::fs::write(&path, vec![7; file.len()]).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    assert_eq!(view[9], 7);
    changed(written.check().unwrap_err());

    // Replaced by a rename: the old file stays open.
    let replaced = open();
    let view = replaced.view("a", 0, length).unwrap().unwrap();
    let other = dir.path().join("other");
    std::fs::write(&other, b"something else").unwrap();
    std::fs::rename(&other, &path).unwrap();
    assert!(view[..] == data && replaced.check().is_ok());
    // What outlives its checkpoint can still be looked at.
    drop(replaced);
    assert_eq!(view[70_000], data[70_000]);
}

/// Faults that are not of a checkpoint's map end the process, as they did before.
#[cfg(target_os = "linux")]
#[test]
fn other_faults_are_not_hidden() {
    use std::os::unix::process::ExitStatusExt;

    const CHILD: &str = "DISTORCH_TEST_FAULT";
    let dir = tempfile::tempdir().unwrap();
    if std::env::var_os(CHILD).is_some() {
        let path = dir.path().join("other");
        std::fs::write(&path, vec![1; 1 << 16]).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        // SAFETY: none: the look below is the fault that this is about.
        let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
        let checkpoint = Checkpoint::open(&folder().join("floats.pt")).unwrap();
        file.set_len(0).unwrap();
        panic!("{} was seen beside {checkpoint:?}", map[40_000]);
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "other_faults_are_not_hidden"]).env(CHILD, "1");
    let output = child.output().unwrap();
    assert_eq!(output.status.signal(), Some(7), "SIGBUS: {output:?}");
}

/// A file that is cut short, written over or replaced while it is open: reading ends in an error
/// or in what was there, never in a signal.
#[test]
fn a_file_that_changes_while_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pt");
    let open = || {
        std::fs::copy(folder().join("floats.pt"), &path).unwrap();
        Checkpoint::open(&path).unwrap()
    };
    let read = |file: &Checkpoint| {
        let mut to = vec![0; file.get("a").unwrap().bytes() as usize];
        file.read_into("a", 0, &mut to).map(|()| to).map_err(|error| error.to_string())
    };
    let whole = open();
    let before = read(&whole).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
    let error = read(&whole).unwrap_err();
    assert!(error.contains("a.pt") && error.contains("changed on disk"), "{error}");

    let replaced = open();
    let other = dir.path().join("other");
    std::fs::write(&other, b"something else").unwrap();
    if std::fs::rename(&other, &path).is_ok() {
        assert_eq!(read(&replaced).unwrap(), before, "the old file stays open");
    }

    let written = open();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10);
    file.set_modified(later).unwrap();
    assert!(read(&written).unwrap_err().contains("changed on disk"));
}

#[test]
fn what_is_contiguous_is_not_copied() {
    let open = |name: &str| Checkpoint::open(&folder().join(name)).unwrap();
    let borrowed = |file: &Checkpoint, key: &str| match file.bytes(key).unwrap() {
        Cow::Borrowed(_) => true,
        Cow::Owned(_) => false,
    };
    for file in [open("views.ckpt"), open("views-legacy.ckpt")] {
        for key in ["whole", "shared", "offset", "scalar", "empty_view"] {
            assert!(borrowed(&file, key), "{key}");
        }
        assert!(!borrowed(&file, "transposed"));
        let address = |key: &str| file.bytes(key).unwrap().as_ptr();
        assert_eq!(address("whole"), address("shared"), "shared storages stay shared");
    }
    assert!(borrowed(&open("floats.pt"), "a"));
    assert!(!borrowed(&open("deflated.pt"), "a"));
    assert!(!borrowed(&open("big-endian.pt"), "a"));
}

#[test]
fn what_is_refused_is_named() {
    for (name, reason) in expected().refused {
        let message = Checkpoint::open(&folder().join(&name)).unwrap_err().to_string();
        assert!(message.contains(&reason), "{name}: {message}");
        assert!(message.contains(&name), "the message names the file: {message}");
    }
}

#[test]
fn every_dtype_of_safetensors_is_read_back() {
    let dtype = |dtype: Dtype| {
        let name = format!("\"{dtype}\"");
        serde_json::from_str::<safetensors::Dtype>(&name).unwrap()
    };
    let data: Vec<u8> = (0..6 * 8).map(|i| (i * 37 % 251) as u8).collect();
    let views: Vec<(String, safetensors::tensor::TensorView)> = Dtype::ALL
        .into_iter()
        .flat_map(|d| {
            let view = |shape: &[usize], elements: usize| {
                let bytes = &data[..elements * d.size()];
                safetensors::tensor::TensorView::new(dtype(d), shape.to_vec(), bytes).unwrap()
            };
            [
                (format!("{d}.matrix"), view(&[2, 3], 6)),
                (format!("{d}.scalar"), view(&[], 1)),
                (format!("{d}.empty"), view(&[0, 3], 0)),
            ]
        })
        .collect();
    let metadata = [("format".to_owned(), "pt".to_owned()), ("t\n\"".to_owned(), "ü".to_owned())];
    let metadata = Some(metadata.into_iter().collect());
    let written = safetensors::serialize(views.iter().map(|(k, v)| (k, v)), metadata).unwrap();

    let folder = tempfile::tempdir().unwrap();
    // The extension doesn't matter.
    let path = folder.path().join("model.ckpt");
    std::fs::write(&path, &written).unwrap();
    let opened = Checkpoint::open(&path).unwrap();
    assert_eq!(opened.format(), Format::Safetensors);
    assert_eq!(opened.file_len(), written.len() as u64);
    assert_eq!(opened.len(), views.len());
    assert_eq!(opened.metadata()["t\n\""], "ü");
    for (key, view) in &views {
        let info = opened.get(key).unwrap();
        assert_eq!(info.dtype.to_string(), view.dtype().to_string());
        assert_eq!(info.shape, view.shape());
        let bytes = opened.bytes(key).unwrap();
        assert!(matches!(bytes, Cow::Borrowed(_)));
        assert_eq!(&*bytes, view.data(), "{key}");
    }
}

#[test]
fn parts_have_shapes_and_no_data() {
    let part = |key: &str| (key.to_owned(), Dtype::F16, vec![320, 4, 3, 3]);
    let parts = Checkpoint::from_parts("sd15", Default::default(), [part("a"), part("b")]).unwrap();
    assert_eq!(parts.format(), Format::Parts);
    assert_eq!(parts.get("b").unwrap().bytes(), 320 * 4 * 9 * 2);
    let message = parts.bytes("a").unwrap_err().to_string();
    assert!(message.contains("sd15: tensor `a`: this checkpoint was made of keys"), "{message}");
    let message = parts.bytes("c").unwrap_err().to_string();
    assert!(message.contains("has no tensor `c`"), "{message}");
    assert!(Checkpoint::from_parts("x", Default::default(), [part("a"), part("a")]).is_err());
    let huge = ("a".to_owned(), Dtype::F16, vec![usize::MAX, 2]);
    assert!(Checkpoint::from_parts("x", Default::default(), [huge]).is_err());
}

#[test]
fn what_is_no_file_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("is a directory"), "{message}");
    let message = Checkpoint::open(&folder.path().join("none")).unwrap_err().to_string();
    assert!(message.contains("cannot be read"), "{message}");
    let page = folder.path().join("model.safetensors");
    std::fs::write(&page, "<!DOCTYPE html><html>404</html>").unwrap();
    let message = Checkpoint::open(&page).unwrap_err().to_string();
    assert!(message.contains("model.safetensors: is not a checkpoint but a web page"), "{message}");
}

#[test]
fn a_checkpoint_goes_to_other_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Checkpoint>();
}
