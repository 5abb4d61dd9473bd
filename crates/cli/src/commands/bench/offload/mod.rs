//! `distorch bench offload`: what it costs to keep a part of the diffusion model elsewhere.

mod chart;

use std::fs;
use std::path::PathBuf;

use distorch_allocation::{ByteSize, DeviceId, DeviceInfo, Layout, LayoutChoice, Topology};
use distorch_bench::offload::{ComputeDevice, Options, Sweep, sweep};
use distorch_bench::random_file;
use distorch_checkpoint::folders::ModelKind;
use distorch_runtime::{DType, tensor};

use super::{listed, open, picture, set_threads};
use crate::args::{OffloadArgs, Shared};
use crate::commands::{Table, print_json, print_text, recognise};
use crate::error::CliError;
use crate::machine;
use crate::model_file;
use crate::progress::Terminal;

/// Sweeps shares, bandwidths and layouts.
pub fn run(shared: &Shared, args: &OffloadArgs) -> Result<(), CliError> {
    let (bandwidths, window) = (bandwidths(args)?, window(args)?);
    let device = compute_device(shared, args)?;
    let threads = set_threads(args.threads)?;
    let (path, file) = path(shared, args)?;
    let (checkpoint, model) = recognise(&path)?;
    let picture = picture([args.width, args.height], args.batch, &checkpoint, &model);
    let layouts: Vec<LayoutChoice> = match args.layout {
        Some(layout) => vec![layout.into()],
        None => vec![Layout::Distorch2.into(), Layout::Interleave.into()],
    };
    let options = Options {
        shares: args.shares.clone(),
        bandwidths,
        layouts,
        steps: args.steps,
        window,
        pin: args.pin,
        paced: args.paced,
        threads,
    };
    let sweep = sweep((checkpoint, &model, file), picture, device, options, &Terminal)?;
    if let Some(svg) = &args.svg {
        fs::write(svg, chart::svg(&sweep))?;
    }
    if args.json { print_json(&sweep) } else { print_text(&text(&sweep)) }
}

/// The device that the arguments name.
fn compute_device(shared: &Shared, args: &OffloadArgs) -> Result<ComputeDevice, CliError> {
    let Some(name) = &args.device else { return Ok(ComputeDevice::Simulated) };
    let (info, machine) = listed(shared, name)?;
    if info.id.is_cpu() || info.simulated {
        return Err(CliError::usage(format!(
            "`--device {name}`: its weights would come from where they are used; name an \
             accelerator, or leave `--device` out for a simulated one"
        )));
    }
    let device = open(&info)?;
    let dtype = args.dtype.map_or(DType::F16, DType::from);
    if !tensor::supports(&device, dtype) {
        return Err(CliError::usage(format!("`--dtype`: {name} does not compute in {dtype:?}")));
    }
    Ok(ComputeDevice::Real { id: info.id, device, machine, dtype, pin: args.pin })
}

/// The checkpoint, or a file of random weights.
fn path(
    shared: &Shared,
    args: &OffloadArgs,
) -> Result<(PathBuf, Option<tempfile::NamedTempFile>), CliError> {
    if let Some(random) = args.random {
        let file = random_file(random.into(), &Terminal)?;
        return Ok((file.path().to_owned(), Some(file)));
    }
    let folders = machine::folders(shared)?;
    let name = args.ckpt.as_deref().unwrap_or_default();
    Ok((model_file::path(&folders, ModelKind::Checkpoints, name)?, None))
}

/// The bandwidths that are asked for.
fn bandwidths(args: &OffloadArgs) -> Result<Vec<u64>, CliError> {
    let parse = |text: &String| {
        let form =
            || CliError::usage(format!("`--bandwidth {text}`: write a speed such as `4GB/s`"));
        declared(&format!("1B@{text}")).and_then(|device| device.bandwidth).ok_or_else(form)
    };
    args.bandwidth.iter().map(parse).collect()
}

/// The bytes of the window, where they are asked for.
fn window(args: &OffloadArgs) -> Result<Option<u64>, CliError> {
    let parse = |text: &String| {
        let form = || CliError::usage(format!("`--window {text}`: write a size such as `512MiB`"));
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
