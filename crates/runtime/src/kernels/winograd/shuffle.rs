//! Sixteen tiles' pixels of a line, taken apart by column and put together again.

use super::points::{LANES, Lanes, OUT};

/// Pixels of sixteen tiles in a line.
pub(super) const PIXELS: usize = LANES * OUT;

/// Pixels whose column is 0, 1, 2 and 3 more than a multiple of 4.
///
/// # Safety
/// With `WIDE`, the processor has AVX-512.
#[inline(always)]
pub(super) unsafe fn take_apart<const WIDE: bool>(pixels: &[f32; PIXELS]) -> [Lanes; OUT] {
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: the caller's promise.
        return unsafe { wide::take_apart(pixels) };
    }
    let mut apart = [[0.0; LANES]; OUT];
    for (tile, pixels) in pixels.as_chunks::<OUT>().0.iter().enumerate() {
        for (column, pixel) in apart.iter_mut().zip(pixels) {
            column[tile] = *pixel;
        }
    }
    apart
}

/// What [`take_apart`] took apart.
///
/// # Safety
/// With `WIDE`, the processor has AVX-512.
#[inline(always)]
pub(super) unsafe fn put_together<const WIDE: bool>(columns: &[Lanes; OUT]) -> [f32; PIXELS] {
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: the caller's promise.
        return unsafe { wide::put_together(columns) };
    }
    let mut pixels = [0.0; PIXELS];
    for (tile, pixels) in pixels.as_chunks_mut::<OUT>().0.iter_mut().enumerate() {
        for (pixel, column) in pixels.iter_mut().zip(columns) {
            *pixel = column[tile];
        }
    }
    pixels
}

/// In vectors of 512 bits. Inlined by force, without a target of their own, as these are small: the caller has the
/// instructions.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{Lanes, OUT, PIXELS};

    /// Both halves of the values of two vectors in these orders.
    #[inline(always)]
    unsafe fn both(a: __m512, b: __m512, orders: &[[i32; 16]; 2]) -> [__m512; 2] {
        // SAFETY: the caller has AVX-512; sixteen values each.
        unsafe {
            let orders = orders.each_ref();
            let first = _mm512_loadu_epi32(orders[0].as_ptr());
            let second = _mm512_loadu_epi32(orders[1].as_ptr());
            [_mm512_permutex2var_ps(a, first, b), _mm512_permutex2var_ps(a, second, b)]
        }
    }

    /// Every other one of the 32 values in two vectors.
    const APART: [[i32; 16]; 2] = {
        let mut orders = [[0; 16]; 2];
        let mut i = 0;
        while i < 16 {
            orders[0][i] = 2 * i as i32;
            orders[1][i] = 2 * i as i32 + 1;
            i += 1;
        }
        orders
    };

    /// The values of two vectors by turns.
    const TOGETHER: [[i32; 16]; 2] = {
        let mut orders = [[0; 16]; 2];
        let mut i = 0;
        while i < 16 {
            orders[0][i] = (i / 2) as i32 + 16 * (i % 2) as i32;
            orders[1][i] = orders[0][i] + 8;
            i += 1;
        }
        orders
    };

    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    pub(super) unsafe fn take_apart(pixels: &[f32; PIXELS]) -> [Lanes; OUT] {
        // SAFETY: the caller's promise; four times sixteen values.
        unsafe {
            let at = pixels.as_ptr();
            let [a, b] = [_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(16))];
            let [c, d] = [_mm512_loadu_ps(at.add(32)), _mm512_loadu_ps(at.add(48))];
            let ([even_a, odd_a], [even_b, odd_b]) = (both(a, b, &APART), both(c, d, &APART));
            let [first, third] = both(even_a, even_b, &APART);
            let [second, fourth] = both(odd_a, odd_b, &APART);
            transmute::<[__m512; OUT], [Lanes; OUT]>([first, second, third, fourth])
        }
    }

    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    pub(super) unsafe fn put_together([a, b, c, d]: &[Lanes; OUT]) -> [f32; PIXELS] {
        // SAFETY: the caller's promise; sixteen values each.
        unsafe {
            let [a, b] = [_mm512_loadu_ps(a.as_ptr()), _mm512_loadu_ps(b.as_ptr())];
            let [c, d] = [_mm512_loadu_ps(c.as_ptr()), _mm512_loadu_ps(d.as_ptr())];
            let (even, odd) = (both(a, c, &TOGETHER), both(b, d, &TOGETHER));
            let ([first, second], [third, fourth]) =
                (both(even[0], odd[0], &TOGETHER), both(even[1], odd[1], &TOGETHER));
            transmute::<[__m512; OUT], [f32; PIXELS]>([first, second, third, fourth])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_apart_is_put_together() {
        let pixels: [f32; PIXELS] = std::array::from_fn(|i| i as f32);
        let expected: [Lanes; OUT] =
            std::array::from_fn(|column| std::array::from_fn(|tile| (tile * OUT + column) as f32));
        // SAFETY: no wide vectors.
        let (apart, together) =
            unsafe { (take_apart::<false>(&pixels), put_together::<false>(&expected)) };
        assert_eq!((apart, together), (expected, pixels));
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has them.
            let (apart, together) =
                unsafe { (take_apart::<true>(&pixels), put_together::<true>(&expected)) };
            assert_eq!((apart, together), (expected, pixels));
        }
    }
}
