//! Models that enlarge pictures against spandrel's (`tools/reference/make_upscaler.py`): files with seeded weights under
//! each architecture's names, recognised and run. The tolerance is that of the UNet's tests; SPAN's outputs reach 227.

use std::path::Path;
use std::sync::Arc;

use distorch_checkpoint::family::recognise;
use distorch_checkpoint::{Checkpoint, ComponentKind};
use distorch_models::upscaler::Upscaler;
use distorch_runtime::tensor::cpu;
use distorch_runtime::{DType, Resident, Scope, Tensor};
use distorch_test_support::model_file::ModelFile;

use super::TOLERANCE;
use super::common::fixture::{Fixture, dims};
use super::common::{max_error, seeded, values};

/// The upscaler of a file.
fn upscaler(checkpoint: &Checkpoint) -> Upscaler {
    let model = recognise(checkpoint).unwrap();
    assert_eq!(model.unknown, Vec::<String>::new(), "{}", model.label());
    let config = model.upscaler.clone().unwrap();
    let component = model.component(ComponentKind::Upscaler).unwrap();
    let resident = Resident::load(checkpoint, component, cpu(), DType::F32, |_| {}).unwrap();
    Upscaler::load(&Scope::new(Arc::new(resident)), &config).unwrap()
}

/// A file of a case's names with seeded weights.
fn file(fixture: &Fixture, case: &str) -> Checkpoint {
    let cases = fixture.json("cases");
    let tensors = cases[case].as_object().unwrap().iter().map(|(name, shape)| {
        let shape = dims(shape);
        let values = seeded::weight(name, &shape, fixture.seed());
        (name.clone(), shape, values)
    });
    ModelFile::of_values(tensors).open(case)
}

fn picture(fixture: &Fixture) -> Tensor<4> {
    fixture.input::<4>("picture", &fixture.json("picture")) * 0.5 + 0.5
}

fn assert_near(made: &Tensor<4>, fixture: &Fixture, case: &str) {
    let (shape, reference) = fixture.tensor(case);
    assert_eq!(made.dims().to_vec(), shape, "{case}");
    let largest = reference.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    let error = max_error(&values(made), &reference);
    println!("{case}: {error:e} of {largest}");
    assert!(error < TOLERANCE * largest, "{case}: {error}");
}

#[test]
fn every_architecture_and_every_set_of_names() {
    let fixture = Fixture::open("upscaler.safetensors");
    let scales = fixture.json("scales");
    let scales = scales.as_object().unwrap();
    assert_eq!(scales.len(), 12);
    for (case, scale) in scales {
        let upscaler = upscaler(&file(&fixture, case));
        assert_eq!(upscaler.config().scale() as u64, scale.as_u64().unwrap(), "{case}");
        assert_near(&upscaler.forward(picture(&fixture)).unwrap(), &fixture, case);
    }
}

/// As trainers save them: weights, and their averages, which count.
#[test]
fn a_pickle_with_averaged_weights() {
    let fixture = Fixture::open("upscaler.safetensors");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compact.pth");
    let upscaler = upscaler(&Checkpoint::open(&path).unwrap());
    assert_near(&upscaler.forward(picture(&fixture)).unwrap(), &fixture, "compact_x2");
}

/// The formula of the tiles, in f64: each tile weighted by its distance to its edges.
#[test]
fn tiles_fade_into_each_other() {
    let fixture = Fixture::open("upscaler.safetensors");
    let upscaler = upscaler(&file(&fixture, "compact_x2"));
    let picture = fixture.input::<4>("wide", &vec![1, 3, 9, 23].into());
    let (tile, overlap, scale) = (12, 3, 2);
    let tiled = upscaler.forward_tiled(&picture, tile, overlap).unwrap();
    assert_eq!(tiled.dims(), [1, 3, 18, 46]);
    // Tiles begin every 9 pixels: 0..12, 9..21, 18..23; there is one row of them.
    let mut sums = vec![0.0_f64; 3 * 18 * 46];
    let mut weights = vec![0.0_f64; 46];
    let fade = overlap * scale;
    for (start, length) in [(0, 12), (9, 12), (18, 5)] {
        let made = upscaler.forward(picture.clone().narrow(3, start, length)).unwrap();
        let made = values(&made);
        let width = scale * length;
        let ramp = |from_edge: usize| ((from_edge + 1) as f64 / fade as f64).min(1.0);
        for x in 0..width {
            let weight = ramp(x) * ramp(width - 1 - x);
            weights[scale * start + x] += weight;
            for line in 0..3 * 18 {
                sums[line * 46 + scale * start + x] += weight * f64::from(made[line * width + x]);
            }
        }
    }
    // The rows' own ramps fall out where there is one row of tiles.
    let expected: Vec<f32> =
        sums.iter().enumerate().map(|(at, sum)| (sum / weights[at % 46]) as f32).collect();
    assert!(max_error(&values(&tiled), &expected) < 1e-4);
    // One tile over it all is the picture.
    let whole = upscaler.forward(picture.clone()).unwrap();
    assert_eq!(values(&upscaler.forward_tiled(&picture, 23, overlap).unwrap()), values(&whole));
    let error = upscaler.forward_tiled(&picture, 3, 3).unwrap_err().to_string();
    assert!(error.contains("tile"), "{error}");
}

#[test]
fn other_channels_and_scales_are_refused() {
    let fixture = Fixture::open("upscaler.safetensors");
    let upscaler = upscaler(&file(&fixture, "x4_body"));
    let grey = fixture.input::<4>("grey", &vec![1, 1, 4, 4].into());
    let error = upscaler.forward(grey).unwrap_err().to_string();
    assert!(error.contains("3 channels"), "{error}");
    // A last layer of 7 channels is no picture's.
    let tensors = [
        ("body.0.weight", vec![8, 3, 3, 3]),
        ("body.1.weight", vec![8]),
        ("body.2.weight", vec![7, 8, 3, 3]),
    ];
    let tensors = tensors.map(|(name, shape)| {
        let count = shape.iter().product();
        (name, shape, vec![0.0; count])
    });
    let error = recognise(&ModelFile::of_values(tensors).open("odd")).unwrap_err().to_string();
    assert!(error.contains("7 channels"), "{error}");
}
