//! A small component in a file: a stack of layers, each used once a pass.

#![allow(dead_code)] // each test file uses its own part

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use distorch_allocation::{
    Allocation, ComponentSettings, DeviceId, DeviceInfo, Layout, Ledger, Plan, Topology, plan,
};
use distorch_checkpoint::{Checkpoint, Component, ComponentKind, Dtype, Layer, LayerKind, Param};
use distorch_runtime::offload::{LoadError, OffloadedWeights, Options};
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, LayerSource, Machine, Tensor, WeightError, kernels, placement};
use distorch_test_support::model_file::{ModelFile, encode};

/// Side of every weight.
pub const SIDE: usize = 64;

/// A file of square linear layers, `l0` to `l{n-1}`, each with a bias, in a dtype.
pub struct Stack {
    pub dir: tempfile::TempDir,
    pub path: PathBuf,
    pub component: Component,
}

/// Bytes in [-1, 1) when read as 32-bit fractions; the same in every run.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let value = |i: u64| {
        let z = (seed << 32).wrapping_add(i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..count as u64).map(value).collect()
}

fn stored(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => encode(values, dtype),
        // Any byte but the two that are no number.
        _ => values
            .iter()
            .map(|v| {
                let byte = (v.to_bits() >> 8) as u8;
                if byte & 0x7f > 0x6f { byte & 0xbf } else { byte }
            })
            .collect(),
    }
}

impl Stack {
    /// `count` layers; 8-bit ones have a scale and an f16 bias.
    pub fn new(count: usize, dtype: Dtype) -> Self {
        let mut file = ModelFile::new();
        let mut add = |name: String, dtype: Dtype, shape: &[usize], bytes: Vec<u8>| {
            file.add_bytes(&name, dtype, shape, &bytes);
            Param {
                name: name.rsplit('.').next().unwrap().to_owned(),
                key: name,
                dtype,
                shape: shape.to_vec(),
                rows: None,
                transposed: false,
            }
        };
        let layers = (0..count).map(|i| {
            let small = if dtype.size() == 1 { Dtype::F16 } else { dtype };
            let weight = stored(&noise(i as u64, SIDE * SIDE), dtype);
            let bias = stored(&noise(1000 + i as u64, SIDE), small);
            let mut params = vec![
                add(format!("l{i}.weight"), dtype, &[SIDE, SIDE], weight),
                add(format!("l{i}.bias"), small, &[SIDE], bias),
            ];
            if dtype.size() == 1 {
                let scale = stored(&[0.01 + i as f32 * 1e-3], Dtype::F32);
                params.push(add(format!("l{i}.scale_weight"), Dtype::F32, &[], scale));
            }
            let (name, kind) = (format!("l{i}"), LayerKind::Linear);
            Layer { name, kind, use_index: i, head: false, params }
        });
        let component = Component { kind: ComponentKind::DiffusionModel, layers: layers.collect() };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stack.safetensors");
        file.write(&path);
        Self { dir, path, component }
    }

    pub fn open(&self) -> Arc<Checkpoint> {
        Arc::new(Checkpoint::open(&self.path).unwrap())
    }

    /// Bytes of one layer.
    pub fn layer_bytes(&self) -> u64 {
        self.component.layers[0].bytes()
    }

    /// The plan of an expert allocation; empty for all on the compute device.
    pub fn plan(&self, machine: &Machine, compute: &str, expert: &str) -> Plan {
        self.plan_as(machine, compute, expert, Layout::Distorch2, 0)
    }

    pub fn plan_as(
        &self,
        machine: &Machine,
        compute: &str,
        expert: &str,
        layout: Layout,
        activations: u64,
    ) -> Plan {
        let blocks = placement::blocks(&self.component, activations, None).unwrap();
        let mut settings = ComponentSettings::new(id(compute));
        settings.expert = Allocation::parse(expert).unwrap();
        settings.layout = layout.into();
        plan(&blocks, &settings, &Ledger::new(machine.topology().clone())).unwrap()
    }

    pub fn load(&self, machine: &Arc<Machine>, plan: &Plan) -> OffloadedWeights {
        self.try_load(machine, plan, Options::default()).unwrap()
    }

    /// With a window of no more than the two largest layers.
    pub fn load_narrow(&self, machine: &Arc<Machine>, plan: &Plan) -> OffloadedWeights {
        self.try_load(machine, plan, Options { window: Some(0), ..Options::default() }).unwrap()
    }

    pub fn try_load(
        &self,
        machine: &Arc<Machine>,
        plan: &Plan,
        options: Options,
    ) -> Result<OffloadedWeights, LoadError> {
        OffloadedWeights::load(
            self.open(),
            &self.component,
            plan,
            Arc::clone(machine),
            DType::F32,
            options,
            |_| ControlFlow::Continue(()),
        )
    }
}

/// A machine of one host and the simulated devices of the text.
pub fn machine(simulated: &str) -> Arc<Machine> {
    let host = DeviceInfo::new(DeviceId::CPU, "host", 1 << 40);
    Machine::new(Topology::new(vec![host]).unwrap().simulate(simulated).unwrap())
}

pub fn id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

/// One pass through layers in this order.
pub fn pass(source: &dyn LayerSource, order: &[usize]) -> Result<Vec<u32>, WeightError> {
    let device = (source.device(), DType::F32);
    let mut x = Tensor::<3>::from_data(TensorData::new(noise(7, 4 * SIDE), [1, 4, SIDE]), device);
    for i in order {
        let params = source.fetch(source.find(&format!("l{i}")).unwrap())?;
        x = kernels::linear(
            x,
            params.weight()?,
            params.bias()?,
            kernels::Rows::Tokens,
            params.precision(),
        );
        // Back to the order of 1, so that bits of every layer count.
        x = x.tanh();
    }
    let values = x.into_data().to_vec::<f32>().unwrap();
    Ok(values.into_iter().map(f32::to_bits).collect())
}

/// All layers once, in definition order.
pub fn forward(source: &dyn LayerSource, stack: &Stack) -> Result<Vec<u32>, WeightError> {
    pass(source, &(0..stack.component.layers.len()).collect::<Vec<_>>())
}

pub fn truncate(path: &Path) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap();
}
