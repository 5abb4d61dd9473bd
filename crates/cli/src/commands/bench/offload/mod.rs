//! `distorch bench offload`: what it costs to keep a part of the diffusion model elsewhere.
//!
//! The model computes on a simulated device, `cuda:0`, whose link to the host has a bandwidth, or on a
//! real one whose link is measured, and a share of it lives in the file on the host. For each share,
//! bandwidth and layout a step is held against the roofline: the longer of computing (a step with
//! everything on the device) and of moving the bytes over the link. Steps of both take turns and the best
//! count, so that what else the machine does matters less.

mod chart;
mod device;
pub(super) mod file;
mod paced;
mod subject;

use std::fs;
use std::path::PathBuf;

use distorch_allocation::{
    ByteSize, DeviceId, DeviceInfo, Layout, LayoutChoice, LayoutReason, Topology,
};
use distorch_checkpoint::folders::ModelKind;
use serde::Serialize;

use self::device::ComputeDevice;
use self::subject::{Subject, Times};
use super::{picture, set_threads};
use crate::args::{OffloadArgs, Shared};
use crate::commands::{Table, print_json, print_text, recognise};
use crate::failure::Failure;
use crate::machine;
use crate::model_file;
use crate::progress::Progress;

/// Link seconds in parts of compute seconds, of the bandwidths that are tried when none is named.
const BALANCES: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// All figures of a sweep.
#[derive(Debug, Serialize)]
pub struct Sweep {
    model: String,
    /// What computes: a name, or that it is simulated.
    device: String,
    dtype: &'static str,
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
    /// The layout that was asked for.
    asked: LayoutChoice,
    layout: Layout,
    layout_reason: LayoutReason,
    /// The part of the model that lives on the host, in per cent.
    share_percent: u32,
    /// Of the link, in bytes per second.
    bandwidth: u64,
    /// The best step.
    step_seconds: f64,
    /// Those of the best step with everything on the device.
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

/// Sweeps shares, bandwidths and layouts.
pub fn run(shared: &Shared, args: &OffloadArgs) -> Result<(), Failure> {
    let (mut bandwidths, window) = (bandwidths(args)?, window(args)?);
    let device = ComputeDevice::new(shared, args)?;
    let (label, dtype) = (device.label(), device.dtype().name());
    bandwidths.extend(device.measured_bandwidth());
    let threads = set_threads(args.threads)?;
    let (path, file) = path(shared, args)?;
    let (checkpoint, model) = recognise(&path)?;
    let picture = picture([args.width, args.height], args.batch, &checkpoint, &model);
    let times = Times { steps: args.steps, window, pin: args.pin };
    let mut subject = Subject::new((checkpoint, &model), picture, device, times, file)?;
    if args.paced {
        subject.pace()?;
    }
    let bytes = subject.bytes();
    if bandwidths.is_empty() {
        // Around that with which moving all of the model takes as long as a step computes.
        let compute = subject.compute()?;
        let balance = bytes as f64 / compute;
        bandwidths = BALANCES.iter().map(|part| (balance / part) as u64).collect();
    }
    let layouts: Vec<LayoutChoice> = match args.layout {
        Some(layout) => vec![layout.into()],
        None => vec![Layout::Distorch2.into(), Layout::Interleave.into()],
    };
    let count = layouts.len() * args.shares.len() * bandwidths.len();
    let progress = Progress::new("shares, bandwidths and layouts", count as u64);
    let mut points = Vec::with_capacity(count);
    for &layout in &layouts {
        for &share in &args.shares {
            for &bandwidth in &bandwidths {
                points.push(subject.point(layout, share, bandwidth)?);
                progress.advance();
            }
        }
    }
    let (width, height, batch) = (picture.width, picture.height, picture.batch);
    let (model, paced) = (subject.label, args.paced);
    let device = label;
    let sweep = Sweep { model, device, dtype, threads, width, height, batch, paced, bytes, points };
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
        let file = file::random_file(random)?;
        return Ok((file.path().to_owned(), Some(file)));
    }
    let folders = machine::folders(shared)?;
    let name = args.ckpt.as_deref().unwrap_or_default();
    Ok((model_file::path(&folders, ModelKind::Checkpoints, name)?, None))
}

/// The bandwidths that are asked for.
fn bandwidths(args: &OffloadArgs) -> Result<Vec<u64>, Failure> {
    let parse = |text: &String| {
        let form =
            || Failure::input(format!("`--bandwidth {text}`: write a speed such as `4GB/s`"));
        declared(&format!("1B@{text}")).and_then(|device| device.bandwidth).ok_or_else(form)
    };
    args.bandwidth.iter().map(parse).collect()
}

/// The bytes of the window, where they are asked for.
fn window(args: &OffloadArgs) -> Result<Option<u64>, Failure> {
    let parse = |text: &String| {
        let form = || Failure::input(format!("`--window {text}`: write a size such as `512MiB`"));
        declared(text).filter(|device| device.bandwidth.is_none()).ok_or_else(form)
    };
    args.window.as_ref().map(parse).transpose().map(|device| device.map(|device| device.total))
}

/// A size and a speed, read as everywhere: in the declaration of a simulated device.
fn declared(text: &str) -> Option<DeviceInfo> {
    let host = Topology::new(vec![DeviceInfo::new(DeviceId::CPU, "host", 1)]).ok()?;
    let machine = host.simulate(&format!("cuda:0={text}")).ok()?;
    machine.devices().iter().find(|device| device.simulated).cloned()
}

/// The sweep for people.
fn text(sweep: &Sweep) -> String {
    let Sweep { model, device, dtype, threads, width, height, batch, bytes, .. } = sweep;
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
    let numbers = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    let mut rows = Table::new(header, numbers).optional(&[10, 7, 9, 8, 5, 4]);
    for point in &sweep.points {
        let seconds = |value: f64| format!("{value:.2} s");
        rows.add_row([
            match point.asked {
                LayoutChoice::Auto => format!("auto: {}", point.layout),
                LayoutChoice::Fixed(layout) => layout.to_string(),
            },
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
        "{model}, {} as stored; {device} in {dtype}, {threads} threads, {width}×{height}, \
         batch {batch}{clock}\n{rows}\nRatio: the step in parts of the longer of computing and moving. CPU: \
         the time that all threads computed, in parts of that with everything on the device.",
        ByteSize(*bytes)
    )
}
