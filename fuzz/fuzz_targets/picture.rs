//! Any bytes as a picture: an error, or values of 0 to 1 in the shape that it says; and the workflow
//! that it carries.

#![no_main]

use std::io::Cursor;

use distorch_pipeline::image::decode::decode;
use distorch_pipeline::image::embedded::Embedded;
use libfuzzer_sys::fuzz_target;

/// Pixels: small pictures have the same ways through a decoder.
const MOST: u64 = 1 << 16;

fuzz_target!(|data: &[u8]| {
    if let Ok(loaded) = decode(&mut Cursor::new(data), MOST) {
        let [frames, height, width, channels] = loaded.colours.shape();
        assert!((frames * height * width) as u64 <= MOST && channels == 3);
        let mask = loaded.mask();
        let values = loaded.colours.values().iter().chain(mask.values());
        assert!(values.into_iter().all(|value| (0.0..=1.0).contains(value)));
    }
    let _ = Embedded::read(&mut Cursor::new(data));
});
