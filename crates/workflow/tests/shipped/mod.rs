//! Pictures of the shipped model, and what they show.
#![allow(dead_code)] // each test file uses its own part

pub mod judge;

/// The values of bytes.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}
