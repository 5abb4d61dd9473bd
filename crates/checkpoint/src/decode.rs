//! From the stored dtypes to `f32`.
//!
//! The 8-bit formats are those of Micikevicius et al., <https://arxiv.org/abs/2209.05433>: E4M3
//! without infinities (PyTorch's `float8_e4m3fn`) and E5M2 with IEEE's special values.

use std::sync::LazyLock;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::dtype::Dtype;

/// Elements that one thread converts at a time: enough to be worth a task, few enough to share.
const CHUNK: usize = 1 << 18;
/// Elements that are converted in a row: they stay in the processor's nearest cache.
const RUN: usize = 256;

/// The values as `f32`, from little-endian bytes in the stored dtype. Bytes beyond the last whole element
/// are left out.
pub fn to_f32(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F64 => convert(bytes, |b: [u8; 8]| f64::from_le_bytes(b) as f32),
        Dtype::F32 => convert(bytes, f32::from_le_bytes),
        Dtype::F16 => halves(bytes),
        Dtype::BF16 => convert(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F8E4M3 => look_up(bytes, &E4M3),
        Dtype::F8E5M2 => look_up(bytes, &E5M2),
        Dtype::I64 => convert(bytes, |b: [u8; 8]| i64::from_le_bytes(b) as f32),
        Dtype::I32 => convert(bytes, |b: [u8; 4]| i32::from_le_bytes(b) as f32),
        Dtype::I16 => convert(bytes, |b: [u8; 2]| f32::from(i16::from_le_bytes(b))),
        Dtype::I8 => convert(bytes, |[b]| f32::from(b as i8)),
        Dtype::U8 => convert(bytes, |[b]| f32::from(b)),
        Dtype::Bool => convert(bytes, |[b]| f32::from(u8::from(b != 0))),
    }
}

/// The values of all 256 bytes of an 8-bit float dtype; `None` for another dtype.
pub fn fp8_lookup(dtype: Dtype) -> Option<&'static [f32; 256]> {
    match dtype {
        Dtype::F8E4M3 => Some(&E4M3),
        Dtype::F8E5M2 => Some(&E5M2),
        _ => None,
    }
}

fn convert<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32 + Sync) -> Vec<f32> {
    fill(bytes, |from: &[[u8; N]], to| {
        for (value, &element) in to.iter_mut().zip(from) {
            *value = read(element);
        }
    })
}

/// As [`convert`] of `f16`, many at a time: the processor's instruction for it takes eight, and
/// asking whether there is one takes longer than one conversion.
fn halves(bytes: &[u8]) -> Vec<f32> {
    fill(bytes, |from: &[[u8; 2]], to| {
        let mut run = [f16::ZERO; RUN];
        let run = &mut run[..to.len()];
        for (half, &bytes) in run.iter_mut().zip(from) {
            *half = f16::from_le_bytes(bytes);
        }
        run.convert_to_f32_slice(to);
    })
}

/// The values that `convert` writes, for runs of elements; into memory that is not cleared first, which would take
/// about as long.
fn fill<const N: usize>(bytes: &[u8], convert: impl Fn(&[[u8; N]], &mut [f32]) + Sync) -> Vec<f32> {
    let (elements, _) = bytes.as_chunks::<N>();
    let mut values = Vec::with_capacity(elements.len());
    let room = &mut values.spare_capacity_mut()[..elements.len()];
    room.par_chunks_mut(CHUNK).zip(elements.par_chunks(CHUNK)).for_each(|(to, from)| {
        let mut run = [0.0; RUN];
        for (to, from) in to.chunks_mut(RUN).zip(from.chunks(RUN)) {
            let run = &mut run[..from.len()];
            convert(from, run);
            for (place, &mut value) in to.iter_mut().zip(run) {
                place.write(value);
            }
        }
    });
    // SAFETY: as many elements have room, and each was written: the chunks and runs of both sides are as
    // long as each other.
    unsafe { values.set_len(elements.len()) };
    values
}

fn look_up(bytes: &[u8], values: &[f32; 256]) -> Vec<f32> {
    convert(bytes, |[byte]| values[usize::from(byte)])
}

static E4M3: LazyLock<[f32; 256]> = LazyLock::new(|| {
    std::array::from_fn(|byte| match byte & 0x7f {
        0x7f => f32::NAN,
        magnitude => sign(byte) * small_float(magnitude, 3, 7),
    })
});

