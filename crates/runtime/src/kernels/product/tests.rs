use half::{bf16, f16};

use super::super::host::Output;
use super::super::made_up::values;
use super::*;

/// The matrix `[rows, columns]` with its columns next to each other.
fn mirrored<E: Copy>(values: &[E], rows: usize, columns: usize) -> Vec<E> {
    (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect()
}

/// What a unit makes of a value.
fn seen(unit: Unit, value: f32) -> f64 {
    match unit {
        Unit::Avx512 => value.into(),
        _ => bf16::from_f32(value).to_f64(),
    }
}

/// How far an f32 sum of so many products of up to 1 may be off: each addition rounds a partial sum, and the roundings
/// walk at random.
fn most(sum: f64, products: usize) -> f64 {
    (3e-7 * sum.abs() + 1e-6) * (products as f64).sqrt() + 1e-6
}

/// Every unit against sums in f64: sizes that fill no strip, panel, line or part of the depth, operands
/// with either step 1, in three dtypes, and each kind of bias.
#[test]
fn products_are_their_sums() {
    for (m, k, n) in [
        (1, 1, 1),
        (3, 5, 7),
        (16, 32, 16),
        (17, 33, 31),
        (33, 65, 48),
        (32, 31, 64),
        (29, 0, 33),
        (77, 768, 320),
        (40, 18_000, 40),
    ] {
        let a: Vec<f32> = values(m * k, 1);
        // Numbers of f16 that bf16 does not have, and of both.
        let (w16, wb): (Vec<_>, Vec<_>) =
            values(n * k, 2).iter().map(|w| (f16::from_f32(*w), bf16::from_f32(*w))).unzip();
        let (rows_bias, columns_bias) = (values(m, 3), values(n, 4));
        let a_turned = mirrored(&a, m, k);
        let (w16_turned, wb_turned) = (mirrored(&w16, n, k), mirrored(&wb, n, k));
        for unit in Unit::all() {
            let sums = |w: &dyn Fn(usize) -> f32| -> Vec<f64> {
                let product = |i: usize| {
                    let of = |d| seen(unit, a[i / n * k + d]) * seen(unit, w(i % n * k + d));
                    (0..k).map(of).sum::<f64>()
                };
                (0..m * n).map(product).collect()
            };
            let check = |l: &dyn Fn(Output, Bias), bias: u8, sums: &[f64], of: &str| {
                let mut out = vec![f32::NAN; m * n];
                let kind = match bias {
                    0 => Bias::None,
                    1 => Bias::Columns(&columns_bias),
                    _ => Bias::Rows(&rows_bias),
                };
                l(Output::new(&mut out), kind);
                for (i, (out, sum)) in out.iter().zip(sums).enumerate() {
                    let bias = match bias {
                        0 => 0.0,
                        1 => columns_bias[i % n],
                        _ => rows_bias[i / n],
                    };
                    let error = (f64::from(*out) - sum - f64::from(bias)).abs();
                    assert!(
                        error < most(*sum, k),
                        "{unit:?} {m}×{k}×{n} {of} {i}: {error:e} of {sum}"
                    );
                }
            };
            let of_16 = sums(&|i| w16[i].to_f32());
            let of_b = sums(&|i| wb[i].to_f32());
            for kind in 0..3 {
                let size = [m, k, n];
                for left in [[k, 1], [1, m]] {
                    let a = if left[1] == 1 { &a } else { &a_turned };
                    let left = Plain::new(a, [m, k], left).unwrap();
                    for right in [[k, 1], [1, n]] {
                        let (w16, wb) = match right[1] {
                            1 => (&w16, &wb),
                            _ => (&w16_turned, &wb_turned),
                        };
                        let r16 = Plain::new(w16, [n, k], right).unwrap();
                        let rb = Plain::new(wb, [n, k], right).unwrap();
                        let run = |out: Output, bias: Bias<'_>| {
                            let sink = Sink { out, rows: m, columns: n, bias };
                            // SAFETY: the matrices have these sizes, and the unit was found.
                            unsafe { multiply(unit, size, &left, &r16, &sink) }
                        };
                        check(&run, kind, &of_16, "f16");
                        let run = |out: Output, bias: Bias<'_>| {
                            let sink = Sink { out, rows: m, columns: n, bias };
                            // SAFETY: as above.
                            unsafe { multiply(unit, size, &left, &rb, &sink) }
                        };
                        check(&run, kind, &of_b, "bf16");
                    }
                }
            }
        }
    }
}

/// A result has the same bits on one thread and on several, however much of either side is packed at once: few columns,
/// few rows, more rows over a part of the depth than are packed at once, and more parts.
#[test]
fn threads_change_no_bit() {
    for [m, k, n] in [[150, 700, 333], [40, 2100, 700], [2000, 1100, 300], [900, 3000, 2000]] {
        let (a, w) = (values(m * k, 1), values(n * k, 2));
        for unit in Unit::all() {
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut out = vec![f32::NAN; m * n];
                let out_at = Output::new(&mut out);
                let sink = Sink { out: out_at, rows: m, columns: n, bias: Bias::None };
                let left = Plain::new(&a, [m, k], [k, 1]).unwrap();
                let right = Plain::new(&w, [n, k], [k, 1]).unwrap();
                pool.install(|| {
                    // SAFETY: the matrices have these sizes, and the unit was found.
                    unsafe { multiply(unit, [m, k, n], &left, &right, &sink) };
                });
                out
            };
            let (one, five) = (on(1), on(5));
            let same = one.iter().zip(&five).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{unit:?} {m}×{k}×{n}");
            // Some of the values, as all take long.
            for at in (0..m * n).step_by(m * n / 500 + 1) {
                let of = |d| seen(unit, a[at / n * k + d]) * seen(unit, w[at % n * k + d]);
                let sum: f64 = (0..k).map(of).sum();
                let error = (f64::from(one[at]) - sum).abs();
                assert!(error < most(sum, k), "{unit:?} {m}×{k}×{n} {at}: {error:e} of {sum}");
            }
        }
    }
}

#[test]
fn a_matrix_outside_its_memory_is_none() {
    let values = [0.0_f32; 11];
    assert!(Plain::new(&values, [3, 4], [4, 1]).is_none());
    assert!(Plain::new(&values, [2, 2], [2, 3]).is_none(), "no step is 1");
    assert!(Plain::new(&values, [usize::MAX, 2], [usize::MAX, 1]).is_none());
    assert!(Plain::new(&values, [0, 4], [4, 1]).is_some());
}
