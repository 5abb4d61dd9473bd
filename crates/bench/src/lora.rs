//! How long it takes to put a LoRA on a diffusion model, and to take it off.
//!
//! The LoRA is made up: an adapter of the rank for every linear layer of the transformers, as most
//! published ones have.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use distorch_allocation::{ComponentSettings, DeviceInfo, Ledger, Topology, plan};
use distorch_checkpoint::family::Model;
use distorch_checkpoint::{Checkpoint, Component, ComponentKind, Layer, LayerKind};
use distorch_runtime::lora::{LoraFile, LoraPatch};
use distorch_runtime::offload::{OffloadedWeights, Options};
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Device, Machine, Patch, placement, tensor};
use serde::Serialize;

use crate::error::BenchError;
use crate::progress::Reporter;

/// How much the LoRA counts.
const STRENGTH: f32 = 0.8;

/// How long it took.
#[derive(Clone, Debug, Serialize)]
pub struct LoraTimes {
    /// The rank of the LoRA.
    pub rank: u32,
    /// Layers that it changes.
    pub layers: usize,
    /// Their bytes as stored.
    pub layer_bytes: u64,
    /// Bytes of the LoRA's tensors.
    pub lora_bytes: u64,
    /// Seconds of putting it on for the first time, which tunes kernels.
    pub first_seconds: f64,
    /// Seconds of putting it on, each time after.
    pub apply_seconds: Vec<f64>,
    /// Seconds of taking it off, each time.
    pub remove_seconds: Vec<f64>,
}

/// Where the model is while it is patched.
pub struct Target<'a> {
    /// The device.
    pub info: &'a DeviceInfo,
    /// The device, to compute on.
    pub device: &'a Device,
    /// The machine that has it.
    pub topology: Topology,
    /// The dtype of weights.
    pub dtype: DType,
}

/// Puts a LoRA of this rank on the model's diffusion model and takes it off, once and then `rounds` times more.
///
/// # Errors
/// When the model has nothing that a LoRA changes, the dtype is none of the device's, or the work fails.
pub fn measure(
    checkpoint: Checkpoint,
    model: &Model,
    target: Target<'_>,
    (rank, rounds): (u32, u32),
    reporter: &dyn Reporter,
) -> Result<LoraTimes, BenchError> {
    let Target { info, device, topology, dtype } = target;
    if !tensor::supports(device, dtype) {
        return Err(BenchError::input(format!("{} does not hold {}", info.id, dtype.name())));
    }
    let Some(component) = model.component(ComponentKind::DiffusionModel) else {
        return Err(BenchError::input(format!("{} has no diffusion model", model.label())));
    };
    let layers: Vec<&Layer> = component.layers.iter().filter(|layer| is_patched(layer)).collect();
    if layers.is_empty() {
        let label = model.label();
        return Err(BenchError::input(format!("{label} has no linear layer in a transformer")));
    }
    let (patch, lora_bytes) = lora(&layers, rank as usize, model)?;
    let placed = place(checkpoint, component, info, topology, dtype)?;
    let rounds = rounds as usize;
    let progress = reporter.stage("putting the LoRA on and taking it off", 2 * rounds as u64 + 2);
    let timed = |patch: Option<&Arc<dyn Patch>>| {
        let seconds = change(&placed, patch, layers.len(), device)?;
        progress.advance();
        Ok::<_, BenchError>(seconds)
    };
    let first_seconds = timed(Some(&patch))?;
    let mut remove_seconds = vec![timed(None)?];
    let mut apply_seconds = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        apply_seconds.push(timed(Some(&patch))?);
        remove_seconds.push(timed(None)?);
    }
    Ok(LoraTimes {
        rank,
        layers: layers.len(),
        layer_bytes: layers.iter().map(|layer| layer.bytes()).sum(),
        lora_bytes,
        first_seconds,
        apply_seconds,
        remove_seconds,
    })
}

/// Puts a patch on, or takes it off: the seconds until the device has all layers.
fn change(
    placed: &OffloadedWeights,
    patch: Option<&Arc<dyn Patch>>,
    layers: usize,
    device: &Device,
) -> Result<f64, BenchError> {
    tensor::wait(device);
    let start = Instant::now();
    let changed = placed.set_patch(patch.cloned()).map_err(BenchError::Load)?;
    tensor::wait(device);
    let seconds = start.elapsed().as_secs_f64();
    match changed == layers {
        true => Ok(seconds),
        false => Err(BenchError::failed(format!("{changed} layers changed instead of {layers}"))),
    }
}

/// The diffusion model, all of it on the device.
fn place(
    checkpoint: Checkpoint,
    component: &Component,
    info: &DeviceInfo,
    topology: Topology,
    dtype: DType,
) -> Result<OffloadedWeights, BenchError> {
    let blocks = placement::blocks(component, 0, None).map_err(BenchError::failed)?;
    let settings = ComponentSettings::new(info.id);
    let plan =
        plan(&blocks, &settings, &Ledger::new(topology.clone())).map_err(BenchError::input)?;
    let machine = Machine::new(topology);
    let go_on = |_: distorch_runtime::offload::Progress<'_>| ControlFlow::Continue(());
    OffloadedWeights::load(
        Arc::new(checkpoint),
        component,
        &plan,
        machine,
        dtype,
        Options::default(),
        go_on,
    )
    .map_err(BenchError::Load)
}

/// Whether the LoRA changes a layer: a linear one of a transformer.
fn is_patched(layer: &Layer) -> bool {
    let in_transformer = layer.name.contains("transformer_blocks");
    in_transformer && layer.kind == LayerKind::Linear && weight_shape(layer).is_some()
}

/// `[out, in]` of the layer's weight.
fn weight_shape(layer: &Layer) -> Option<[usize; 2]> {
    let weight = layer.params.iter().find(|param| param.name == "weight")?;
    weight.shape.as_slice().try_into().ok()
}

/// An adapter of this rank for the layers, with its bytes.
fn lora(
    layers: &[&Layer],
    rank: usize,
    model: &Model,
) -> Result<(Arc<dyn Patch>, u64), BenchError> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let mut add = |name: String, shape: [usize; 2]| {
        let start = data.len();
        // Few enough bits for f16 to have each value exactly.
        let values = (0..shape[0] * shape[1]).map(|at| (at % 17) as f32 / 1024.0);
        let values = TensorData::new(values.collect::<Vec<f32>>(), shape);
        data.extend_from_slice(values.convert_dtype(DType::F16).as_bytes());
        let entry = serde_json::json!({
            "dtype": "F16", "shape": shape, "data_offsets": [start, data.len()]
        });
        header.insert(name, entry);
    };
    for layer in layers {
        let Some([outputs, inputs]) = weight_shape(layer) else { continue };
        let name = |part| format!("diffusion_model.{}.lora_{part}.weight", layer.name);
        add(name("up"), [outputs, rank]);
        add(name("down"), [rank, inputs]);
    }
    let header = serde_json::to_vec(&header).map_err(BenchError::failed)?;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    let file = Checkpoint::from_bytes("made-up-lora.safetensors", bytes);
    let file = Arc::new(file.map_err(BenchError::failed)?);
    let lora = Arc::new(LoraFile::new(file, model).map_err(BenchError::failed)?);
    let patch = LoraPatch::new(ComponentKind::DiffusionModel).with(&lora, STRENGTH);
    Ok((Arc::new(patch), data.len() as u64))
}