static E5M2: LazyLock<[f32; 256]> = LazyLock::new(|| {
    std::array::from_fn(|byte| match byte & 0x7f {
        0x7c => sign(byte) * f32::INFINITY,
        0x7d.. => f32::NAN,
        magnitude => sign(byte) * small_float(magnitude, 2, 15),
    })
});

fn sign(byte: usize) -> f32 {
    if byte & 0x80 == 0 { 1.0 } else { -1.0 }
}

/// The value of exponent and mantissa bits without a sign; every such value is exact in `f32`.
fn small_float(bits: usize, mantissa_bits: i32, bias: i32) -> f32 {
    let mantissa = (bits & ((1 << mantissa_bits) - 1)) as f32;
    let exponent = (bits >> mantissa_bits) as i32;
    let scale = 2_f32.powi(-mantissa_bits);
    match exponent {
        0 => mantissa * scale * 2_f32.powi(1 - bias),
        _ => (1.0 + mantissa * scale) * 2_f32.powi(exponent - bias),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All 256 values of each format as PyTorch converts them (`tools/reference/make_float8.py`).
    const FLOAT8: &str = include_str!("../tests/fixtures/float8.json");

    #[test]
    fn the_8_bit_formats_are_pytorchs() {
        let expected: serde_json::Value = serde_json::from_str(FLOAT8).unwrap();
        let bytes: Vec<u8> = (0..=255).collect();
        for dtype in [Dtype::F8E4M3, Dtype::F8E5M2] {
            let values = to_f32(&bytes, dtype);
            for (byte, value) in values.iter().enumerate() {
                let bits = expected[dtype.name()][byte].as_u64().unwrap() as u32;
                let same =
                    value.to_bits() == bits || (value.is_nan() && f32::from_bits(bits).is_nan());
                assert!(same, "{dtype} {byte:#x}: {value} is not {}", f32::from_bits(bits));
            }
        }
    }

    #[test]
    fn fp8_values_are_those_of_the_format() {
        // Extremes of the OCP 8-bit floating point specification, table 1 (E4M3).
        let e4m3 = |byte| to_f32(&[byte], Dtype::F8E4M3)[0];
        assert_eq!(e4m3(0x7e), 448.0);
        assert_eq!(e4m3(0x08), 2f32.powi(-6));
        assert_eq!(e4m3(0x01), 2f32.powi(-9));
        assert_eq!(e4m3(0xb8), -1.0);
        assert!(e4m3(0x7f).is_nan());
    }

    #[test]
    fn every_dtype_reads_its_own_numbers() {
        let cases: [(Dtype, Vec<u8>); 9] = [
            (Dtype::F64, (-2.5_f64).to_le_bytes().to_vec()),
            (Dtype::F32, (-2.5_f32).to_le_bytes().to_vec()),
            (Dtype::F16, f16::from_f32(-2.5).to_le_bytes().to_vec()),
            (Dtype::BF16, bf16::from_f32(-2.5).to_le_bytes().to_vec()),
            (Dtype::I64, (-7_i64).to_le_bytes().to_vec()),
            (Dtype::I32, (-7_i32).to_le_bytes().to_vec()),
            (Dtype::I16, (-7_i16).to_le_bytes().to_vec()),
            (Dtype::I8, (-7_i8).to_le_bytes().to_vec()),
            (Dtype::U8, vec![200]),
        ];
        for (dtype, bytes) in cases {
            let expected = match dtype {
                Dtype::U8 => 200.0,
                _ if dtype.is_float() => -2.5,
                _ => -7.0,
            };
            assert_eq!(to_f32(&bytes, dtype), [expected], "{dtype}");
        }
        assert_eq!(to_f32(&[0, 1, 7], Dtype::Bool), [0.0, 1.0, 1.0]);
    }

    #[test]
    fn every_half_is_the_one_of_its_bits() {
        let bytes: Vec<u8> = (0..=u16::MAX).chain(0..100).flat_map(u16::to_le_bytes).collect();
        for (bits, value) in (0..=u16::MAX).chain(0..100).zip(to_f32(&bytes, Dtype::F16)) {
            let expected = f16::from_bits(bits).to_f32();
            let same = value.to_bits() == expected.to_bits();
            assert!(same || (value.is_nan() && expected.is_nan()), "{bits:#x}: {value}");
        }
    }

    #[test]
    fn many_elements_keep_their_order() {
        let numbers: Vec<f32> = (0..3 * CHUNK + 5).map(|i| i as f32).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(to_f32(&bytes, Dtype::F32), numbers);
    }
}
