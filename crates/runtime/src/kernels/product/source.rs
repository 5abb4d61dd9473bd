//! Where an operand's values come from.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use half::{bf16, f16};

/// Values of an operand, by index (its row or column) and depth.
pub(in super::super) trait Source: Sync {
    /// Whether values that [`load`](Self::load) reads follow each other in depth; else by index.
    fn along_depth(&self) -> bool;

    /// What is to be known of a strip of up to sixteen rows or columns.
    type Strip: Copy;

    /// The strip from `index` on.
    fn strip(&self, index: usize) -> Self::Strip;

    /// Sixteen values from row or column `at` of the strip and from `depth` on, of which those are read
    /// whose bit is set; the others are 0.
    ///
    /// # Safety
    /// The values that are read exist, and the processor has AVX-512.
    unsafe fn load(&self, strip: Self::Strip, at: usize, depth: usize, mask: __mmask16) -> __m512;
}

/// A number that matrices are stored in.
pub(in super::super) trait Element: Copy + Sync + Send {
    /// # Safety
    /// The values whose bit is set exist; the processor has AVX-512.
    unsafe fn load(values: *const Self, mask: __mmask16) -> __m512;
}

impl Element for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn load(values: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_maskz_loadu_ps(mask, values) }
    }
}

impl Element for f16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn load(values: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, values.cast()) })
    }
}

impl Element for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn load(values: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        let values = unsafe { _mm256_maskz_loadu_epi16(mask, values.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16))
    }
}

/// A matrix in memory.
pub(in super::super) struct Plain<'a, E> {
    values: *const E,
    index: usize,
    depth: usize,
    memory: PhantomData<&'a [E]>,
}

// SAFETY: it only reads a shared slice.
unsafe impl<E: Sync> Sync for Plain<'_, E> {}

impl<'a, E: Element> Plain<'a, E> {
    /// `size` rows (or columns) and depth, with the steps from one to the next. `None` where it doesn't lie
    /// in `values`, or neither step is 1.
    pub(in super::super) fn new(
        values: &'a [E],
        size: [usize; 2],
        [index, depth]: [usize; 2],
    ) -> Option<Self> {
        let inside = size.contains(&0)
            || (size[0] - 1)
                .checked_mul(index)?
                .checked_add((size[1] - 1).checked_mul(depth)?)
                .is_some_and(|last| last < values.len());
        let near = index == 1 || depth == 1;
        (inside && near).then_some(Self {
            values: values.as_ptr(),
            index,
            depth,
            memory: PhantomData,
        })
    }
}

impl<E: Element> Source for Plain<'_, E> {
    #[inline]
    fn along_depth(&self) -> bool {
        self.depth == 1
    }

    type Strip = *const E;

    #[inline]
    fn strip(&self, index: usize) -> *const E {
        self.values.wrapping_add(index * self.index)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn load(&self, strip: *const E, at: usize, depth: usize, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { E::load(strip.wrapping_add(at * self.index + depth * self.depth), mask) }
    }
}
