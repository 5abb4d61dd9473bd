//! What the loader thread and those who compute share: every layer's home, and how it gets there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use distorch_allocation::{DeviceId, Plan};
use distorch_checkpoint::{Checkpoint, Component, Layer};

use super::activations::Activations;
use super::error::{LoadError, Remedy, Shortage};
use super::options::Options;
use super::prefetch::{LayerLoader, LoadedLayer, PrefetchCache};
use super::residency::Residency;
use crate::devices;
use crate::machine::{Machine, OutOfMemory, Pool};
use crate::patch::Patch;
use crate::stored::StoredLayer;
use crate::tensor::{self, DType, Device, Stream};
use crate::uploads;
use crate::weights::{LayerParams, WeightError};

/// What the loader thread and those who compute share.
pub(super) struct ComponentWeights {
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) component: String,
    pub(super) layers: Vec<Layer>,
    pub(super) index: HashMap<String, usize>,
    pub(super) machine: Arc<Machine>,
    pub(super) compute: DeviceId,
    pub(super) pool: Arc<Pool>,
    pub(super) device: Device,
    pub(super) dtype: DType,
    pub(super) options: Options,
    pub(super) weights: RwLock<Vec<Arc<Residency>>>,
    pub(super) window: Arc<PrefetchCache>,
    pub(super) activations: Activations,
    /// The stream in which layers are brought, where it is not that of whoever brings them.
    user: Mutex<Option<Stream>>,
    /// Why a layer is not in page-locked memory that was to be.
    pub(super) unlocked: Mutex<Option<String>>,
    /// Held while weights change.
    pub(super) applied: Mutex<AppliedPlan>,
}

/// What the weights were made from.
pub(super) struct AppliedPlan {
    pub(super) plan: Plan,
    /// The device of each layer.
    pub(super) devices: Vec<DeviceId>,
    pub(super) patch: Option<Arc<dyn Patch>>,
    /// The patch's key for each layer, as it was applied.
    pub(super) keys: Vec<Option<u64>>,
}

/// The device of each layer.
pub(super) fn devices_of(
    layers: &[Layer],
    plan: &Plan,
    machine: &Machine,
) -> Result<Vec<DeviceId>, LoadError> {
    let weights: HashMap<&str, DeviceId> =
        plan.blocks.iter().map(|block| (block.name.as_str(), block.device)).collect();
    let device = |layer: &Layer| {
        let home = weights.get(layer.name.as_str()).copied();
        let (component, layer) = (plan.component.clone(), layer.name.clone());
        let device = home.ok_or(LoadError::NotPlanned { component, layer })?;
        let known = machine.pool(device).map(|_| device);
        known.map_err(|error| LoadError::unknown(&plan.component, error))
    };
    layers.iter().map(device).collect()
}

impl ComponentWeights {
    /// The frame, with every layer still without a home.
    pub(super) fn new(
        checkpoint: Arc<Checkpoint>,
        component: &Component,
        plan: &Plan,
        machine: Arc<Machine>,
        dtype: DType,
        options: Options,
    ) -> Result<Self, LoadError> {
        let (compute, name) = (plan.compute_device, plan.component.clone());
        let layers = component.layers.clone();
        let devices = devices_of(&layers, plan, &machine)?;
        let opened = machine.open(compute);
        let device =
            opened.map_err(|error| LoadError::Device { component: name.clone(), error })?;
        let pool = machine.pool(compute).map_err(|error| LoadError::unknown(&name, error))?;
        let pool = Arc::clone(pool);
        let index = layers.iter().enumerate().map(|(i, layer)| (layer.name.clone(), i)).collect();
        let mut passing: Vec<usize> =
            (0..layers.len()).filter(|&i| devices.get(i) != Some(&compute)).collect();
        passing.sort_by_key(|&i| layers.get(i).map(|layer| layer.use_index));
        let window = PrefetchCache::new(
            Arc::clone(&pool),
            plan.activation_bytes,
            vec![0; layers.len()],
            &passing,
            options.window.unwrap_or(plan.window_bytes),
        );
        let activations = Activations::new(Arc::clone(&pool), device.clone());
        let nowhere = || Arc::new(Residency::Unavailable("it is not loaded yet".to_owned()));
        let weights = RwLock::new(layers.iter().map(|_| nowhere()).collect());
        let keys = vec![None; layers.len()];
        let applied = AppliedPlan { plan: plan.clone(), devices, patch: None, keys };
        Ok(Self {
            checkpoint,
            component: name,
            index,
            machine,
            compute,
            pool,
            device,
            dtype,
            options,
            weights,
            window,
            activations,
            user: Mutex::default(),
            unlocked: Mutex::default(),
            applied: Mutex::new(applied),
            layers,
        })
    }

