//! Any bytes as a safetensors file: an error or tensors whose data is all there.

#![no_main]

use distorch_checkpoint::file::{Checkpoint, safetensors};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = safetensors::read_header(data) {
        let bytes: u64 = header.tensors.values().map(|info| info.bytes()).sum();
        assert!(bytes <= data.len() as u64, "tensors share bytes or reach out of the file");
    }
    // Behind a true length, the fuzzer's bytes get to the JSON.
    let mut framed = (data.len() as u64).to_le_bytes().to_vec();
    framed.extend_from_slice(data);
    let _ = safetensors::read_header(&framed);
    if let Ok(opened) = Checkpoint::from_bytes("fuzz.safetensors", data.to_vec()) {
        for (key, info) in opened.tensors() {
            let bytes = opened.bytes(key).map(|bytes| bytes.len() as u64);
            assert!(bytes.is_ok_and(|bytes| bytes == info.bytes()));
        }
    }
});
