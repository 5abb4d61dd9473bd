//! The weights of one component, which the loader thread and those who compute share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use distorch_allocation::{DeviceId, Plan};
use distorch_checkpoint::{Checkpoint, Component, Layer};

use super::activations::Activations;
use super::applied::{AppliedPlan, devices_of};
use super::error::LoadError;
use super::options::Options;
use super::prefetch::PrefetchCache;
use super::residency::Residency;
use crate::machine::{Machine, OutOfMemory, Pool, Shortage};
use crate::tensor::uploads;
use crate::tensor::{DType, Device, Stream};
use crate::weights::WeightError;

/// The layers of a component and where each lives.
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
    pub(super) residencies: RwLock<Vec<Arc<Residency>>>,
    pub(super) cache: Arc<PrefetchCache>,
    pub(super) activations: Activations,
    /// The stream in which layers are loaded, where it is not that of whoever loads them.
    pub(super) user: Mutex<Option<Stream>>,
    /// Why a layer is not in page-locked memory that was to be.
    pub(super) unlocked: Mutex<Option<String>>,
    /// Locked while residencies change.
    pub(super) applied: Mutex<AppliedPlan>,
}

impl ComponentWeights {
    /// The layers of a component that is planned, none of which is loaded yet.
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
        let cache = PrefetchCache::new(
            Arc::clone(&pool),
            plan.activation_bytes,
            vec![0; layers.len()],
            &passing,
            options.window.unwrap_or(plan.window_bytes),
        );
        let activations = Activations::new(Arc::clone(&pool), device.clone(), layers.len());
        let unloaded = || Arc::new(Residency::Unavailable("it is not loaded yet".to_owned()));
        let residencies = RwLock::new(layers.iter().map(|_| unloaded()).collect());
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
            residencies,
            cache,
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

    pub(super) fn residency(&self, index: usize) -> Result<Arc<Residency>, WeightError> {
        let residencies = self.residencies.read().unwrap_or_else(PoisonError::into_inner);
        let none = || WeightError::NoLayer { name: format!("#{index}") };
        residencies.get(index).cloned().ok_or_else(none)
    }

    pub(super) fn layer(&self, index: usize) -> Result<&Layer, WeightError> {
        let none = || WeightError::NoLayer { name: format!("#{index}") };
        self.layers.get(index).ok_or_else(none)
    }

    pub(super) fn layer_name(&self, index: usize) -> String {
        self.layers.get(index).map_or_else(|| format!("#{index}"), |layer| layer.name.clone())
    }

    /// The layer lives there from now on, and no longer where it did.
    pub(super) fn set_residency(&self, index: usize, residency: Residency) {
        let passes = match &residency {
            Residency::Stored { device, held, .. } if *device != self.compute => held.bytes(),
            Residency::Mapped => self.layers.get(index).map_or(0, Layer::bytes),
            _ => 0,
        };
        let mut residencies = self.residencies.write().unwrap_or_else(PoisonError::into_inner);
        let old = residencies.get_mut(index).map(|at| std::mem::replace(at, Arc::new(residency)));
        drop(residencies);
        self.cache.resize(index, passes);
        if old.as_ref().is_some_and(|old| old.pinned() > 0) {
            // A copy from it may be under way; its memory goes back when nobody refers to it any more.
            uploads::finish(&self.device);
        }
        drop(old);
    }

    /// Whether residents are kept in the compute dtype even where that is larger: on the host,
    /// which no plan limits.
    pub(super) fn converts(&self) -> bool {
        self.compute.is_cpu() && !self.pool.is_simulated()
    }

    /// Whether what was seen of a layer in its file is what was opened.
    pub(super) fn check_file(&self, index: usize) -> Result<(), WeightError> {
        self.checkpoint.check().map_err(|error| self.unavailable(index, error.to_string()))
    }

    pub(super) fn unavailable(&self, index: usize, reason: String) -> WeightError {
        WeightError::Load { layer: self.layer_name(index), reason }
    }

    pub(super) fn out_of_memory(&self, index: usize, error: OutOfMemory) -> WeightError {
        WeightError::Memory { layer: self.layer_name(index), shortage: self.shortage(error) }
    }

    pub(super) fn shortage(&self, error: OutOfMemory) -> Box<Shortage> {
        // Locked while residencies change; the plan's remedy is added there.
        match self.applied.try_lock() {
            Ok(applied) => Shortage::under(error, &applied.plan),
            Err(_) => Shortage::of_donor(error),
        }
    }

    pub(super) fn failed(&self, error: WeightError, plan: &Plan) -> LoadError {
        let component = self.component.clone();
        match error {
            WeightError::Memory { shortage, .. } => {
                LoadError::Memory { component, shortage: Shortage::under(shortage.error, plan) }
            }
            error => LoadError::Weight { component, error },
        }
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
