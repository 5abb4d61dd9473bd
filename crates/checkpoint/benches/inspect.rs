//! What `inspect` does with a 7 GB SDXL-shaped file: open, recognise, split.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers outside `#[test]`

use criterion::{Criterion, criterion_group, criterion_main};
use distorch_checkpoint::Dtype;
use distorch_checkpoint::family::recognise;
use distorch_checkpoint::file::Checkpoint;
use distorch_test_support::key_list::KeyList;

fn inspect(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sdxl.safetensors");
    KeyList::load("sdxl-base").write_sparse(&path, Dtype::F16, &[]);

    criterion.bench_function("inspect SDXL: open and recognise", |bencher| {
        bencher.iter(|| recognise(&Checkpoint::open(&path).unwrap()).unwrap());
    });
    let open = Checkpoint::open(&path).unwrap();
    criterion.bench_function("inspect SDXL: recognise", |bencher| {
        bencher.iter(|| recognise(&open).unwrap());
    });
}

criterion_group!(benches, inspect);
criterion_main!(benches);
