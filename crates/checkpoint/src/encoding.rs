//! How tensors are stored: blocks of elements, and what a layer holds beside them to decode them.

use crate::dtype::Dtype;

/// How the elements of a tensor are stored: in blocks of equal size along its innermost dimension.
/// Bytes of tensors are computed here and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encoding {
    /// Elements in a block; 1 for plain dtypes. A row of a tensor holds a whole number of blocks.
    pub block_elements: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// The parameters that a layer may hold beside a weight of this encoding, and that belong to it.
    pub companions: &'static [Companion],
}

/// A parameter that belongs to another one's encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Companion {
    /// What a weight is multiplied with: one value for all of it, or one for each row.
    Scale,
    /// What inputs are multiplied with for arithmetic in the stored dtype.
    InputScale,
}

impl Companion {
    /// What the parameters are called: `scale_…` as ComfyUI writes them, `…_scale` as quantisation
    /// tools do.
    pub const PARAMS: [(&str, Companion); 4] = [
        ("scale_weight", Companion::Scale),
        ("scale_input", Companion::InputScale),
        ("weight_scale", Companion::Scale),
        ("input_scale", Companion::InputScale),
    ];

    /// The companion that a parameter of this name is.
    pub fn of_param(name: &str) -> Option<Companion> {
        Self::PARAMS.iter().find(|(param, _)| *param == name).map(|&(_, companion)| companion)
    }
}

impl Encoding {
    /// One element after the other, each of so many bytes.
    pub const fn plain(bytes: u64) -> Self {
        Self { block_elements: 1, block_bytes: bytes, companions: &[] }
    }

    /// Bytes of a contiguous tensor of this shape; `None` where its rows hold no whole number of blocks,
    /// or an `i64` does not count them.
    ///
    /// Dimensions of size 0 are left out of that, so that the size of any part of the shape fits too.
    pub fn bytes(&self, shape: &[usize]) -> Option<u64> {
        let (outer, row) = match shape.split_last() {
            Some((&row, outer)) => (outer, row as u64),
            None => (shape, 1),
        };
        let blocks = row.checked_div(self.block_elements)?;
        if blocks.checked_mul(self.block_elements) != Some(row) {
            return None;
        }
        let dims = outer.iter().map(|&dim| dim as u64).chain([blocks]);
        let whole = dims
            .filter(|&dim| dim != 0)
            .try_fold(self.block_bytes, |bytes, dim| bytes.checked_mul(dim))?;
        i64::try_from(whole).ok()?;
        Some(if shape.contains(&0) { 0 } else { whole })
    }

    /// Elements that so many bytes hold.
    pub fn elements_in(&self, bytes: u64) -> u64 {
        bytes.checked_div(self.block_bytes).unwrap_or(0).saturating_mul(self.block_elements)
    }
}

impl Dtype {
    /// How tensors of this dtype are stored.
    pub const fn encoding(self) -> Encoding {
        match self {
            Dtype::F64 | Dtype::I64 => Encoding::plain(8),
            Dtype::F32 | Dtype::I32 => Encoding::plain(4),
            Dtype::F16 | Dtype::BF16 | Dtype::I16 => Encoding::plain(2),
            Dtype::I8 | Dtype::U8 | Dtype::Bool => Encoding::plain(1),
            Dtype::F8E4M3 | Dtype::F8E5M2 => Encoding {
                companions: &[Companion::Scale, Companion::InputScale],
                ..Encoding::plain(1)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_dtypes_are_blocks_of_one() {
        for dtype in Dtype::ALL {
            let encoding = dtype.encoding();
            assert_eq!(encoding.block_elements, 1);
            assert_eq!(encoding.bytes(&[]), Some(encoding.block_bytes), "{dtype}");
            assert_eq!(encoding.bytes(&[3, 5]), Some(15 * encoding.block_bytes), "{dtype}");
            assert_eq!(encoding.elements_in(15 * encoding.block_bytes), 15, "{dtype}");
        }
    }

    /// GGML's `Q4_0`: a block is 32 weights of 4 bits and a scale of 16 bits.
    #[test]
    fn blocks_lie_along_rows() {
        let q4_0 = Encoding { block_elements: 32, block_bytes: 18, companions: &[] };
        assert_eq!(q4_0.bytes(&[64]), Some(36));
        assert_eq!(q4_0.bytes(&[7, 64]), Some(7 * 36));
        assert_eq!(q4_0.bytes(&[64, 7]), None, "a row is no whole number of blocks");
        assert_eq!(q4_0.bytes(&[]), None);
        assert_eq!(q4_0.bytes(&[0, 64]), Some(0));
        assert_eq!(q4_0.elements_in(36), 64);
    }

    #[test]
    fn sizes_that_nothing_counts_are_none() {
        let f32s = Dtype::F32.encoding();
        assert_eq!(f32s.bytes(&[usize::MAX, 2]), None);
        assert_eq!(f32s.bytes(&[0, usize::MAX]), None, "a part of it is too large");
        assert_eq!(f32s.bytes(&[1 << 61]), None);
        assert_eq!(f32s.bytes(&[1 << 60]), Some(1 << 62));
        let nothing = Encoding { block_elements: 0, block_bytes: 0, companions: &[] };
        assert_eq!((nothing.bytes(&[4]), nothing.elements_in(4)), (None, 0));
    }

    #[test]
    fn companions_by_their_names() {
        assert_eq!(Companion::of_param("weight_scale"), Some(Companion::Scale));
        assert_eq!(Companion::of_param("scale_input"), Some(Companion::InputScale));
        assert_eq!(Companion::of_param("weight"), None);
        assert!(Dtype::F8E4M3.encoding().companions.contains(&Companion::Scale));
        assert!(Dtype::F16.encoding().companions.is_empty());
    }
}
