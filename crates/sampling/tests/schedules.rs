//! Schedules against k-diffusion's, diffusers' and SciPy's, made by
//! `tools/reference/make_sampling.py`. Each entry of the fixture says where it comes from:
//! `kl_optimal` and `linear_quadratic` have no library and are checked against their formulas,
//! written another way, in float64.
//!
//! Tolerance: 2e-6 of the value, some units in the last place of float32: the references compute
//! in it, step by step, while only results are rounded here.

#![allow(clippy::unwrap_used)] // helpers outside `#[test]`

use distorch_sampling::model_sampling::{ModelSampling, Prediction};
use distorch_sampling::schedule::{SCHEDULERS, ScheduleError, Scheduler, Span};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/schedules.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn stable_diffusion() -> ModelSampling {
    ModelSampling::stable_diffusion(Prediction::Eps)
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: {found:?} {expected:?}");
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(error <= tolerance * expected.abs(), "{what} {place}: {found} {expected}");
    }
}

#[test]
fn the_table_is_that_of_stable_diffusion() {
    let model = stable_diffusion();
    let table: Vec<_> = model.sigmas().iter().step_by(37).copied().collect();
    assert_close(&table, &numbers(&fixture()["table"]), 1e-7, "table");
    assert!((model.sigma_max() - 14.6146).abs() < 1e-4);
    assert!((model.sigma_min() - 0.0292).abs() < 1e-4);
}

#[test]
fn schedules_are_those_of_the_references() {
    let model = stable_diffusion();
    let fixture = fixture();
    let cases = fixture["schedules"].as_array().unwrap();
    for case in cases {
        let (name, steps) = (case["name"].as_str().unwrap(), case["steps"].as_u64().unwrap());
        let sigmas = Scheduler::by_name(name).unwrap().sigmas(&model, steps as usize).unwrap();
        assert_close(&sigmas, &numbers(&case["sigmas"]), 2e-6, &format!("{name} {steps}"));
    }
    for scheduler in SCHEDULERS.iter().filter(|known| known.name() != "beta") {
        assert!(cases.iter().any(|case| case["name"] == scheduler.name()), "{scheduler:?}");
    }
}

#[test]
fn beta_takes_the_entries_that_scipys_quantiles_name() {
    let model = stable_diffusion();
    for case in fixture()["beta_places"].as_array().unwrap() {
        let steps = case["steps"].as_u64().unwrap() as usize;
        let entries = numbers(&case["places"]).into_iter().map(|at| model.sigmas()[at as usize]);
        let expected: Vec<_> = entries.chain([0.0]).collect();
        let found = Scheduler::by_name("beta").unwrap().sigmas(&model, steps).unwrap();
        assert_eq!(found, expected, "{steps} steps");
    }
}

#[test]
fn timesteps_are_those_of_k_diffusion() {
    let (model, fixture) = (stable_diffusion(), fixture());
    let probes = &fixture["timesteps"];
    for (place, sigma) in numbers(&probes["sigmas"]).into_iter().enumerate() {
        assert_eq!(model.timestep(sigma), numbers(&probes["nearest"])[place], "sigma {sigma}");
        let fractional = model.fractional_timestep(sigma);
        // Float32 logarithms, and a table whose neighbours differ by 1e-3.
        assert!((fractional - numbers(&probes["fractional"])[place]).abs() < 1e-2, "{fractional}");
        let back = model.sigma(fractional);
        assert!((back - sigma).abs() < 1e-6 * sigma, "{back} {sigma}");
    }
}

/// Schedules in timesteps often ask for one half way between two of the table; the last bit of
/// float32 decides.
#[test]
fn models_are_told_the_timesteps_that_pytorch_finds() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/timesteps.json")).unwrap();
    let models = [
        ("plain", stable_diffusion()),
        ("zero_terminal_snr", stable_diffusion().zero_terminal_snr()),
        ("distilled", stable_diffusion().distilled(50)),
    ];
    for (name, model) in &models {
        for scheduler in ["normal", "sgm_uniform"] {
            let cases = fixture[name][scheduler].as_array().unwrap();
            assert_eq!(cases.len(), 45);
            for (steps, expected) in (1..).zip(cases) {
                let mut sigmas =
                    Scheduler::by_name(scheduler).unwrap().sigmas(model, steps).unwrap();
                assert_eq!(sigmas.pop(), Some(0.0));
                let found: Vec<_> = sigmas.iter().map(|sigma| model.timestep(*sigma)).collect();
                assert_eq!(found, numbers(expected), "{name} {scheduler} {steps}");
            }
        }
    }
}

