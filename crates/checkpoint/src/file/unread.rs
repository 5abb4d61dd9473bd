//! Tensors that are in a file and not read: their dtype is none of those that weights are stored in.
//!
//! They are no fault of the file unless something needs them: only then is what they are an error.

/// A tensor that is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The dtype as the file names it, such as `U16`, `F8_E8M0` or `complex64`; in a PyTorch file also the kind of
    /// the tensor, such as `a sparse tensor`.
    pub dtype: String,
    /// The quantisation that the dtype is a sign of, such as `MXFP8`.
    pub quantisation: Option<&'static str>,
}

impl Unread {
    /// One of this dtype.
    pub fn new(dtype: impl Into<String>) -> Self {
        let dtype = dtype.into();
        let sign = |(name, _): &&(&str, &str)| dtype.starts_with(*name);
        let quantisation = QUANTISATIONS.iter().find(sign).map(|(_, kind)| *kind);
        Self { dtype, quantisation }
    }
}

/// What dtypes are used for, by how their names start, in safetensors and in PyTorch.
const QUANTISATIONS: &[(&str, &str)] = &[
    ("F8_E8M0", "MXFP8, whose scales these are"),
    ("float8_e8m0", "MXFP8, whose scales these are"),
    ("F4", "NVFP4 or MXFP4"),
    ("float4", "NVFP4 or MXFP4"),
    ("F6_", "MXFP6"),
    ("qint", "PyTorch's own quantisation"),
    ("quint", "PyTorch's own quantisation"),
    ("a quantized", "PyTorch's own quantisation"),
];

/// Bits of an element of a dtype of safetensors that is not read; `None` where that is not known.
pub(super) fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "U16" => 16,
        "U32" => 32,
        "U64" | "C64" => 64,
        "C128" => 128,
        _ => return None,
    })
}

/// Bytes of this shape in so many bits an element; `None` where they are more than an `i64` counts, or no
/// whole number.
pub(super) fn bytes(bits: u64, shape: &[usize]) -> Option<u64> {
    let bits = shape.iter().try_fold(bits, |bits, &dim| bits.checked_mul(dim as u64))?;
    (bits.is_multiple_of(8) && i64::try_from(bits).is_ok()).then_some(bits / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantisations_are_known_by_their_dtypes() {
        let kind = |dtype: &str| Unread::new(dtype).quantisation.unwrap_or_default();
        assert!(kind("F8_E8M0").starts_with("MXFP8"));
        assert!(kind("float4_e2m1fn_x2").starts_with("NVFP4"));
        assert!(kind("qint8").starts_with("PyTorch"));
        assert_eq!(kind("U16"), "");
    }

    #[test]
    fn sizes_of_elements_smaller_than_a_byte() {
        assert_eq!(bytes(4, &[3, 2]), Some(3));
        assert_eq!(bytes(4, &[3]), None);
        assert_eq!(bytes(6, &[4]), Some(3));
        assert_eq!(bytes(16, &[0, usize::MAX]), Some(0));
        assert_eq!(bytes(64, &[usize::MAX]), None);
    }
}
