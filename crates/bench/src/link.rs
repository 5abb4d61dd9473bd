//! How fast bytes go from the host to a device and back, as plain copies.

use std::time::Instant;

use distorch_allocation::{DeviceInfo, DeviceKind};
use distorch_runtime::tensor::{self, AnyTensor, Piece};
use distorch_runtime::{DType, Device, devices, pinned};
use serde::Serialize;

use crate::error::BenchError;

/// Copies over one link.
#[derive(Debug, Serialize)]
pub struct Link {
    /// What is at the other end.
    pub device: String,
    /// Bytes of a copy.
    pub bytes: usize,
    /// Copies of each kind.
    pub copies: Vec<Copies>,
}

/// Copies of one kind.
#[derive(Debug, Serialize)]
pub struct Copies {
    /// `upload` goes to the device, `download` comes from it.
    pub direction: &'static str,
    /// Whether they go through pinned memory. What a device's driver does by itself is not known.
    pub pinned: bool,
    /// Seconds of each.
    pub seconds: Vec<f64>,
    /// Seconds of the fastest.
    pub min_seconds: f64,
    /// Of the fastest.
    pub bytes_per_second: f64,
}

impl Copies {
    fn new(direction: &'static str, pinned: bool, bytes: usize, seconds: Vec<f64>) -> Self {
        let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let bytes_per_second = bytes as f64 / least;
        Self { direction, pinned, seconds, min_seconds: least, bytes_per_second }
    }
}

/// Times copies of this many bytes in both directions.
///
/// # Errors
/// When the device is simulated, or what comes back from it is not what went there.
pub fn measure(
    info: &DeviceInfo,
    device: &Device,
    bytes: usize,
    rounds: u32,
) -> Result<Link, BenchError> {
    if info.simulated {
        return Err(BenchError::input(format!(
            "{} is simulated: its link is as fast as it was declared to be",
            info.id
        )));
    }
    let timed = |time: &dyn Fn() -> Result<f64, BenchError>| {
        time()?;
        (0..rounds).map(|_| time()).collect::<Result<Vec<f64>, _>>()
    };
    let mut copies = Vec::new();
    let has_pinned = matches!(info.id.kind(), DeviceKind::Cuda | DeviceKind::Rocm);
    for pinned in [false, true].into_iter().filter(|pinned| !pinned || has_pinned) {
        let seconds = timed(&|| Ok(upload(bytes, device, pinned).1))?;
        copies.push(Copies::new("upload", pinned, bytes, seconds));
    }
    let seconds = timed(&|| download(bytes, device))?;
    copies.push(Copies::new("download", false, bytes, seconds));
    Ok(Link { device: info.id.to_string(), bytes, copies })
}

/// Copies bytes to the device: their tensor there, and the seconds until the last has arrived. Pinned, they lie in
/// page-locked memory before, as layers do that live there; where such memory cannot be kept they are copied to it.
pub(crate) fn upload(bytes: usize, device: &Device, pin: bool) -> (AnyTensor, f64) {
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
fn download(bytes: usize, device: &Device) -> Result<f64, BenchError> {
    let (tensor, _) = upload(bytes, device, false);
    let start = Instant::now();
    let data = tensor.into_data().map_err(BenchError::failed)?;
    let elapsed = start.elapsed().as_secs_f64();
    match data.as_bytes().iter().all(|byte| *byte == 1) {
        true => Ok(elapsed),
        false => Err(BenchError::failed("what came back from the device is not what went there")),
    }
}
