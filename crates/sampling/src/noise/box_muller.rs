//! PyTorch's normal numbers for float32 tensors of 16 elements and more.
//!
//! PyTorch fills the tensor with uniform numbers and turns each block of 16 into normal ones by the
//! Box–Muller transform, in 8 lanes at a time where the CPU has AVX2. There it takes the logarithm,
//! sine and cosine from Cephes' single-precision polynomials, whose last bits differ from a C
//! library's. Equal bits need the same polynomials, in the same order, with a fused multiply-add
//! wherever PyTorch's compiler puts one.

// The constants are written as Cephes has them.
#![allow(clippy::excessive_precision)]

/// How many numbers one transform makes.
pub(super) const BLOCK: usize = 16;

/// Turns uniform numbers of [0, 1) into normal ones, in place, 16 at a time.
///
/// What is over a multiple of 16 at the end is left as it is.
pub(super) fn transform(data: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") {
        #[target_feature(enable = "avx2,fma")]
        fn with_fma(data: &mut [f32]) {
            transform_blocks(data);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has both features.
            return unsafe { with_fma(data) };
        }
    }
    // Elsewhere `mul_add` is exact all the same, only slower.
    transform_blocks(data);
}

#[inline(always)]
fn transform_blocks(data: &mut [f32]) {
    for block in data.chunks_exact_mut(BLOCK) {
        let (first, second) = block.split_at_mut(BLOCK / 2);
        for (a, b) in first.iter_mut().zip(second) {
            let radius = (-2.0 * log(1.0 - *a)).sqrt();
            let (sin, cos) = sin_cos(std::f32::consts::TAU * *b);
            // PyTorch multiplies by the deviation and adds the mean: adding 0 turns -0 into 0.
            *a = radius * cos + 0.0;
            *b = radius * sin + 0.0;
        }
    }
}

/// The logarithm of a number in (0, 1], as Cephes' `logf`.
#[inline(always)]
fn log(x: f32) -> f32 {
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let mut exponent = (bits >> 23) as i32 as f32 - 126.0;
    // The mantissa in [0.5, 1), then around 1: [sqrt(1/2), sqrt(2)).
    let mut x = f32::from_bits((bits & 0x007f_ffff) | 0.5f32.to_bits());
    let low = x < std::f32::consts::FRAC_1_SQRT_2;
    let again = if low { x } else { 0.0 };
    exponent -= if low { 1.0 } else { 0.0 };
    x = (x - 1.0) + again;

    let z = x * x;
    let mut y = 7.037_683_629_2e-2_f32;
    for p in [
        -1.151_461_031e-1,
        1.167_699_874e-1,
        -1.242_014_084_6e-1,
        1.424_932_278_7e-1,
        -1.666_805_766_5e-1,
        2.000_071_476_5e-1,
        -2.499_999_399_3e-1,
        3.333_333_117_4e-1,
    ] {
        y = y.mul_add(x, p);
    }
    y *= x;
    y = y.mul_add(z, exponent * -2.121_944_40e-4);
    y = z.mul_add(-0.5, y);
    exponent.mul_add(0.693_359_375, x + y)
}

/// Sine and cosine of a number in [0, 2π), as Cephes' `sinf` and `cosf`.
#[inline(always)]
fn sin_cos(x: f32) -> (f32, f32) {
    // The octant, rounded up to an even one.
    let octant = ((x * 1.273_239_544_735_16) as i32 + 1) & !1;
    let turns = octant as f32;
    let swapped = octant & 2 != 0;
    let sin_sign = if octant & 4 != 0 { -1.0f32 } else { 1.0 };
    let cos_sign = if (octant - 2) & 4 == 0 { -1.0f32 } else { 1.0 };

    // π/4 in three parts, so that the remainder keeps its bits.
    let mut x = turns.mul_add(-0.785_156_25, x);
    x = turns.mul_add(-2.418_756_484_985_351_562_5e-4, x);
    x = turns.mul_add(-3.774_894_977_445_941_08e-8, x);
    let z = x * x;

    let mut c = 2.443_315_711_809_948e-5_f32;
    c = c.mul_add(z, -1.388_731_625_493_765e-3);
    c = c.mul_add(z, 4.166_664_568_298_827e-2);
    c *= z;
    c = c.mul_add(z, z * -0.5) + 1.0;

    let mut s = -1.951_529_589_1e-4_f32;
    s = s.mul_add(z, 8.332_160_873_6e-3);
    s = s.mul_add(z, -1.666_665_461_1e-1);
    s *= z;
    s = s.mul_add(x, x);

    let (sin, cos) = if swapped { (c, s) } else { (s, c) };
    (sin * sin_sign, cos * cos_sign)
}
