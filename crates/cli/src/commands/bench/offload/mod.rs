//! `distorch bench offload`: what it costs to keep a part of the diffusion model elsewhere.
//!
//! The model computes on a simulated device, `cuda:0`, whose link to the host has a bandwidth, and a share
//! of it lives in the file on the host. For each share, bandwidth and layout a step is held against
//! the roofline: the longer of computing (a step with everything on the device) and of moving the
//! bytes over the link. The best of the steps counts, so that what else the machine does matters
//! less.

mod chart;
mod paced;

use std::fs;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use distorch_allocation::{
    Allocation, ByteSize, ComponentSettings, DeviceId, DeviceInfo, DeviceKind, Layout, Ledger,
    Topology, plan,
};
use distorch_checkpoint::config::{DiffusionConfig, UnetConfig};
use distorch_checkpoint::family::{Configs, Model, blank};
use distorch_checkpoint::{Checkpoint, Component, ComponentKind, Dtype};
use distorch_models::estimate::{self, Compute};
use distorch_models::unet::Unet;
use distorch_runtime::placed::{Options, Placed, StreamStats};
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, LayerSource, Machine, Scope, Tensor, placement, usage};
use serde::Serialize;

use self::paced::{Recorder, Score};
use super::{LATENT_CELL, picture, random, set_threads};
use crate::args::{OffloadArgs, RandomModel, Shared};
use crate::commands::{print_json, print_text, recognise, table};
use crate::failure::Failure;
use crate::machine;
use crate::progress::Progress;

/// A simulated device computes as the host does.
const HOST: Compute = Compute { element: 4, host: true };

/// Link seconds in parts of compute seconds, of the bandwidths that are tried when none is named.
const BALANCES: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// All figures of a sweep.
#[derive(Debug, Serialize)]
pub struct Sweep {
    model: String,
    threads: usize,
    width: u32,
    height: u32,
    batch: u32,
    /// Whether computing is a clock.
    paced: bool,
    /// Bytes of the diffusion model as stored.
    bytes: u64,
    points: Vec<Point>,
}

/// One share of the model elsewhere, one bandwidth, one layout.
#[derive(Debug, Serialize)]
pub struct Point {
    layout: Layout,
    /// The part of the model that lives on the host, in per cent.
    share_percent: u32,
    /// Of the link, in bytes per second.
    bandwidth: u64,
    /// The best step.
    step_seconds: f64,
    /// Those of a step with everything on the device, the best around this point.
    compute_seconds: f64,
    /// Bytes over the bandwidth.
    link_seconds: f64,
    /// The longer of the two.
    roofline_seconds: f64,
    /// The step in parts of the roofline.
    ratio: f64,
    /// Seconds that all threads computed in a step.
    cpu_seconds: f64,
    /// Those with everything on the device.
    compute_cpu_seconds: f64,
    /// Over the link in a step.
    bytes_moved: u64,
    /// In which computing waited for weights, in a step.
    stall_seconds: f64,
    window_bytes: u64,
}

/// What is timed.
struct Subject {
    label: String,
    checkpoint: Arc<Checkpoint>,
    component: Component,
    config: UnetConfig,
    activations: u64,
    latent: [usize; 4],
    /// A file of random weights, which goes with it.
    _file: Option<tempfile::NamedTempFile>,
    /// A step's layers in their time, where computing is a clock.
    score: Option<Score>,
}