/// The reference rescales in float64 and from the betas: 1e-4.
#[test]
fn zero_terminal_snr_is_that_of_the_paper() {
    let model = stable_diffusion().zero_terminal_snr();
    let found: Vec<_> = model.sigmas()[..999].iter().step_by(37).copied().collect();
    assert_close(&found, &numbers(&fixture()["zero_terminal_snr"]), 1e-4, "rescaled");
    assert!((model.sigma_max() - 4518.76).abs() < 0.1, "{}", model.sigma_max());
}

#[test]
fn odd_step_counts_are_schedules_or_errors() {
    let models = [
        stable_diffusion(),
        stable_diffusion().zero_terminal_snr(),
        ModelSampling::flow(3.0, 1000.0),
        ModelSampling::flux(1.15),
    ];
    for model in &models {
        for scheduler in SCHEDULERS {
            assert_eq!(scheduler.sigmas(model, 0), Err(ScheduleError::NoSteps));
            for steps in [1, 2, 3, 999, 1000, 1001, 10_000] {
                let sigmas = scheduler.sigmas(model, steps).unwrap();
                let what = format!("{} {steps}", scheduler.name());
                assert_eq!(sigmas.last(), Some(&0.0), "{what}");
                assert!(sigmas.iter().all(|sigma| sigma.is_finite()), "{what}");
                // A tangent in float32 is coarse where the largest sigma is.
                let largest = model.sigma_max() * (1.0 + 1e-3);
                assert!(sigmas.len() >= 2 && sigmas[0] <= largest, "{what}");
                assert!(sigmas.is_sorted_by(|a, b| a >= b), "{what}");
                if !matches!(scheduler.name(), "ddim_uniform" | "beta") {
                    assert_eq!(sigmas.len(), steps + 1, "{what}");
                }
            }
            assert!(matches!(
                scheduler.sigmas(model, usize::MAX),
                Err(ScheduleError::TooManySteps { .. })
            ));
        }
    }
}

#[test]
fn an_unknown_scheduler_is_an_error_with_near_names() {
    let error = Scheduler::by_name("karas").unwrap_err();
    assert_eq!(error.to_string(), r#"no scheduler is named "karas"; near: karras"#);
    assert!(Scheduler::by_name("?").unwrap_err().to_string().contains("known: simple, "));
}

#[test]
fn a_part_of_the_denoising_is_the_end_of_a_longer_schedule() {
    let (model, karras) = (stable_diffusion(), Scheduler::by_name("karras").unwrap());
    let span = |denoise| Span { denoise, ..Span::whole(20) };
    let sigmas = |span: Span| span.sigmas(karras, &model, false).unwrap();
    let whole = karras.sigmas(&model, 33).unwrap();
    // 20 / 0.6 is 33.3: the last 21 of 33 steps.
    assert_eq!(sigmas(span(0.6)), whole[13..]);
    assert_eq!(sigmas(span(1.0)), karras.sigmas(&model, 20).unwrap());
    assert_eq!(sigmas(span(0.99999)), karras.sigmas(&model, 20).unwrap());
    assert!(sigmas(span(0.0)).is_empty());
    for wrong in [-0.1, 1.1, f64::NAN] {
        let error = span(wrong).sigmas(karras, &model, false).unwrap_err();
        assert!(matches!(error, ScheduleError::Denoise(_)), "{error}");
    }
    let error = span(1e-12).sigmas(karras, &model, false).unwrap_err();
    assert!(error.to_string().contains("more denoise"), "{error}");
    let none = Span::whole(0).sigmas(karras, &model, false);
    assert_eq!(none, Err(ScheduleError::NoSteps));
}

#[test]
fn the_penultimate_sigma_is_left_out_of_one_step_more() {
    let (model, normal) = (stable_diffusion(), Scheduler::by_name("normal").unwrap());
    let more = normal.sigmas(&model, 11).unwrap();
    let found = Span::whole(10).sigmas(normal, &model, true).unwrap();
    assert_eq!(found, [&more[..10], &[0.0]].concat());
}

#[test]
fn start_and_end_cut_the_schedule() {
    let (model, normal) = (stable_diffusion(), Scheduler::by_name("normal").unwrap());
    let whole = normal.sigmas(&model, 10).unwrap();
    let cut = |start, end, force_full_denoise| {
        Span { start, end, force_full_denoise, ..Span::whole(10) }
            .sigmas(normal, &model, false)
            .unwrap()
    };
    assert_eq!(cut(3, Some(7), false), whole[3..=7]);
    assert_eq!(cut(3, Some(7), true), [&whole[3..7], &[0.0]].concat());
    assert_eq!(cut(0, Some(10_000), true), whole);
    assert_eq!(cut(9, None, false), whole[9..]);
    assert!(cut(10, None, false).is_empty());
    assert!(cut(usize::MAX - 1, None, false).is_empty());
    assert!(cut(5, Some(5), false).is_empty());
    assert!(cut(0, Some(0), true).is_empty());
}
