//! Rounding to 8-bit floats, as PyTorch converts: to the nearest, of two as near to the even code.

use rayon::prelude::*;

use crate::dtype::Dtype;

/// Elements that one thread converts at a time.
const CHUNK: usize = 1 << 16;

/// What rounding needs to know of an 8-bit format.
#[derive(Clone, Copy)]
struct Format {
    mantissa_bits: u32,
    /// Exponent of the smallest normal number.
    least_exponent: i32,
    /// The code that stands for what is too large.
    overflow: u32,
}

/// The largest number stands for what is too large: there is no infinity.
const E4M3: Format = Format { mantissa_bits: 3, least_exponent: -6, overflow: 0x7e };
const E5M2: Format = Format { mantissa_bits: 2, least_exponent: -14, overflow: 0x7c };

const NAN: u32 = 0x7f;

/// The values in [`Dtype::F8E4M3`] or [`Dtype::F8E5M2`], a byte each. Values beyond the largest finite number become
/// that in E4M3, which has no infinity, and infinite in E5M2. Any other dtype is taken for E4M3.
pub fn to_fp8(values: &[f32], dtype: Dtype) -> Vec<u8> {
    let format = if dtype == Dtype::F8E5M2 { E5M2 } else { E4M3 };
    let mut codes = vec![0; values.len()];
    codes.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(codes, values)| {
        for (code, value) in codes.iter_mut().zip(values) {
            *code = format.code(*value);
        }
    });
    codes
}

impl Format {
    fn code(self, value: f32) -> u8 {
        let bits = value.to_bits();
        let sign = (bits >> 31) << 7;
        let magnitude = bits & 0x7fff_ffff;
        let code = if value.is_nan() {
            NAN
        } else if magnitude < self.least_normal() {
            // Codes below the smallest normal number count steps. The product is exact; the largest is its code.
            let step = (self.mantissa_bits as i32 - self.least_exponent) as f32;
            (value.abs() * step.exp2()).round_ties_even() as u32
        } else {
            // Infinity would carry into the sign's bit.
            let magnitude = magnitude.min(0x7f00_0000);
            let dropped = 23 - self.mantissa_bits;
            let even = (magnitude >> dropped) & 1;
            let rounded = (magnitude + (1 << (dropped - 1)) - 1 + even) >> dropped;
            let least = (127 + self.least_exponent - 1) as u32;
            (rounded - (least << self.mantissa_bits)).min(self.overflow)
        };
        (sign | code) as u8
    }

    /// The bits of the smallest normal number as `f32`.
    const fn least_normal(self) -> u32 {
        ((127 + self.least_exponent) as u32) << 23
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::fp8_lookup;

    /// The nearest finite number of a format by brute force, of two as near the one with the even code.
    fn nearest(value: f32, dtype: Dtype, finite: usize) -> u8 {
        let table = fp8_lookup(dtype).unwrap();
        let distance = |code: usize| (f64::from(table[code]) - f64::from(value.abs())).abs();
        let best = (0..finite).min_by(|&a, &b| {
            distance(a).total_cmp(&distance(b)).then_with(|| (a % 2).cmp(&(b % 2)))
        });
        best.unwrap() as u8 | (u8::from(value.is_sign_negative()) << 7)
    }

    #[test]
    fn values_go_to_the_nearest() {
        for (dtype, finite, largest) in
            [(Dtype::F8E4M3, 0x7f, 448.0), (Dtype::F8E5M2, 0x7c, 57344.0)]
        {
            let table = fp8_lookup(dtype).unwrap();
            let mut values: Vec<f32> = table.iter().copied().filter(|v| v.is_finite()).collect();
            // Half way between neighbours, and a little to both sides of it.
            let halves: Vec<f32> =
                (1..finite).map(|at| (table[at - 1] + table[at]) / 2.0).collect();
            values.extend(halves.iter().flat_map(|&half| {
                let bits = half.to_bits();
                [half, -half, f32::from_bits(bits - 1), f32::from_bits(bits + 1)]
            }));
            values.extend((0..9999).map(|i| largest * (i as f32 / 9999.0).powi(5)));
            let codes = to_fp8(&values, dtype);
            for (value, code) in values.iter().zip(codes) {
                assert_eq!(code, nearest(*value, dtype, finite), "{value} as {dtype}");
            }
        }
    }

    /// What `torch.tensor([...]).to(dtype).view(torch.uint8)` gives.
    #[test]
    fn what_is_too_large_is_as_in_pytorch() {
        let values = [464.0, 464.1, 1e9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        assert_eq!(to_fp8(&values, Dtype::F8E4M3), [0x7e, 0x7e, 0x7e, 0x7e, 0xfe, 0x7f]);
        let values = [61439.0, 61440.0, 1e9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        assert_eq!(to_fp8(&values, Dtype::F8E5M2), [0x7b, 0x7c, 0x7c, 0x7c, 0xfc, 0x7f]);
    }
}