/// Sweeps shares, bandwidths and layouts.
pub fn run(shared: &Shared, args: &OffloadArgs) -> Result<(), Failure> {
    let mut bandwidths = bandwidths(args)?;
    let threads = set_threads(args.threads)?;
    let (path, file) = path(shared, args)?;
    let (checkpoint, model) = recognise(&path)?;
    let picture = picture([args.width, args.height], args.batch, &model)?;
    let mut subject = Subject::new(checkpoint, &model, picture, file)?;
    if args.paced {
        subject.score = Some(subject.record()?);
    }
    let bytes = subject.component.bytes();
    if bandwidths.is_empty() {
        // Around that with which moving all of the model takes as long as a step computes.
        let compute = subject.time(0, u64::MAX, Layout::Distorch2, args)?.best;
        let balance = bytes as f64 / compute;
        bandwidths = BALANCES.iter().map(|part| (balance / part) as u64).collect();
    }
    let shares = args.shares.iter().filter(|&&share| share > 0).count();
    let layouts: Vec<Layout> = match args.layout {
        Some(layout) => vec![layout.into()],
        None => vec![Layout::Distorch2, Layout::Interleave],
    };
    let count = layouts.len() * shares * bandwidths.len();
    let progress = Progress::new("shares, bandwidths and layouts", count as u64);
    let mut points = Vec::with_capacity(count);
    for &layout in &layouts {
        for &share in args.shares.iter().filter(|&&share| share > 0) {
            for &bandwidth in &bandwidths {
                points.push(subject.point(layout, share, bandwidth, args)?);
                progress.advance();
            }
        }
    }
    let (width, height, batch) = (picture.width, picture.height, picture.batch);
    let (model, paced) = (subject.label, args.paced);
    let sweep = Sweep { model, threads, width, height, batch, paced, bytes, points };
    drop(progress);
    if let Some(svg) = &args.svg {
        fs::write(svg, chart::svg(&sweep))?;
    }
    if args.json { print_json(&sweep) } else { print_text(&text(&sweep)) }
}

/// The checkpoint, or a file of random weights.
fn path(
    shared: &Shared,
    args: &OffloadArgs,
) -> Result<(PathBuf, Option<tempfile::NamedTempFile>), Failure> {
    if let Some(random) = args.random {
        let file = random_file(random)?;
        return Ok((file.path().to_owned(), Some(file)));
    }
    let folders = machine::folders(shared)?;
    let name = args.ckpt.as_deref().unwrap_or_default();
    Ok((machine::checkpoint_path(&folders, name)?, None))
}

/// A diffusion model of random weights in f16.
fn random_file(model: RandomModel) -> Result<tempfile::NamedTempFile, Failure> {
    let diffusion = random::configs(model).diffusion;
    let configs = Configs { diffusion, ..Configs::default() };
    let blank = blank("random weights", &configs, Dtype::F16).map_err(Failure::machine)?;
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (key, info) in blank.tensors() {
        let start = end;
        end += info.bytes();
        let entry = serde_json::json!({
            "dtype": info.dtype, "shape": info.shape, "data_offsets": [start, end]
        });
        header.insert(key.to_owned(), entry);
    }
    let header = serde_json::to_vec(&header).map_err(Failure::machine)?;
    let mut file = tempfile::NamedTempFile::new()?;
    let mut to = BufWriter::new(file.as_file_mut());
    to.write_all(&(header.len() as u64).to_le_bytes())?;
    to.write_all(&header)?;
    let progress = Progress::new("writing random weights", blank.len() as u64);
    for (seed, (_, info)) in (0..).zip(blank.tensors()) {
        let inputs: usize = info.shape.iter().skip(1).product();
        let scale = (3.0 / inputs.max(1) as f32).sqrt();
        let values = random::uniform(seed, info.elements() as usize);
        let data = TensorData::new(values, [info.elements() as usize]);
        let scaled: Vec<f32> = data.iter::<f32>().map(|value| scale * value).collect();
        let data = TensorData::new(scaled, [info.elements() as usize]);
        to.write_all(data.convert_dtype(DType::F16).as_bytes())?;
        progress.advance();
    }
    to.flush()?;
    drop(to);
    Ok(file)
}

/// The bandwidths that are asked for.
fn bandwidths(args: &OffloadArgs) -> Result<Vec<u64>, Failure> {
    // Read as everywhere: in the declaration of a simulated device.
    let host = DeviceInfo::new(DeviceId::CPU, "host", 1);
    let host = Topology::new(vec![host]).map_err(Failure::machine)?;
    let parse = |text: &String| {
        let declared = host.simulate(&format!("cuda:0=1B@{text}")).ok();
        let bandwidth = declared.and_then(|machine| machine.devices().first()?.bandwidth);
        let form = "write a speed such as `4GB/s`";
        bandwidth.ok_or_else(|| Failure::input(format!("`--bandwidth {text}`: {form}")))
    };
    args.bandwidth.iter().map(parse).collect()
}

