//! Patches on layers of a plan: the same bits wherever a layer lives, the base back when they go, and
//! donors that hold what was planned where patches keep the checkpoint's dtype.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{SIDE, Stack, forward, id, machine, noise};
use distorch_checkpoint::{Checkpoint, Dtype, decode};
use distorch_runtime::offload::Options;
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, LayerSource, Patch, Resident, WeightError};

/// Adds noise of this strength to the weights of some layers; counts how often.
#[derive(Debug, Default)]
struct Noise {
    layers: Vec<usize>,
    strength: f32,
    applied: AtomicUsize,
    fails_at: Option<usize>,
}

impl Noise {
    fn new(layers: &[usize], strength: f32) -> Arc<Self> {
        Arc::new(Self { layers: layers.to_vec(), strength, ..Self::default() })
    }
}

impl Patch for Noise {
    fn key(&self, layer: &str) -> Option<u64> {
        let number = layer.strip_prefix('l')?.parse().ok()?;
        self.layers.contains(&number).then_some(u64::from(self.strength.to_bits()))
    }

    fn apply(
        &self,
        layer: &str,
        params: &mut Vec<(String, TensorData)>,
    ) -> Result<(), WeightError> {
        self.applied.fetch_add(1, Ordering::Relaxed);
        if self.fails_at.is_some_and(|at| layer == format!("l{at}")) {
            return Err(WeightError::Load { layer: layer.to_owned(), reason: "on purpose".into() });
        }
        for (_, data) in params.iter_mut().filter(|(name, _)| name == "weight") {
            let mut values = data.to_vec::<f32>().unwrap();
            for (value, noise) in values.iter_mut().zip(noise(99, SIDE * SIDE)) {
                *value += self.strength * noise;
            }
            *data = TensorData::new(values, data.shape.clone());
        }
        Ok(())
    }
}

const ALLOCATIONS: [&str; 4] = ["", "cpu,100%", "cuda:0,40%;cuda:1,30%;cpu,30%", "cuda:1,*"];

#[test]
fn the_same_bits_wherever_a_layer_lives() {
    let machine = machine("cuda:0=1GiB,cuda:1=1GiB");
    for dtype in [Dtype::F32, Dtype::F16, Dtype::F8E4M3] {
        let stack = Stack::new(8, dtype);
        let mut outputs = Vec::new();
        for high_precision_loras in [true, false] {
            for allocation in ALLOCATIONS {
                let plan = stack.plan(&machine, "cuda:0", allocation);
                let options = Options { high_precision_loras, ..Options::default() };
                let weights = stack.try_load(&machine, &plan, options).unwrap();
                let base = forward(&weights, &stack).unwrap();
                assert_eq!(weights.set_patch(Some(Noise::new(&[1, 4, 6], 0.05))).unwrap(), 3);
                let patched = forward(&weights, &stack).unwrap();
                assert_ne!(patched, base, "{dtype} {allocation}");
                outputs.push((high_precision_loras, patched));
                assert_eq!(weights.set_patch(None).unwrap(), 3);
                assert_eq!(forward(&weights, &stack).unwrap(), base, "the base comes back exactly");
            }
        }
        let same = |kept: bool| {
            let mut of = outputs.iter().filter(|(high, _)| *high == kept).map(|(_, out)| out);
            let first = of.next().unwrap();
            assert!(of.all(|out| out == first), "{dtype}, high precision {kept}");
            first.clone()
        };
        assert_eq!(same(true) == same(false), dtype == Dtype::F32, "{dtype} rounds");
    }
}

