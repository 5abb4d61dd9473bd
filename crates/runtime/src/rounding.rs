//! Stochastic rounding: values go to one of the two neighbours in a coarser dtype by chance, nearer
//! ones more often, so that many small changes are not lost on average (Gupta et al.,
//! <https://arxiv.org/abs/1502.02551>). Chance is a seed, so the same values give the same bits.

use distorch_checkpoint::Dtype;
use half::{bf16, f16};
use rayon::prelude::*;

/// What rounding needs to know of a float format.
#[derive(Clone, Copy)]
struct Format {
    mantissa_bits: i32,
    /// Exponent of the smallest normal number.
    least_exponent: i32,
    largest: f64,
}

const F16: Format = Format { mantissa_bits: 10, least_exponent: -14, largest: 65504.0 };
const BF16: Format =
    Format { mantissa_bits: 7, least_exponent: -126, largest: 3.389_531_389_251_535_5e38 };
const E4M3: Format = Format { mantissa_bits: 3, least_exponent: -6, largest: 448.0 };
const E5M2: Format = Format { mantissa_bits: 2, least_exponent: -14, largest: 57344.0 };

/// The values in a float dtype, little-endian; `None` for a dtype that is no float.
///
/// Values beyond the dtype's largest finite number become that number; NaN stays NaN.
pub fn stochastic(values: &[f32], dtype: Dtype, seed: u64) -> Option<Vec<u8>> {
    Some(match dtype {
        Dtype::F64 => encode(values, |_, v| f64::from(v).to_le_bytes()),
        Dtype::F32 => encode(values, |_, v| v.to_le_bytes()),
        Dtype::F16 => encode(values, |i, v| f16::from_f64(F16.round(v, seed, i)).to_le_bytes()),
        Dtype::BF16 => encode(values, |i, v| bf16::from_f64(BF16.round(v, seed, i)).to_le_bytes()),
        Dtype::F8E4M3 => encode(values, |i, v| [E4M3.code(E4M3.round(v, seed, i))]),
        Dtype::F8E5M2 => encode(values, |i, v| [E5M2.code(E5M2.round(v, seed, i))]),
        _ => return None,
    })
}

fn encode<const N: usize>(
    values: &[f32],
    element: impl Fn(usize, f32) -> [u8; N] + Sync,
) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * N];
    let (elements, _) = bytes.as_chunks_mut::<N>();
    let pairs = elements.par_iter_mut().zip(values.par_iter()).enumerate().with_min_len(1 << 14);
    pairs.for_each(|(index, (to, &value))| *to = element(index, value));
    bytes
}

impl Format {
    /// One of the two neighbours of `value`, or itself.
    fn round(self, value: f32, seed: u64, index: usize) -> f64 {
        if value.is_nan() {
            return f64::NAN;
        }
        // Exact in f64: a product with a power of two, far from both ends of its range.
        let exponent = exponent(f64::from(value)).max(self.least_exponent) - self.mantissa_bits;
        let steps = f64::from(value) * 2_f64.powi(-exponent);
        let below = steps.floor();
        let up = unit(seed, index as u64) < steps - below;
        let rounded = (below + f64::from(u8::from(up))) * 2_f64.powi(exponent);
        rounded.clamp(-self.largest, self.largest).copysign(f64::from(value))
    }

    /// The 8-bit code of a value that the format has.
    fn code(self, value: f64) -> u8 {
        if value.is_nan() {
            return 0x7f;
        }
        let sign = u8::from(value.is_sign_negative()) << 7;
        let magnitude = value.abs();
        let exponent = exponent(magnitude);
        let steps = |exponent: i32| magnitude * 2_f64.powi(self.mantissa_bits - exponent);
        // Below the smallest normal number, codes count steps from 0; above, each exponent has
        // 2^mantissa_bits of them.
        let code = if exponent < self.least_exponent {
            steps(self.least_exponent)
        } else {
            let binades = f64::from(exponent - self.least_exponent);
            steps(exponent) + binades * 2_f64.powi(self.mantissa_bits)
        };
        sign | code as u8
    }
}

/// The largest `e` with 2^e ≤ |value|; that of the smallest normal number for 0 and below it.
fn exponent(value: f64) -> i32 {
    let biased = (value.to_bits() >> 52) & 0x7ff;
    biased as i32 - 1023
}

/// Uniform in [0, 1): SplitMix64 (Steele et al., <https://doi.org/10.1145/2714064.2660195>).
fn unit(seed: u64, index: u64) -> f64 {
    let z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use distorch_checkpoint::decode::to_f32;

    use super::*;

    const FLOATS: [Dtype; 6] =
        [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8E4M3, Dtype::F8E5M2];

    /// Values that a dtype has are no matter of chance.
    #[test]
    fn what_is_exact_stays() {
        for dtype in [Dtype::F8E4M3, Dtype::F8E5M2, Dtype::F16, Dtype::BF16] {
            let count = 256_usize.pow(dtype.size() as u32);
            let all: Vec<u8> = (0..count)
                .flat_map(|i| (i as u16).to_le_bytes()[..dtype.size()].to_vec())
                .collect();
            let values = to_f32(&all, dtype);
            let again = to_f32(&stochastic(&values, dtype, 7).unwrap(), dtype);
            for (value, again) in values.iter().zip(&again) {
                let same = value.to_bits() == again.to_bits()
                    || value.is_nan() && again.is_nan()
                    || value.is_infinite() && again.is_finite();
                assert!(same, "{dtype}: {value} became {again}");
            }
        }
    }

    #[test]
    fn neighbours_come_in_proportion() {
        for dtype in [Dtype::F8E4M3, Dtype::F8E5M2, Dtype::F16, Dtype::BF16] {
            // Between 1 and the next number, and below the smallest normal number.
            for base in [1.0_f32, to_f32(&[1, 0], dtype)[0]] {
                let next = to_f32(&stochastic(&[base], dtype, 0).unwrap(), dtype)[0];
                assert_eq!(next, base);
                let step = match base {
                    1.0 => 2_f32.powi(match dtype {
                        Dtype::F8E4M3 => -3,
                        Dtype::F8E5M2 => -2,
                        Dtype::F16 => -10,
                        _ => -7,
                    }),
                    _ => base,
                };
                let value = base + step / 4.0;
                let rounded = to_f32(&stochastic(&vec![value; 40_000], dtype, 3).unwrap(), dtype);
                assert!(rounded.iter().all(|&r| r == base || r == base + step), "{dtype}");
                let up = rounded.iter().filter(|&&r| r > base).count() as f64 / 40_000.0;
                assert!((up - 0.25).abs() < 0.01, "{dtype}: {up} of the values went up");
            }
        }
    }

    #[test]
    fn a_seed_is_repeatable_and_large_values_stay_finite() {
        let values: Vec<f32> = (0..1000).map(|i| (i as f32).sin() * 3.0).collect();
        for dtype in FLOATS {
            let once = stochastic(&values, dtype, 1).unwrap();
            assert_eq!(once, stochastic(&values, dtype, 1).unwrap());
            let other = stochastic(&values, dtype, 2).unwrap();
            assert_eq!(once == other, matches!(dtype, Dtype::F64 | Dtype::F32), "{dtype}");
        }
        for dtype in [Dtype::F8E4M3, Dtype::F8E5M2, Dtype::F16] {
            let large = to_f32(&stochastic(&[1e30, -1e30, f32::NAN], dtype, 1).unwrap(), dtype);
            assert!(large[0].is_finite() && large[1] == -large[0] && large[2].is_nan());
        }
        assert_eq!(stochastic(&[1.0], Dtype::I32, 0), None);
    }
}