/// Some steps.
struct Timed {
    /// Seconds of the best.
    best: f64,
    /// Of all threads, of the step where that was least.
    cpu: f64,
    stats: StreamStats,
    /// Bytes of the model that don't live on the device.
    elsewhere: u64,
}

impl Subject {
    fn new(
        checkpoint: Checkpoint,
        model: &Model,
        picture: estimate::Picture,
        file: Option<tempfile::NamedTempFile>,
    ) -> Result<Self, Failure> {
        let config = model.diffusion.as_ref().map(|diffusion| &diffusion.config);
        let component = model.component(ComponentKind::DiffusionModel);
        let (Some(DiffusionConfig::Unet(config)), Some(component)) = (config, component) else {
            let label = model.label();
            return Err(Failure::input(format!("{label} has no UNet, which is what is timed")));
        };
        let [height, width] = [picture.height, picture.width].map(|n| (n / LATENT_CELL) as usize);
        Ok(Self {
            label: model.label(),
            checkpoint: Arc::new(checkpoint),
            component: component.clone(),
            config: config.clone(),
            activations: estimate::activation_bytes(model, component, picture, HOST),
            latent: [2 * picture.batch as usize, config.in_channels, height, width],
            _file: file,
            score: None,
        })
    }

    /// A step with a share elsewhere, and one without just before it: machines change their pace.
    fn point(
        &self,
        layout: Layout,
        share: u32,
        bandwidth: u64,
        args: &OffloadArgs,
    ) -> Result<Point, Failure> {
        let Timed { best: compute_seconds, cpu: compute_cpu_seconds, .. } =
            self.time(0, bandwidth, layout, args)?;
        let Timed { best: step_seconds, cpu: cpu_seconds, stats, elsewhere } =
            self.time(share, bandwidth, layout, args)?;
        let steps = u64::from(args.steps);
        // What the window holds at both ends of the run differs, so this is not quite `elsewhere`.
        let bytes_moved = stats.bytes_moved / steps;
        let link_seconds = elsewhere as f64 / bandwidth as f64;
        let roofline_seconds = compute_seconds.max(link_seconds);
        Ok(Point {
            layout,
            share_percent: share,
            bandwidth,
            step_seconds,
            compute_seconds,
            link_seconds,
            roofline_seconds,
            ratio: step_seconds / roofline_seconds,
            cpu_seconds,
            compute_cpu_seconds,
            bytes_moved,
            stall_seconds: stats.stall_seconds / steps as f64,
            window_bytes: stats.devices.iter().map(|device| device.window_bytes).max().unwrap_or(0),
        })
    }

    /// The best of some steps after one that isn't counted, and what passed in all of these.
    fn time(
        &self,
        share: u32,
        bandwidth: u64,
        layout: Layout,
        args: &OffloadArgs,
    ) -> Result<Timed, Failure> {
        if let (Some(score), 0) = (&self.score, share) {
            let best = score.length().as_secs_f64();
            return Ok(Timed { best, cpu: 0.0, stats: StreamStats::default(), elsewhere: 0 });
        }
        let placed = Arc::new(self.place(share, bandwidth, layout)?);
        let plan = placed.plan();
        let unet = self.unet(Arc::clone(&placed) as Arc<dyn LayerSource>)?;
        let step = || match &self.score {
            Some(score) => score.play(&placed).map_err(Failure::machine),
            None => self.step(&unet),
        };
        step()?;
        placed.reset_stats();
        let (mut best, mut least) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..args.steps {
            let cpu = usage::cpu_time();
            best = best.min(step()?.as_secs_f64());
            least = least.min(usage::cpu_time().saturating_sub(cpu).as_secs_f64());
        }
        let elsewhere = plan.bytes - plan.resident_bytes;
        Ok(Timed { best, cpu: least, stats: placed.stats(), elsewhere })
    }

    fn unet(&self, source: Arc<dyn LayerSource>) -> Result<Unet, Failure> {
        Unet::load(&Scope::new(source), &self.config).map_err(Failure::input)
    }

    /// A step with everything on the device, computed and written down.
    fn record(&self) -> Result<Score, Failure> {
        let placed = Arc::new(self.place(0, u64::MAX, Layout::Distorch2)?);
        let recorder = Arc::new(Recorder::new(placed));
        let unet = self.unet(Arc::clone(&recorder) as Arc<dyn LayerSource>)?;
        self.step(&unet)?;
        recorder.take();
        self.step(&unet)?;
        Ok(recorder.take())
    }

