//! `distorch bench lora`: how long it takes to put a LoRA on a diffusion model, and to take it off.
//!
//! The LoRA is made up: an adapter of the rank for every linear layer of the transformers, as most
//! published ones have.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use distorch_allocation::{ComponentSettings, DeviceInfo, Ledger, Topology, plan};
use distorch_checkpoint::family::Model;
use distorch_checkpoint::folders::ModelKind;
use distorch_checkpoint::{Checkpoint, Component, ComponentKind, Layer, LayerKind};
use distorch_runtime::lora::{LoraFile, LoraPatch};
use distorch_runtime::offload::{OffloadedWeights, Options};
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Device, Machine, Patch, placement, tensor};
use serde::Serialize;

use super::offload::file::random_file;
use super::{listed, load_failure, open, set_threads};
use crate::args::{LoraBenchArgs, Shared};
use crate::commands::{print_json, print_text, recognise};
use crate::failure::Failure;
use crate::machine;
use crate::model_file;
use crate::progress::Progress;

/// How much the LoRA counts.
const STRENGTH: f32 = 0.8;

/// All figures of a run.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    device: String,
    dtype: &'static str,
    threads: usize,
    rank: u32,
    /// Layers that it changes.
    layers: usize,
    /// Their bytes as stored.
    layer_bytes: u64,
    /// Bytes of the LoRA's tensors.
    lora_bytes: u64,
    /// Seconds of putting it on for the first time, which tunes kernels.
    first_seconds: f64,
    /// Seconds of putting it on, each time after.
    apply_seconds: Vec<f64>,
    /// Seconds of taking it off, each time.
    remove_seconds: Vec<f64>,
}

/// Times patching.
pub fn run(shared: &Shared, args: &LoraBenchArgs) -> Result<(), Failure> {
    let (info, topology) = listed(shared, &args.device)?;
    let device = open(&info)?;
    let dtype = DType::from(args.dtype);
    if !tensor::supports(&device, dtype) {
        return Err(Failure::input(format!("`--dtype`: {} does not hold it", args.device)));
    }
    let threads = set_threads(args.threads)?;
    let (path, _file) = path(shared, args)?;
    let (checkpoint, model) = recognise(&path)?;
    let Some(component) = model.component(ComponentKind::DiffusionModel) else {
        return Err(Failure::input(format!("{} has no diffusion model", model.label())));
    };
    let layers: Vec<&Layer> = component.layers.iter().filter(|layer| is_patched(layer)).collect();
    if layers.is_empty() {
        let label = model.label();
        return Err(Failure::input(format!("{label} has no linear layer in a transformer")));
    }
    let (patch, lora_bytes) = lora(&layers, args.rank as usize, &model)?;
    let placed = place(checkpoint, component, &info, topology, dtype)?;
    let rounds = args.rounds as usize;
    let progress = Progress::new("putting the LoRA on and taking it off", 2 * rounds as u64 + 2);
    let timed = |patch: Option<&Arc<dyn Patch>>| {
        let seconds = change(&placed, patch, layers.len(), &device)?;
        progress.advance();
        Ok::<_, Failure>(seconds)
    };
    let first_seconds = timed(Some(&patch))?;
    let mut remove_seconds = vec![timed(None)?];
    let mut apply_seconds = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        apply_seconds.push(timed(Some(&patch))?);
        remove_seconds.push(timed(None)?);
    }
    drop(progress);
    let report = Report {
        model: model.label(),
        device: args.device.clone(),
        dtype: dtype.name(),
        threads,
        rank: args.rank,
        layers: layers.len(),
        layer_bytes: layers.iter().map(|layer| layer.bytes()).sum(),
        lora_bytes,
        first_seconds,
        apply_seconds,
        remove_seconds,
    };
    if args.json { print_json(&report) } else { print_text(&text(&report)) }
}

/// Puts a patch on, or takes it off: the seconds until the device has all layers.
fn change(
    placed: &OffloadedWeights,
    patch: Option<&Arc<dyn Patch>>,
    layers: usize,
    device: &Device,
) -> Result<f64, Failure> {
    tensor::wait(device);
    let start = Instant::now();
    let changed = placed.set_patch(patch.cloned()).map_err(load_failure)?;
    tensor::wait(device);
    let seconds = start.elapsed().as_secs_f64();
    match changed == layers {
        true => Ok(seconds),
        false => Err(Failure::machine(format!("{changed} layers changed instead of {layers}"))),
    }
}

/// The checkpoint, or a file of random weights.
fn path(
    shared: &Shared,
    args: &LoraBenchArgs,
) -> Result<(PathBuf, Option<tempfile::NamedTempFile>), Failure> {
    if let Some(random) = args.random {
        let file = random_file(random)?;
        return Ok((file.path().to_owned(), Some(file)));
    }
    let folders = machine::folders(shared)?;
    let name = args.ckpt.as_deref().unwrap_or_default();
    Ok((model_file::path(&folders, ModelKind::Checkpoints, name)?, None))
}

/// The diffusion model, all of it on the device.
fn place(
    checkpoint: Checkpoint,
    component: &Component,
    info: &DeviceInfo,
    topology: Topology,
    dtype: DType,
) -> Result<OffloadedWeights, Failure> {
    let blocks = placement::blocks(component, 0, None).map_err(Failure::machine)?;
    let settings = ComponentSettings::new(info.id);
    let plan = plan(&blocks, &settings, &Ledger::new(topology.clone())).map_err(Failure::input)?;
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
    .map_err(load_failure)
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
fn lora(layers: &[&Layer], rank: usize, model: &Model) -> Result<(Arc<dyn Patch>, u64), Failure> {
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
    let header = serde_json::to_vec(&header).map_err(Failure::machine)?;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    let file = Checkpoint::from_bytes("made-up-lora.safetensors", bytes);
    let file = Arc::new(file.map_err(Failure::machine)?);
    let lora = Arc::new(LoraFile::new(file, model).map_err(Failure::machine)?);
    let patch = LoraPatch::new(ComponentKind::DiffusionModel).with(&lora, STRENGTH);
    Ok((Arc::new(patch), data.len() as u64))
}

fn text(report: &Report) -> String {
    let Report { model, device, dtype, threads, rank, layers, first_seconds, .. } = report;
    let least = |seconds: &[f64]| seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let (on, off) = (least(&report.apply_seconds), least(&report.remove_seconds));
    format!(
        "{model}; {device} in {dtype}, {threads} threads, rank {rank}, {layers} layers\n\
         put on {on:.3} s ({first_seconds:.3} s the first time), taken off {off:.3} s"
    )
}
