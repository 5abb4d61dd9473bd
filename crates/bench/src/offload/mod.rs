//! What it costs to keep a part of the diffusion model elsewhere.
//!
//! The model computes on a simulated device, `cuda:0`, whose link to the host has a bandwidth, or on a
//! real one whose link is measured, and a share of it lives in the file on the host. For each share,
//! bandwidth and layout a step is held against the roofline: the longer of computing (a step with
//! everything on the device) and of moving the bytes over the link. Steps of both take turns and the best
//! count, so that what else the machine does matters less.

mod device;
mod paced;
mod subject;

use distorch_allocation::{Layout, LayoutChoice, LayoutReason};
use distorch_checkpoint::Checkpoint;
use distorch_checkpoint::family::Model;
use distorch_models::estimate::Workload;
use serde::Serialize;
use tempfile::NamedTempFile;

pub use self::device::ComputeDevice;
use self::subject::{Subject, Times};
use crate::error::BenchError;
use crate::progress::Reporter;

/// Link seconds in parts of compute seconds, of the bandwidths that are tried when none is named.
const BALANCES: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// What is swept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Parts of the model that live on the host, in per cent.
    pub shares: Vec<u32>,
    /// Speeds of the link in bytes per second, beside that of a real device's own; where there is none, some
    /// around that with which moving all of the model takes as long as a step computes.
    pub bandwidths: Vec<u64>,
    /// The layouts.
    pub layouts: Vec<LayoutChoice>,
    /// Steps that are timed at each point, after one that isn't.
    pub steps: u32,
    /// Bytes of the window, if not the plan's.
    pub window: Option<u64>,
    /// Whether what lives on the host is kept in memory.
    pub pin: bool,
    /// Whether one step is computed, and its time passes in the others.
    pub paced: bool,
    /// Threads that compute on the CPU, as the report has it.
    pub threads: usize,
}

/// All figures of a sweep.
#[derive(Debug, Serialize)]
pub struct Sweep {
    /// What the model is, for people.
    pub model: String,
    /// What computes: a name, or that it is simulated.
    pub device: String,
    /// Of activations.
    pub dtype: &'static str,
    /// Threads that compute on the CPU.
    pub threads: usize,
    /// Pixels of the picture.
    pub width: u32,
    /// Pixels of the picture.
    pub height: u32,
    /// Pictures at once.
    pub batch: u32,
    /// Whether computing is a clock.
    pub paced: bool,
    /// Bytes of the diffusion model as stored.
    pub bytes: u64,
    /// Each share, bandwidth and layout.
    pub points: Vec<Point>,
}

/// One share of the model elsewhere, one bandwidth, one layout.
#[derive(Debug, Serialize)]
pub struct Point {
    /// The layout that was asked for.
    pub asked: LayoutChoice,
    /// The layout that the plan took.
    pub layout: Layout,
    /// Why.
    pub layout_reason: LayoutReason,
    /// The part of the model that lives on the host, in per cent.
    pub share_percent: u32,
    /// Of the link, in bytes per second.
    pub bandwidth: u64,
    /// The best step.
    pub step_seconds: f64,
    /// Those of the best step with everything on the device.
    pub compute_seconds: f64,
    /// Bytes over the bandwidth.
    pub link_seconds: f64,
    /// The longer of the two.
    pub roofline_seconds: f64,
    /// The step in parts of the roofline.
    pub ratio: f64,
    /// Seconds that all threads computed in a step.
    pub cpu_seconds: f64,
    /// Those with everything on the device.
    pub compute_cpu_seconds: f64,
    /// Over the link in a step.
    pub bytes_moved: u64,
    /// In which computing waited for weights, in a step.
    pub stall_seconds: f64,
    /// The most that was in the window at once.
    pub window_bytes: u64,
}

/// Sweeps shares, bandwidths and layouts. A file of random weights goes with the model, if that is in one.
///
/// # Errors
/// When there is no diffusion model, or the work fails.
pub fn sweep(
    (checkpoint, model, file): (Checkpoint, &Model, Option<NamedTempFile>),
    picture: Workload,
    device: ComputeDevice,
    options: Options,
    reporter: &dyn Reporter,
) -> Result<Sweep, BenchError> {
    let Options { shares, mut bandwidths, layouts, steps, window, pin, paced, threads } = options;
    let (label, dtype) = (device.label(), device.dtype().name());
    bandwidths.extend(device.measured_bandwidth());
    let times = Times { steps, window, pin };
    let mut subject = Subject::new((checkpoint, model), picture, device, times, file)?;
    if paced {
        subject.pace()?;
    }
    let bytes = subject.bytes();
    if bandwidths.is_empty() {
        let compute = subject.compute()?;
        let balance = bytes as f64 / compute;
        bandwidths = BALANCES.iter().map(|part| (balance / part) as u64).collect();
    }
    let count = layouts.len() * shares.len() * bandwidths.len();
    let progress = reporter.stage("shares, bandwidths and layouts", count as u64);
    let mut points = Vec::with_capacity(count);
    for &layout in &layouts {
        for &share in &shares {
            for &bandwidth in &bandwidths {
                points.push(subject.point(layout, share, bandwidth)?);
                progress.advance();
            }
        }
    }
    let (width, height, batch) = (picture.width, picture.height, picture.batch);
    let (model, device) = (subject.label, label);
    Ok(Sweep { model, device, dtype, threads, width, height, batch, paced, bytes, points })
}
