//! The layers of a component at the weights that a plan gives them.
//!
//! - On the compute device a layer is there as tensors: in the compute dtype where that is no
//!   larger than the stored one or the device is the host, else as stored and converted at each use,
//!   so that the device holds what the plan says.
//! - On `cpu` a layer stays in its file, and its pages in the system's cache; with
//!   [`Options::pin`] it is kept in RAM, in [page-locked](crate::pinned) memory where an accelerator fetches it from
//!   there.
//! - On another accelerator it is in that one's memory, on a simulated device in the host's under
//!   that device's limit; in the stored dtype in both cases.
//!
//! Layers that live elsewhere pass through a prefetch cache on the compute device, ahead of their use, in
//! the dtype in which they are stored; conversion is the last step, on the compute device. A layer that
//! passes from the file to the host, or a device of its memory, is not copied: the loader brings the file's
//! pages. A file that is cut short or written over while it is loaded ends in an error, at the next layer that is
//! asked for or in [`OffloadedWeights::check_file`]; one that is replaced by another of its name stays as it was.
//!
//! When every layer lives on the compute device there is neither cache nor loader thread.

mod activations;
mod applied;
mod budget;
mod change;
mod component;
mod error;
mod options;
mod order;
mod prefetch;
mod residency;
mod stats;
mod store;
mod upload;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use distorch_allocation::Plan;
use distorch_checkpoint::{Checkpoint, Component, Layer, OpenError};

pub use error::LoadError;
pub use options::{Interrupt, Options, Progress};
pub use stats::{DeviceUse, StreamStats};

use crate::machine::{Machine, Shortage};
use crate::patch::Patch;
use crate::tensor::{self, DType, Device, uploads};
use crate::weights::{LayerParams, LayerSource, WeightError};
use applied::{AppliedPlan, devices_of};
use component::ComponentWeights;
use prefetch::TakeError;
use residency::Residency;

/// The layers of a component, each where its plan has it; see the [module](self).
#[derive(Debug)]
pub struct OffloadedWeights {
    weights: Arc<ComponentWeights>,
    loader: Mutex<Option<JoinHandle<()>>>,
}

