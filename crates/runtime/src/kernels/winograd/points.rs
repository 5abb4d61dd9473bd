//! Pixels and filters to their points, and points back to pixels, sixteen side by side.

/// Output pixels of a tile along a side.
pub(super) const OUT: usize = 4;
/// Input pixels of a tile along a side.
pub(super) const IN: usize = 6;
/// Values of a filter.
pub(super) const TAPS: usize = 9;
/// Values of a transformed tile or filter.
pub(super) const POINTS: usize = IN * IN;
/// Tiles or filters that are transformed side by side.
pub(super) const LANES: usize = 16;
pub(super) type Lanes = [f32; LANES];

/// A function of the values of each lane. In loops: what builds an array from a function is not always compiled into its
/// caller, and then without the caller's instructions.
#[inline(always)]
fn each<const N: usize>(lanes: [&Lanes; N], f: impl Fn([f32; N]) -> f32) -> Lanes {
    let mut out = [0.0; LANES];
    for (i, out) in out.iter_mut().enumerate() {
        let mut values = [0.0; N];
        for (value, lanes) in values.iter_mut().zip(lanes) {
            *value = lanes[i];
        }
        *out = f(values);
    }
    out
}

/// `Bᵀ d`: what six pixels in a line are at the points 0, 1, -1, 2, -2 and ∞.
#[inline(always)]
pub(super) fn input_points([a, b, c, d, e, f]: [Lanes; IN]) -> [Lanes; IN] {
    [
        each([&a, &c, &e], |[a, c, e]| 4.0 * a - 5.0 * c + e),
        each([&b, &c, &d, &e], |[b, c, d, e]| (d + e) - 4.0 * (b + c)),
        each([&b, &c, &d, &e], |[b, c, d, e]| (e - d) + 4.0 * (b - c)),
        each([&b, &c, &d, &e], |[b, c, d, e]| (e - c) + 2.0 * (d - b)),
        each([&b, &c, &d, &e], |[b, c, d, e]| (e - c) - 2.0 * (d - b)),
        each([&b, &d, &f], |[b, d, f]| 4.0 * b - 5.0 * d + f),
    ]
}

/// `G g`: the same of three taps. Products with the inverse numbers, as a division takes ten times as long.
#[inline(always)]
pub(super) fn filter_points([a, b, c]: [Lanes; 3]) -> [Lanes; IN] {
    const SIXTH: f32 = 1.0 / 6.0;
    let even = each([&a, &c], |[a, c]| a * (SIXTH / 4.0) + c * SIXTH);
    [
        each([&a], |[a]| a * 0.25),
        each([&a, &b, &c], |[a, b, c]| (a + b + c) * -SIXTH),
        each([&a, &b, &c], |[a, b, c]| (a - b + c) * -SIXTH),
        each([&even, &b], |[even, b]| even + b * (SIXTH / 2.0)),
        each([&even, &b], |[even, b]| even - b * (SIXTH / 2.0)),
        c,
    ]
}

/// `Aᵀ m`: back from the points to four pixels.
#[inline(always)]
pub(super) fn output_pixels([a, b, c, d, e, f]: [Lanes; IN]) -> [Lanes; OUT] {
    [
        each([&a, &b, &c, &d, &e], |[a, b, c, d, e]| a + (b + c) + (d + e)),
        each([&b, &c, &d, &e], |[b, c, d, e]| (b - c) + 2.0 * (d - e)),
        each([&b, &c, &d, &e], |[b, c, d, e]| (b + c) + 4.0 * (d + e)),
        each([&b, &c, &d, &e, &f], |[b, c, d, e, f]| (b - c) + 8.0 * (d - e) + f),
    ]
}
