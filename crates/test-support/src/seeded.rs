//! Weights that need no file: see `tools/reference/seeded.py`, which states the rule and makes the
//! same bits.

/// The 64-bit FNV-1a hash of bytes.
pub fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// Values in [-1, 1).
pub fn uniform(name: &str, count: usize, seed: u64) -> Vec<f32> {
    let state = fnv1a64(name.as_bytes()) ^ seed;
    let value = |i: u64| {
        let z = state.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let z = z ^ (z >> 31);
        (z >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..count as u64).map(value).collect()
}

/// The values of the parameter `name`.
pub fn weight(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let (offset, scale) = match shape {
        _ if name.ends_with("pos_embed") => (0.0, 1.0),
        [] | [_] if name.ends_with("bias") => (0.0, 0.1),
        [] | [_] => (1.0, 0.1),
        [_, rest @ ..] => (0.0, (3.0 / rest.iter().product::<usize>() as f64).sqrt() as f32),
    };
    let mut values = uniform(name, shape.iter().product(), seed);
    values.iter_mut().for_each(|value| *value = offset + scale * *value);
    values
}
