//! Opening a 7 GB file with as many tensors as SDXL has.
//!
//! The file is sparse: its data is never read, so it need not be there.

#![allow(missing_docs, clippy::panic)] // criterion_group makes a public function

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use distorch_checkpoint::file::Checkpoint;

/// Tensors of SDXL's base checkpoint.
const TENSORS: u64 = 2_515;
/// Bytes of each: 1,664 × 832 in F16.
const BYTES: u64 = 1_664 * 832 * 2;

fn write_sparse(path: &Path) -> std::io::Result<()> {
    let mut header = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    for i in 0..TENSORS {
        let (start, end) = (i * BYTES, (i + 1) * BYTES);
        let _ = write!(
            header,
            r#","model.diffusion_model.input_blocks.{}.1.transformer_blocks.{}.attn1.to_q.{i}.weight":{{"dtype":"F16","shape":[1664,832],"data_offsets":[{start},{end}]}}"#,
            i % 9,
            i % 10,
        );
    }
    header.push('}');
    let mut file = std::fs::File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.set_len(8 + header.len() as u64 + TENSORS * BYTES)
}

fn open(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("no temporary folder: {e}"));
    let path = folder.path().join("sdxl.safetensors");
    write_sparse(&path).unwrap_or_else(|e| panic!("no sparse file: {e}"));
    criterion.bench_function("open 7 GB safetensors, 2,515 tensors", |bencher| {
        bencher.iter(|| black_box(Checkpoint::open(&path)).map(|opened| opened.len()));
    });
}

criterion_group!(benches, open);
criterion_main!(benches);