impl OffloadedWeights {
    /// Loads every layer from the file to the device that the plan has for it. `progress` hears of
    /// each and may stop.
    ///
    /// # Errors
    /// When a device of the plan is missing or too full, a layer is not in the plan or cannot
    /// be read, or `progress` stops it. What was held until then is released.
    pub fn load(
        checkpoint: Arc<Checkpoint>,
        component: &Component,
        plan: &Plan,
        machine: Arc<Machine>,
        dtype: DType,
        options: Options,
        mut progress: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Self, LoadError> {
        let weights = ComponentWeights::new(checkpoint, component, plan, machine, dtype, options)?;
        weights.check_room(&weights.applied())?;
        let (mut bytes, total) = (0, component.bytes());
        let devices = weights.applied().devices.clone();
        for (index, (layer, device)) in weights.layers.iter().zip(devices).enumerate() {
            let residency =
                weights.unpatched(index, device).map_err(|error| weights.failed(error, plan))?;
            weights.set_residency(index, residency);
            bytes += layer.bytes();
            let told = Progress { layer: &layer.name, bytes, total };
            if progress(told).is_break() {
                return Err(LoadError::Stopped { component: weights.component.clone() });
            }
        }
        Ok(Self { weights: Arc::new(weights), loader: Mutex::default() })
    }

    /// The plan that is applied.
    pub fn plan(&self) -> Plan {
        self.weights.applied().plan.clone()
    }

    /// The patch that is applied.
    pub fn patch(&self) -> Option<Arc<dyn Patch>> {
        self.weights.applied().patch.clone()
    }

    /// Applies another patch, or none: rewrites the layers whose key changes, and returns their number.
    ///
    /// # Errors
    /// When a layer cannot be read or patched, or its device is too full for it. No patch is applied
    /// then, and all layers are as the file has them, as far as it can still be read.
    pub fn set_patch(&self, patch: Option<Arc<dyn Patch>>) -> Result<usize, LoadError> {
        let weights = &self.weights;
        let mut applied = weights.applied();
        weights.cache.drain();
        let key = |layer: &Layer| patch.as_ref().and_then(|patch| patch.key(&layer.name));
        let keys: Vec<Option<u64>> = weights.layers.iter().map(key).collect();
        let mut changed = 0;
        for (index, key) in keys.into_iter().enumerate() {
            if applied.keys.get(index) == Some(&key) {
                continue;
            }
            let change = patch.as_deref().filter(|_| key.is_some());
            if let Err(error) = weights.rewrite(&mut applied, index, change, key) {
                weights.restore_all(&mut applied);
                return Err(weights.failed(error, &applied.plan));
            }
            changed += 1;
        }
        applied.patch = patch;
        Ok(changed)
    }

    /// Follows another plan of the same component: moves the layers whose device changes, and returns
    /// their number and bytes.
    ///
    /// # Errors
    /// When the plan computes on another device, is another component's, or needs more memory than
    /// there is: nothing is moved then. When a layer cannot be moved it is an error to use
    /// it until another plan, and the rest go on.
    pub fn replan(&self, plan: &Plan) -> Result<(usize, u64), LoadError> {
        let weights = &self.weights;
        let mut applied = weights.applied();
        if plan.compute_device != weights.compute {
            return Err(LoadError::OtherComputeDevice {
                component: weights.component.clone(),
                loaded: weights.compute,
                planned: plan.compute_device,
            });
        }
        let devices = devices_of(&weights.layers, plan, &weights.machine)?;
        weights.cache.drain();
        let next = AppliedPlan {
            plan: plan.clone(),
            devices,
            patch: applied.patch.clone(),
            keys: applied.keys.clone(),
        };
        weights.check_room(&next)?;
        let old = std::mem::replace(&mut *applied, next);
        weights.cache.set_limit(weights.options.window.unwrap_or(plan.window_bytes));
        weights.cache.set_reserved_bytes(plan.activation_bytes);
        let mut moving: Vec<usize> = (0..weights.layers.len())
            .filter(|&i| applied.devices.get(i) != old.devices.get(i))
            .collect();
        // Those that leave the compute device make room for those that come.
        moving.sort_by_key(|&index| applied.devices.get(index) == Some(&weights.compute));
        let (mut bytes, mut failure) = (0, None);
        for &index in &moving {
            bytes += weights.layers.get(index).map_or(0, Layer::bytes);
            if let Err(error) = weights.relocate(&applied, index) {
                failure.get_or_insert(error);
            }
        }
        match failure {
            Some(error) => Err(weights.failed(error, plan)),
            None => Ok((moving.len(), bytes)),
        }
    }

    /// Ends a run: empties the prefetch cache and releases the file's pages, so that a model that nobody uses
    /// holds only what lives on its devices.
    pub fn drain(&self) {
        self.weights.activations.end();
        self.weights.cache.drain();
        uploads::finish(&self.weights.device);
        if self.weights.any_in_file() {
            self.weights.checkpoint.release_all();
        }
    }

    /// Holds what was taken after the last layer had come against the device's memory: the shortage,
    /// where that was too much. Layers that come later are checked as they are asked for.
    pub fn check_end(&self) -> Option<Box<Shortage>> {
        tensor::wait(&self.weights.device);
        self.weights.look().err().map(|error| self.weights.shortage(error))
    }

    /// Whether the file is still what was opened, where layers live in it: asked at the end of work, it says
    /// that no layer was computed with whose bytes were changed meanwhile.
    ///
    /// # Errors
    /// When the file was changed, or a part of it could not be read.
    pub fn check_file(&self) -> Result<(), OpenError> {
        match self.weights.any_in_file() {
            true => self.weights.checkpoint.check(),
            false => Ok(()),
        }
    }

    /// The most that computing took beside weights, where that was measured.
    pub fn measured_activations(&self) -> Option<u64> {
        self.weights.activations.most()
    }

    /// What is held on each device of the plan, and what passed since the last reset.
    pub fn stats(&self) -> StreamStats {
        self.weights.stats()
    }

    /// The time in which computing waited for weights since the last reset.
    pub fn stalled(&self) -> Duration {
        self.weights.cache.stats().0.stalled
    }

    /// Counts transfers, waits, the cache's peak and activations from 0 again.
    pub fn reset_stats(&self) {
        self.weights.activations.reset();
        self.weights.cache.reset_stats();
    }

    /// Starts the loader thread unless it runs. Where there can be none, layers come without being
    /// foreseen.
    fn start_loader(&self) {
        let mut loader = self.loader.lock().unwrap_or_else(PoisonError::into_inner);
        if loader.as_ref().is_none_or(JoinHandle::is_finished) {
            let weights = Arc::clone(&self.weights);
            let name = format!("loader of {}", weights.component);
            let run = move || Arc::clone(&weights.cache).run_loader(&*weights);
            *loader = std::thread::Builder::new().name(name).spawn(run).ok();
        }
    }
}

impl Drop for OffloadedWeights {
    fn drop(&mut self) {
        self.weights.cache.stop();
        let loader = self.loader.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(loader) = loader.take() {
            // A loader that panicked has nothing left to say.
            drop(loader.join());
        }
        self.weights.cache.drain();
        uploads::finish(&self.weights.device);
    }
}

impl LayerSource for OffloadedWeights {
    fn find(&self, name: &str) -> Option<usize> {
        self.weights.index.get(name).copied()
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        let below = |layer: &Layer| {
            layer.name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
        };
        self.weights.layers.iter().any(below)
    }

    fn fetch(&self, index: usize) -> Result<LayerParams, WeightError> {
        let weights = &self.weights;
        weights.look().map_err(|error| weights.out_of_memory(index, error))?;
        let residency = weights.residency(index)?;
        match &*residency {
            Residency::Resident { params, .. } => return Ok(params.clone()),
            Residency::Stored { layer, device, .. } if *device == weights.compute => {
                return Ok(layer.decode(&weights.device, weights.dtype));
            }
            Residency::Stored { .. } | Residency::Mapped => {}
            Residency::Unavailable(reason) => {
                return Err(weights.unavailable(index, reason.clone()));
            }
        }
        weights.used_here();
        self.start_loader();
        let arrival = weights.cache.take(&**weights, index).map_err(|error| match error {
            TakeError::Weight(error) => error,
            TakeError::Memory(error) => weights.out_of_memory(index, error),
        })?;
        let params = arrival.layer.decode(&weights.device, weights.dtype);
        if matches!(&*residency, Residency::Mapped) {
            weights.check_file(index)?;
        }
        Ok(params.holding(Arc::new(arrival.reservation)))
    }

    fn device(&self) -> &Device {
        &self.weights.device
    }

    fn dtype(&self) -> DType {
        self.weights.dtype
    }
}
