//! Networks of fixtures as files, whose weights live on several devices.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use distorch_allocation::{
    Allocation, ComponentSettings, DeviceId, DeviceInfo, Layout, Ledger, Topology, plan,
};
use distorch_checkpoint::{Checkpoint, Component, ComponentKind, Dtype, Layer, LayerKind, Param};
use distorch_runtime::offload::{OffloadedWeights, Options};
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, LayerSource, Machine, Patch, Resident, WeightError, placement};
use distorch_test_support::model_file::{ModelFile, encode};

use super::fixture::{Fixture, dims};
use super::seeded;

const ALLOCATIONS: [&str; 7] = [
    "",
    "cuda:0,90%;cpu,10%",
    "cuda:0,50%;cpu,50%",
    "cpu,100%",
    "cuda:0,3%;cuda:1,2%;cpu,1%",
    "cuda:0,500kb;cuda:1,300kb;cpu,*",
    "cuda:0,0.002;cuda:1,0.001;cpu,0.5",
];

/// The fixture's UNet as a file of this dtype; 8-bit weights have a scale, and f16 biases.
fn write(fixture: &Fixture, dtype: Dtype, path: &Path) -> Component {
    let mut layers: Vec<Layer> = Vec::new();
    let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (key, shape) in fixture.json("params").as_object().unwrap() {
        let (layer, name) = key.rsplit_once('.').unwrap();
        let shape = dims(shape);
        let mut values = seeded::weight(key, &shape, fixture.seed());
        if !layers.iter().any(|other| other.name == layer) {
            let (name, use_index) = (layer.to_owned(), layers.len());
            let kind = if shape.len() == 1 { LayerKind::Norm } else { LayerKind::Linear };
            layers.push(Layer { name, kind, use_index, head: false, params: Vec::new() });
        }
        let of = layers.iter_mut().find(|other| other.name == layer).unwrap();
        let mut add = |name: &str, dtype: Dtype, shape: Vec<usize>, values: &[f32]| {
            let key = format!("{layer}.{name}");
            tensors.insert(key.clone(), (dtype, shape.clone(), encode(values, dtype)));
            let name = name.to_owned();
            of.params.push(Param { name, key, dtype, shape, rows: None, transposed: false });
        };
        if dtype == Dtype::F8E4M3 && shape.len() > 1 && name == "weight" {
            let scale = 1.0 / 128.0;
            values.iter_mut().for_each(|value| *value /= scale);
            add(name, dtype, shape, &values);
            add("scale_weight", Dtype::F32, Vec::new(), &[scale]);
        } else {
            add(name, if dtype.size() == 1 { Dtype::F16 } else { dtype }, shape, &values);
        }
    }
    let mut file = ModelFile::new();
    for (key, (dtype, shape, bytes)) in &tensors {
        file.add_bytes(key, *dtype, shape, bytes);
    }
    file.write(path);
    Component { kind: ComponentKind::DiffusionModel, layers }
}

/// The fixture's network in scaled 8-bit floats, as [`check_bits`] writes it, in f32 on the CPU.
pub fn in_fp8(fixture: &Fixture) -> Arc<dyn LayerSource> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fp8.safetensors");
    let component = write(fixture, Dtype::F8E4M3, &path);
    let checkpoint = Arc::new(Checkpoint::open(&path).unwrap());
    Arc::new(Resident::load(&checkpoint, &component, cpu(), DType::F32, |_| {}).unwrap())
}

/// Adds a hundredth to every fifth layer's weights.
struct Shift;

impl Patch for Shift {
    fn key(&self, layer: &str) -> Option<u64> {
        layer.len().is_multiple_of(5).then_some(1)
    }

    fn apply(&self, _: &str, params: &mut Vec<(String, TensorData)>) -> Result<(), WeightError> {
        for (_, data) in params.iter_mut().filter(|(name, _)| name == "weight") {
            let values = data.to_vec::<f32>().unwrap().into_iter().map(|value| value + 0.01);
            *data = TensorData::new(values.collect::<Vec<_>>(), data.shape.clone());
        }
        Ok(())
    }
}

/// The network of a fixture gives the same bits for every allocation, in f32, f16 and scaled 8-bit floats, with some layers
/// changed and without. `outputs` runs it with weights from a source.
pub fn check_bits(fixture: &Fixture, outputs: impl Fn(Arc<dyn LayerSource>) -> Vec<u32>) {
    let dir = tempfile::tempdir().unwrap();
    let host = DeviceInfo::new(DeviceId::CPU, "host", 1 << 40);
    let simulated = "cuda:0=1GiB,cuda:1=1GiB";
    let topology = Topology::new(vec![host]).unwrap().simulate(simulated).unwrap();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::F8E4M3] {
        let path = dir.path().join(format!("{dtype}.safetensors"));
        let component = write(fixture, dtype, &path);
        let checkpoint = Arc::new(Checkpoint::open(&path).unwrap());
        let resident = Resident::load(&checkpoint, &component, cpu(), DType::F32, |_| {}).unwrap();
        let expected = outputs(Arc::new(resident));
        let blocks = placement::blocks(&component, 1 << 20, None).unwrap();
        let mut patched = None;
        for (number, allocation) in ALLOCATIONS.into_iter().enumerate() {
            let machine = Machine::new(topology.clone());
            let mut settings = ComponentSettings::new("cuda:0".parse().unwrap());
            settings.expert = Allocation::parse(allocation).unwrap();
            settings.layout = [Layout::Distorch2, Layout::Interleave][number % 2].into();
            let plan = plan(&blocks, &settings, &Ledger::new(topology.clone())).unwrap();
            let options = Options { high_precision_loras: false, ..Options::default() };
            let go_on = |_: distorch_runtime::offload::Progress<'_>| ControlFlow::Continue(());
            let checkpoint = Arc::clone(&checkpoint);
            let weights = OffloadedWeights::load(
                checkpoint,
                &component,
                &plan,
                machine,
                DType::F32,
                options,
                go_on,
            );
            let weights = Arc::new(weights.unwrap());
            let run = || outputs(Arc::clone(&weights) as Arc<dyn LayerSource>);
            assert!(weights.set_patch(Some(Arc::new(Shift))).unwrap() > 5);
            let changed = run();
            assert!(changed != expected, "{dtype} {allocation}, patched");
            assert!(*patched.get_or_insert_with(|| changed.clone()) == changed, "{allocation}");
            weights.set_patch(None).unwrap();
            assert!(run() == expected, "{dtype} {allocation}, after the patch");
            for device in weights.stats().devices {
                assert!(device.peak_bytes <= device.planned_bytes, "{allocation}: {device:?}");
            }
        }
    }
}