    pub(super) fn applied(&self) -> MutexGuard<'_, AppliedPlan> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn home(&self, index: usize) -> Result<Arc<Residency>, WeightError> {
        let weights = self.weights.read().unwrap_or_else(PoisonError::into_inner);
        let none = || WeightError::NoLayer { name: format!("#{index}") };
        weights.get(index).cloned().ok_or_else(none)
    }

    pub(super) fn layer(&self, index: usize) -> Result<&Layer, WeightError> {
        let none = || WeightError::NoLayer { name: format!("#{index}") };
        self.layers.get(index).ok_or_else(none)
    }

    pub(super) fn layer_name(&self, index: usize) -> String {
        self.layers.get(index).map_or_else(|| format!("#{index}"), |layer| layer.name.clone())
    }

    /// Gives the layer a home in place of its old one.
    pub(super) fn move_in(&self, index: usize, home: Residency) {
        let passes = match &home {
            Residency::Stored { device, held, .. } if *device != self.compute => held.bytes(),
            Residency::Mapped => self.layers.get(index).map_or(0, Layer::bytes),
            _ => 0,
        };
        let mut weights = self.weights.write().unwrap_or_else(PoisonError::into_inner);
        let old = weights.get_mut(index).map(|place| std::mem::replace(place, Arc::new(home)));
        drop(weights);
        self.window.resize(index, passes);
        if old.as_ref().is_some_and(|old| old.pinned() > 0) {
            // A copy from it may be under way; its memory goes back when nobody refers to it any more.
            uploads::finish(&self.device);
        }
        drop(old);
    }

    /// A home for the layer as the file has it.
    pub(super) fn base(&self, index: usize, device: DeviceId) -> Result<Residency, WeightError> {
        if device.is_cpu() && device != self.compute && !self.options.pin {
            return Ok(Residency::Mapped);
        }
        let layer = StoredLayer::read(&self.checkpoint, self.layer(index)?)?;
        self.settle(index, device, layer)
    }

    /// A home for these values.
    pub(super) fn settle(
        &self,
        index: usize,
        device: DeviceId,
        layer: StoredLayer,
    ) -> Result<Residency, WeightError> {
        let full = |error| self.out_of_memory(index, error);
        if device == self.compute {
            let layer = layer.on(&self.device, self.options.pin)?.unpinned();
            tensor::let_go(&self.device);
            // The host's kernels take some as they are stored; elsewhere each is converted.
            let converted = layer.elements() * self.dtype.size() as u64;
            let try_out = tensor::is_host(&self.device) || converted <= layer.bytes();
            let params = try_out.then(|| layer.decode(&self.device, self.dtype));
            let fits = |params: &LayerParams| self.converts() || params.bytes() <= layer.bytes();
            if let Some(params) = params.filter(fits) {
                let held = self.pool.hold(params.bytes(), 0).map_err(full)?;
                return Ok(Residency::Resident { params, held });
            }
            let held = self.pool.hold(layer.bytes(), 0).map_err(full)?;
            return Ok(Residency::Stored { layer, device, held });
        }
        let reason = |reason: String| self.no_home(index, reason);
        let pool = self.machine.pool(device).map_err(|error| reason(error.to_string()))?;
        let mut held = pool.hold(layer.bytes(), 0).map_err(full)?;
        let donor = self.machine.open(device).map_err(|error| reason(error.to_string()))?;
        let mut layer = layer.on(&donor, self.options.pin)?;
        tensor::let_go(&donor);
        if device.is_cpu() && self.options.pin && !pool.is_simulated() {
            layer = self.page_locked(layer);
            // The driver's, not of this process's heap.
            held.share(layer.pinned_bytes());
        }
        Ok(Residency::Stored { layer, device, held })
    }

    /// The layer in page-locked memory, where the device that computes fetches from such memory by itself. Where the
    /// driver has none left the layer stays where it is, and the reason is noted.
    fn page_locked(&self, layer: StoredLayer) -> StoredLayer {
        let driver = match &self.options.driver {
            Some(driver) => Ok(Some(Arc::clone(driver))),
            None => devices::page_locked(&self.device),
        };
        let locked = match driver {
            Ok(None) => return layer,
            Ok(Some(driver)) => layer.pinned(&driver, &self.device),
            Err(reason) => Err(reason),
        };
        locked.unwrap_or_else(|reason| {
            let mut unlocked = self.unlocked.lock().unwrap_or_else(PoisonError::into_inner);
            unlocked.get_or_insert(reason);
            drop(unlocked);
            layer
        })
    }

    /// Whether residents are kept in the compute dtype even where that is larger: on the host,
    /// which no plan limits.
    pub(super) fn converts(&self) -> bool {
        self.compute.is_cpu() && !self.pool.is_simulated()
    }

    /// A layer on the compute device: beside what it computes where it can, else in the order of that.
    fn upload(&self, stored: &StoredLayer) -> Result<StoredLayer, WeightError> {
        if let Some(brought) = stored.beside(&self.device)? {
            return Ok(brought);
        }
        let upload = || stored.on(&self.device, self.options.pin);
        // Not locked while it lasts.
        let user = *self.user.lock().unwrap_or_else(PoisonError::into_inner);
        match user {
            Some(stream) => stream.run(upload),
            None => upload(),
        }
    }

    /// This thread computes with the layers now: what is brought goes in its stream from now on, or waits for it
    /// where it is brought in another.
    pub(super) fn used_here(&self) {
        uploads::used_here(&self.device);
        if !tensor::is_host(&self.device) {
            let mut user = self.user.lock().unwrap_or_else(PoisonError::into_inner);
            *user = Some(Stream::current());
        }
    }

    /// Whether what was seen of a layer in its file is what was opened.
    pub(super) fn check_file(&self, index: usize) -> Result<(), WeightError> {
        self.checkpoint.check().map_err(|error| self.no_home(index, error.to_string()))
    }

    pub(super) fn no_home(&self, index: usize, reason: String) -> WeightError {
        WeightError::Load { layer: self.layer_name(index), reason }
    }

    pub(super) fn out_of_memory(&self, index: usize, error: OutOfMemory) -> WeightError {
        WeightError::Memory { layer: self.layer_name(index), shortage: self.shortage(error) }
    }

    pub(super) fn shortage(&self, error: OutOfMemory) -> Box<Shortage> {
        // Within a change of weights the lock is held, and the plan's way out is added there.
        match self.applied.try_lock() {
            Ok(applied) => Shortage::new(error, &applied.plan),
            Err(_) => Box::new(Shortage { error, remedy: Remedy::Donor }),
        }
    }

    pub(super) fn failed(&self, error: WeightError, plan: &Plan) -> LoadError {
        let component = self.component.clone();
        match error {
            WeightError::Memory { shortage, .. } => {
                LoadError::Memory { component, shortage: Shortage::new(shortage.error, plan) }
            }
            error => LoadError::Weight { component, error },
        }
    }
}

