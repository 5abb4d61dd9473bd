//! `distorch bench link`: how fast bytes go from the host to a device and back, as plain copies.

use std::time::Instant;

use distorch_allocation::DeviceKind;
use distorch_runtime::tensor::{self, AnyTensor, Piece};
use distorch_runtime::{DType, Device, devices, pinned};
use serde::Serialize;

use super::{listed, open};
use crate::args::{LinkArgs, Shared};
use crate::commands::{Table, print_json, print_text};
use crate::failure::Failure;

/// Copies over one link.
#[derive(Debug, Serialize)]
struct Link {
    device: String,
    /// Bytes of a copy.
    bytes: usize,
    copies: Vec<Copies>,
}

/// Copies of one kind.
#[derive(Debug, Serialize)]
struct Copies {
    /// `upload` goes to the device, `download` comes from it.
    direction: &'static str,
    /// Whether they go through pinned memory. What a device's driver does by itself is not known.
    pinned: bool,
    seconds: Vec<f64>,
    min_seconds: f64,
    /// Of the fastest.
    bytes_per_second: f64,
}

impl Copies {
    fn new(direction: &'static str, pinned: bool, bytes: usize, seconds: Vec<f64>) -> Self {
        let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let bytes_per_second = bytes as f64 / least;
        Self { direction, pinned, seconds, min_seconds: least, bytes_per_second }
    }
}

/// Times copies in both directions.
pub fn run(shared: &Shared, args: &LinkArgs) -> Result<(), Failure> {
    let (info, _) = listed(shared, &args.device)?;
    if info.simulated {
        return Err(Failure::input(format!(
            "`--device {}` is simulated: its link is as fast as it was declared to be",
            args.device
        )));
    }
    let device = open(&info)?;
    let bytes = (args.mib as usize) << 20;
    let timed = |time: &dyn Fn() -> Result<f64, Failure>| {
        time()?;
        (0..args.copies).map(|_| time()).collect::<Result<Vec<f64>, _>>()
    };
    let mut copies = Vec::new();
    let has_pinned = matches!(info.id.kind(), DeviceKind::Cuda | DeviceKind::Rocm);
    for pinned in [false, true].into_iter().filter(|pinned| !pinned || has_pinned) {
        let seconds = timed(&|| Ok(upload(bytes, &device, pinned).1))?;
        copies.push(Copies::new("upload", pinned, bytes, seconds));
    }
    let seconds = timed(&|| download(bytes, &device))?;
    copies.push(Copies::new("download", false, bytes, seconds));
    let link = Link { device: args.device.clone(), bytes, copies };
    if args.json { print_json(&link) } else { print_text(&text(&link)) }
}

/// Copies bytes to the device: their tensor there, and the seconds until the last has arrived. Pinned, they lie in
/// page-locked memory before, as layers do that live there; where such memory cannot be kept they are copied to it.
pub(super) fn upload(bytes: usize, device: &Device, pin: bool) -> (AnyTensor, f64) {
    let (data, shape) = (vec![1_u8; bytes], vec![bytes / 4]);
    let driver = if pin { devices::page_locked(device).ok().flatten() } else { None };
    let locked = driver.and_then(|driver| pinned::keep(&driver, &[&data]).ok()?.pop());
    let piece = match locked {
        Some(locked) => Piece::pinned(locked, shape, DType::F32),
        None => Piece::owned(data, shape, DType::F32),
    };
    tensor::wait(device);
    let start = Instant::now();
    let copy = AnyTensor::from_piece(piece, device, pin);
    tensor::wait(device);
    (copy, start.elapsed().as_secs_f64())
}

/// Seconds in which a tensor of the device comes to the host.
fn download(bytes: usize, device: &Device) -> Result<f64, Failure> {
    let (tensor, _) = upload(bytes, device, false);
    let start = Instant::now();
    let data = tensor.into_data().map_err(Failure::machine)?;
    let elapsed = start.elapsed().as_secs_f64();
    match data.as_bytes().iter().all(|byte| *byte == 1) {
        true => Ok(elapsed),
        false => Err(Failure::machine("what came back from the device is not what went there")),
    }
}

fn text(link: &Link) -> String {
    let header = ["Direction", "Through", "Best", "Speed"];
    let mut rows = Table::new(header, &[2, 3]);
    for copies in &link.copies {
        rows.add_row([
            copies.direction.to_owned(),
            if copies.pinned { "pinned memory" } else { "pageable memory" }.to_owned(),
            format!("{:.2} ms", copies.min_seconds * 1e3),
            format!("{:.2} GB/s", copies.bytes_per_second / 1e9),
        ]);
    }
    format!("{}, copies of {} MiB\n{rows}", link.device, link.bytes >> 20)
}
