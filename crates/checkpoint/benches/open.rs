//! Opening a 7 GB file with as many tensors as SDXL has.
//!
//! The file is sparse: its data is never read, so it need not be there.

#![allow(missing_docs, clippy::panic)] // criterion_group makes a public function

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use distorch_checkpoint::Dtype;
use distorch_checkpoint::file::Checkpoint;
use distorch_test_support::model_file::write_sparse;

/// Tensors of SDXL's base checkpoint.
const TENSORS: usize = 2_515;
/// The shape of each, in F16.
const SHAPE: [usize; 2] = [1_664, 832];

fn open(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("no temporary folder: {e}"));
    let path = folder.path().join("sdxl.safetensors");
    let key = |i: usize| {
        let (block, of) = (i % 9, i % 10);
        format!(
            "model.diffusion_model.input_blocks.{block}.1.transformer_blocks.{of}.attn1.to_q.{i}.weight"
        )
    };
    let keys: Vec<String> = (0..TENSORS).map(key).collect();
    let tensors = keys.iter().map(|key| (key.as_str(), Dtype::F16, &SHAPE[..]));
    write_sparse(&path, &[("format", "pt")], tensors);
    criterion.bench_function("open 7 GB safetensors, 2,515 tensors", |bencher| {
        bencher.iter(|| black_box(Checkpoint::open(&path)).map(|opened| opened.len()));
    });
}

criterion_group!(benches, open);
criterion_main!(benches);