#[test]
fn a_resident_component_takes_patches_too() {
    let machine = machine("cuda:0=1GiB");
    let stack = Stack::new(5, Dtype::F8E5M2);
    let checkpoint = Checkpoint::open(&stack.path).unwrap();
    let load = || Resident::load(&checkpoint, &stack.component, cpu(), DType::F32, |_| {}).unwrap();
    let mut resident = load();
    let noise = Noise::new(&[0, 3], 0.1);
    let set = |resident: &mut Resident, patch: Option<&dyn Patch>| {
        resident.set_patch(&checkpoint, &stack.component, patch).unwrap()
    };
    assert_eq!(set(&mut resident, Some(&*noise)), 2);
    let weights = stack.load(&machine, &stack.plan(&machine, "cuda:0", "cpu,60%;cuda:0,40%"));
    weights.set_patch(Some(noise.clone())).unwrap();
    assert_eq!(forward(&resident, &stack).unwrap(), forward(&weights, &stack).unwrap());
    assert_eq!(set(&mut resident, Some(&*noise)), 0, "nothing changed");
    assert_eq!(set(&mut resident, None), 2);
    assert_eq!(forward(&resident, &stack).unwrap(), forward(&load(), &stack).unwrap());
}

#[test]
fn only_what_changes_is_rewritten() {
    let machine = machine("cuda:0=1GiB");
    let stack = Stack::new(8, Dtype::F16);
    let weights = stack.load(&machine, &stack.plan(&machine, "cuda:0", "cuda:0,50%;cpu,50%"));
    let first = Noise::new(&[0, 7], 0.1);
    assert_eq!(weights.set_patch(Some(first.clone())).unwrap(), 2);
    let same = Noise::new(&[0, 7], 0.1);
    assert_eq!(weights.set_patch(Some(same.clone())).unwrap(), 0);
    let wider = Noise::new(&[0, 5, 7], 0.1);
    assert_eq!(weights.set_patch(Some(wider.clone())).unwrap(), 1);
    let stronger = Noise::new(&[5], 0.2);
    assert_eq!(weights.set_patch(Some(stronger.clone())).unwrap(), 3);
    let applied = [first, same, wider, stronger].map(|n| n.applied.load(Ordering::Relaxed));
    assert_eq!(applied, [2, 0, 1, 1]);
}

/// An fp8 layer that is patched and kept in fp8 costs its donor nothing more; kept in the compute
/// dtype, it costs four bytes an element. Its scale and bias stay as they are.
#[test]
fn donors_hold_what_was_planned() {
    let stack = Stack::new(6, Dtype::F8E4M3);
    let all: Vec<usize> = (0..6).collect();
    for (high_precision_loras, more) in [(false, 0), (true, 6 * (SIDE * SIDE * 3 + SIDE * 2 - 4))] {
        let machine = machine("cuda:0=1GiB,cuda:1=1GiB");
        let plan = stack.plan(&machine, "cuda:0", "cuda:1,*");
        let options = Options { high_precision_loras, ..Options::default() };
        let weights = stack.try_load(&machine, &plan, options).unwrap();
        let params = |index| {
            let params = weights.fetch(index).unwrap();
            let values = |data: TensorData| data.to_vec::<f32>().unwrap();
            let weight = params.weight::<2>().unwrap().into_data();
            (values(weight), values(params.bias().unwrap().unwrap().into_data()))
        };
        let (weight, bias) = params(2);
        weights.set_patch(Some(Noise::new(&all, 0.01))).unwrap();
        let held = machine.pool(id("cuda:1")).unwrap().used();
        assert_eq!(held, plan.bytes_on(id("cuda:1")) + more as u64);
        let (patched, same) = params(2);
        assert_eq!(same, bias);
        // The patch moves values by half a step of fp8 at most, rounding by less than one more; the
        // codes stay those of the layer's own scale.
        let scale = 0.01 + 2.0 * 1e-3_f32;
        for (before, after) in weight.iter().zip(&patched) {
            let step = (before.abs() + 0.01) / 8.0 + scale * 2_f32.powi(-9);
            assert!((before - after).abs() <= 0.01 + step, "{before} became {after}");
            let code = nearest_e4m3(after / scale);
            let exact = *after == decode::to_f32(&[code], Dtype::F8E4M3)[0] * scale;
            assert!(exact || high_precision_loras, "{after} is no code times the scale");
        }
        drop(weights);
        assert_eq!(machine.pool(id("cuda:1")).unwrap().used(), 0);
    }
}

