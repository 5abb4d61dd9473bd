//! What a checkpoint keeps in memory once its data was read.
//!
//! The one test of its process, which measures the process.

#![allow(clippy::unwrap_used)] // in the helper too
#![cfg(target_os = "linux")]

use distorch_checkpoint::Checkpoint;

/// Bytes of mapped files in this process's memory.
fn mapped() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn released_data_leaves_memory_and_comes_back_the_same() {
    const SIZE: usize = 32 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("two.safetensors");
    let data: Vec<u8> = (0..2 * SIZE).map(|i| (i / 4096) as u8).collect();
    let entry = |start: usize| serde_json::json!({"dtype": "U8", "shape": [SIZE], "data_offsets": [start, start + SIZE]});
    let header = serde_json::json!({"a": entry(0), "b": entry(SIZE)}).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(&data);
    std::fs::write(&path, file).unwrap();

    let checkpoint = Checkpoint::open(&path).unwrap();
    let same = |key: &str, from: usize| {
        assert!(*checkpoint.bytes(key).unwrap() == data[from..from + SIZE], "{key}");
    };
    let before = mapped();
    same("a", 0);
    same("b", SIZE);
    assert!(mapped() - before > SIZE as u64 * 19 / 10, "both were read");
    checkpoint.release("b");
    let left = mapped() - before;
    assert!(left < SIZE as u64 * 11 / 10, "{left} bytes are left of one tensor of {SIZE}");
    checkpoint.release("no such tensor");
    same("b", SIZE);
    same("a", 0);
}