impl LayerLoader for ComponentWeights {
    fn load(&self, index: usize, asked: Instant) -> Result<LoadedLayer, WeightError> {
        let home = self.home(index)?;
        let on_heap = |id| self.machine.pool(id).is_ok_and(|pool| pool.is_on_heap());
        let (stored, shared, from) = match &*home {
            Residency::Stored { layer, device, .. } => {
                let shared = if on_heap(*device) { layer.bytes() } else { 0 };
                (layer.clone(), shared, *device)
            }
            Residency::Mapped => {
                let (stored, mapped) = StoredLayer::view(
                    &self.checkpoint,
                    self.layer(index)?,
                    tensor::is_host(&self.device),
                )?;
                (stored, mapped, DeviceId::CPU)
            }
            Residency::Resident { .. } => {
                let reason = "it moved to the compute device meanwhile".to_owned();
                return Err(self.no_home(index, reason));
            }
            Residency::Unavailable(reason) => return Err(self.no_home(index, reason.clone())),
        };
        let layer = self.upload(&stored)?;
        let at = self.machine.transfer(from, self.compute, layer.bytes(), asked);
        Ok(LoadedLayer { layer, at, source: Some(home), shared })
    }

    fn name(&self, index: usize) -> String {
        self.layer_name(index)
    }

    fn is_interrupted(&self) -> bool {
        self.options.interrupt.is_raised()
    }
}

impl std::fmt::Debug for ComponentWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ComponentWeights")
            .field("component", &self.component)
            .field("layers", &self.layers.len())
            .field("compute", &self.compute)
            .finish_non_exhaustive()
    }
}
