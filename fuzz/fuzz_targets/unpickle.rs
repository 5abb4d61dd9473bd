//! Any bytes as a pickle, as a file of torch.save, and as parts of such files.

#![no_main]

use distorch_checkpoint::file::{Checkpoint, pickle};
use libfuzzer_sys::fuzz_target;

/// The three pickles that a legacy file starts with.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\
    \x80\x02M\xe9\x03.\x80\x02}.";

fuzz_target!(|data: &[u8]| {
    let _ = pickle::read(data);
    read_all(data.to_vec());
    read_all([LEGACY, data].concat());
    read_all(archive(&[("a/data.pkl", data), ("a/data/0", &[7; 64])]));
});

/// Opens a file and reads each of its tensors.
fn read_all(file: Vec<u8>) {
    let Ok(opened) = Checkpoint::from_bytes("fuzz.ckpt", file) else { return };
    // One large tensor may be named many times: some of them will do.
    for (key, info) in opened.tensors().filter(|(_, info)| info.bytes() < 1 << 20).take(16) {
        if let Ok(bytes) = opened.bytes(key) {
            assert_eq!(bytes.len() as u64, info.bytes());
        }
    }
}

/// A zip archive of stored entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = file.len() as u32;
        let size = (data.len() as u32).to_le_bytes();
        let name_len = (name.len() as u16).to_le_bytes();
        // Version, flags, method, time, date, CRC: none of which is looked at.
        let common = [&[0; 14][..], &size, &size, &name_len, &[0; 2]].concat();
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), data].concat());
        let tail = [&[0; 10][..], &offset.to_le_bytes(), name.as_bytes()].concat();
        directory.extend([b"PK\x01\x02\0\0", &common[..], &tail].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (size, offset) = (directory.len() as u32, file.len() as u32);
    file.extend(directory);
    let end = [&[0; 4][..], &count, &count, &size.to_le_bytes(), &offset.to_le_bytes(), &[0; 2]];
    file.extend([b"PK\x05\x06".to_vec(), end.concat()].concat());
    file
}