fn nearest_e4m3(value: f32) -> u8 {
    let all: Vec<u8> = (0..=255).collect();
    let values = decode::to_f32(&all, Dtype::F8E4M3);
    let distance = |v: f32| if v.is_nan() { f32::INFINITY } else { (v - value).abs() };
    (0..=255_u8)
        .min_by(|&a, &b| distance(values[a as usize]).total_cmp(&distance(values[b as usize])))
        .unwrap()
}

/// The mean of many roundings is the value, where rounding to nearest would lose the patch.
#[test]
fn small_changes_are_not_lost() {
    let machine = machine("cuda:0=1GiB");
    let stack = Stack::new(1, Dtype::F8E4M3);
    let options = Options { high_precision_loras: false, ..Options::default() };
    let plan = stack.plan(&machine, "cuda:0", "");
    let weights = stack.try_load(&machine, &plan, options).unwrap();
    let weight = || {
        let weight = weights.fetch(0).unwrap().weight::<2>().unwrap().into_data();
        weight.to_vec::<f32>().unwrap()
    };
    let before = weight();
    weights.set_patch(Some(Noise::new(&[0], 1e-3))).unwrap();
    let after = weight();
    let pushes = noise(99, SIDE * SIDE);
    let gained: f32 = before.iter().zip(&after).zip(&pushes).map(|((b, a), n)| (a - b) * n).sum();
    let meant: f32 = pushes.iter().map(|n| 1e-3 * n * n).sum();
    assert!((gained / meant - 1.0).abs() < 0.3, "{gained} of {meant}");
}

#[test]
fn a_patch_that_fails_leaves_the_base() {
    let machine = machine("cuda:0=1GiB");
    let stack = Stack::new(6, Dtype::F16);
    for allocation in ["", "cpu,100%"] {
        let weights = stack.load(&machine, &stack.plan(&machine, "cuda:0", allocation));
        let base = forward(&weights, &stack).unwrap();
        weights.set_patch(Some(Noise::new(&[0, 1], 0.5))).unwrap();
        let broken =
            Noise { layers: vec![1, 2, 4], strength: 0.1, fails_at: Some(2), ..Noise::default() };
        let error = weights.set_patch(Some(Arc::new(broken))).unwrap_err().to_string();
        assert!(error.contains("l2") && error.contains("on purpose"), "{error}");
        assert!(weights.patch().is_none());
        assert_eq!(forward(&weights, &stack).unwrap(), base);
        assert_eq!(weights.set_patch(Some(Noise::new(&[3], 0.5))).unwrap(), 1);
    }
}

#[test]
fn patched_layers_move_with_a_new_plan() {
    let machine = machine("cuda:0=1GiB,cuda:1=1GiB");
    let stack = Stack::new(6, Dtype::F8E4M3);
    for high_precision_loras in [true, false] {
        let plans = ALLOCATIONS.map(|allocation| stack.plan(&machine, "cuda:0", allocation));
        let options = Options { high_precision_loras, ..Options::default() };
        let weights = stack.try_load(&machine, &plans[0], options).unwrap();
        let base = forward(&weights, &stack).unwrap();
        weights.set_patch(Some(Noise::new(&[0, 2, 5], 0.1))).unwrap();
        let patched = forward(&weights, &stack).unwrap();
        for plan in plans.iter().chain(plans.iter().rev()) {
            weights.replan(plan).unwrap();
            assert_eq!(forward(&weights, &stack).unwrap(), patched);
        }
        weights.set_patch(None).unwrap();
        assert_eq!(forward(&weights, &stack).unwrap(), base);
    }
}