    fn place(&self, share: u32, bandwidth: u64, layout: Layout) -> Result<Placed, Failure> {
        let device = DeviceId::new(DeviceKind::Cuda, 0).unwrap_or(DeviceId::CPU);
        // Room for everything: what is measured is the link.
        let room = 4 * (self.component.bytes() + self.activations) + (4 << 30);
        let simulated = DeviceInfo {
            simulated: true,
            bandwidth: Some(bandwidth),
            ..DeviceInfo::new(device, "simulated device", room)
        };
        let host = DeviceInfo::new(DeviceId::CPU, "host", 1 << 50);
        let topology = Topology::new(vec![simulated, host]).map_err(Failure::machine)?;
        let mut settings = ComponentSettings::new(device);
        if share > 0 {
            let allocation = format!("{device},{}%;cpu,{share}%", 100 - share);
            settings.expert = Allocation::parse(&allocation).map_err(Failure::machine)?;
        }
        settings.layout = layout;
        let blocks =
            placement::blocks(&self.component, self.activations).map_err(Failure::machine)?;
        let ledger = Ledger::new(topology.clone());
        let plan = plan(&blocks, &settings, &ledger).map_err(Failure::machine)?;
        let machine = Machine::new(topology);
        let (file, options) = (Arc::clone(&self.checkpoint), Options::default());
        let go_on = |_: distorch_runtime::placed::Progress<'_>| ControlFlow::Continue(());
        Placed::load(file, &self.component, &plan, machine, DType::F32, options, go_on)
            .map_err(Failure::machine)
    }

    /// Computes a step, and gives the time that it took.
    fn step(&self, unet: &Unet) -> Result<Duration, Failure> {
        let start = Instant::now();
        let cpu = distorch_runtime::tensor::cpu();
        let options = || (&cpu, DType::F32);
        let rows = self.latent[0];
        fn input<const D: usize>(shape: [usize; D]) -> TensorData {
            TensorData::new(random::uniform(1, shape.iter().product()), shape)
        }
        let latent = Tensor::<4>::from_data(input(self.latent), options());
        let context = input([rows, 77, self.config.context_dim]);
        let context = Tensor::<3>::from_data(context, options());
        let class = self.config.adm_in_channels;
        let class = class.map(|width| Tensor::<2>::from_data(input([rows, width]), options()));
        let timesteps = Tensor::<1>::full([rows], 500.0, options());
        let out = unet.forward(latent, timesteps, context, class).map_err(Failure::machine)?;
        drop(out.into_data());
        Ok(start.elapsed())
    }
}

/// The sweep for people.
fn text(sweep: &Sweep) -> String {
    let Sweep { model, threads, width, height, batch, bytes, .. } = sweep;
    let clock = if sweep.paced { ", computing is a clock" } else { "" };
    let header = [
        "Layout",
        "Elsewhere",
        "Link",
        "Step",
        "Compute",
        "Moving",
        "Ratio",
        "CPU",
        "Moved",
        "Stalled",
        "Window",
    ];
    let mut rows = table(header, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    for point in &sweep.points {
        let seconds = |value: f64| format!("{value:.2} s");
        rows.add_row([
            point.layout.to_string(),
            format!("{} %", point.share_percent),
            format!("{:.2} GB/s", point.bandwidth as f64 / 1e9),
            seconds(point.step_seconds),
            seconds(point.compute_seconds),
            seconds(point.link_seconds),
            format!("{:.3}", point.ratio),
            match point.compute_cpu_seconds {
                0.0 => String::new(),
                resident => format!("{:.3}", point.cpu_seconds / resident),
            },
            ByteSize(point.bytes_moved).to_string(),
            seconds(point.stall_seconds),
            ByteSize(point.window_bytes).to_string(),
        ]);
    }
    format!(
        "{model}, {} as stored; simulated device, {threads} threads, {width}×{height}, batch \
         {batch}{clock}\n{rows}\nRatio: the step in parts of the longer of computing and moving. CPU: \
         the time that all threads computed, in parts of that with everything on the device.",
        ByteSize(*bytes)
    )
}
