//! One component of a model file, with a plan and, once needed, its weights.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use distorch_allocation::{DeviceId, Plan};
use distorch_checkpoint::{Component, ComponentKind, OpenError};
use distorch_models::estimate::{Compute, Workload};
use distorch_models::family;
use distorch_runtime::machine::Shortage;
use distorch_runtime::offload::{Interrupt, LoadError, OffloadedWeights, Options, StreamStats};
use distorch_runtime::patch::Patch;
use distorch_runtime::{DType, Device, LayerSource, Machine, Scope, heap, kernels, tensor};
use thiserror::Error;

use super::file::ModelFile;
use super::pinning::Pinning;

/// Why a component's weights cannot be had.
#[derive(Debug, Error)]
pub enum PartError {
    /// The file does not hold it.
    #[error("`{file}` has no {component}")]
    Missing {
        /// The file.
        file: String,
        /// The component, in words.
        component: &'static str,
    },
    /// They cannot be read, changed or moved.
    #[error("`{file}`: {error}")]
    Load {
        /// The file.
        file: String,
        /// What went wrong.
        error: LoadError,
    },
}

impl PartError {
    /// Whether a device has too little memory.
    pub fn is_shortage(&self) -> bool {
        matches!(self, PartError::Load { error: LoadError::Memory { .. }, .. })
    }
}

/// Hears of stored bytes loaded, and of all that are to be.
pub type LoadProgress<'a> = dyn FnMut(u64, u64) + 'a;

/// How a part is loaded.
#[derive(Clone, Debug)]
pub struct PartOptions {
    /// The device that computes.
    pub device: Device,
    /// The compute dtype.
    pub dtype: DType,
    /// Keep layers that a LoRA changes in the compute dtype, instead of the checkpoint's.
    pub high_precision_loras: bool,
    /// Whether what lives on `cpu` is kept in RAM instead of in the file.
    pub pinning: Pinning,
}

/// One component of a model file.
pub struct Part {
    file: Arc<ModelFile>,
    kind: ComponentKind,
    plan: RwLock<Arc<Plan>>,
    /// Pictures whose activations are known to be more than estimated.
    learned: Mutex<Vec<(Workload, u64)>>,
    machine: Arc<Machine>,
    options: PartOptions,
    interrupt: Interrupt,
    weights: Mutex<Option<Arc<OffloadedWeights>>>,
    /// Whether there are weights: known without waiting for those who load or move them.
    loaded: AtomicBool,
    used: AtomicU64,
}

impl Part {
    /// A component with its plan; nothing is loaded yet.
    pub fn new(
        file: Arc<ModelFile>,
        kind: ComponentKind,
        plan: Plan,
        machine: Arc<Machine>,
        options: PartOptions,
        interrupt: Interrupt,
    ) -> Self {
        Self {
            file,
            kind,
            plan: RwLock::new(Arc::new(plan)),
            learned: Mutex::default(),
            machine,
            options,
            interrupt,
            weights: Mutex::default(),
            loaded: AtomicBool::new(false),
            used: AtomicU64::new(0),
        }
    }

    /// The file.
    pub fn file(&self) -> &Arc<ModelFile> {
        &self.file
    }

    /// Which component.
    pub fn kind(&self) -> ComponentKind {
        self.kind
    }

    /// Where its blocks live.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows another plan from now on. What is loaded moves with it.
    ///
    /// # Errors
    /// When a device has too little memory for it, or a layer cannot be moved.
    pub fn follow(&self, plan: Plan) -> Result<(), PartError> {
        self.set_plan(plan.clone());
        match &*self.weights() {
            Some(placed) => placed.replan(&plan).map(drop).map_err(|error| self.wrong(error)),
            None => Ok(()),
        }
    }

    fn set_plan(&self, plan: Plan) {
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
    }

    fn wrong(&self, error: LoadError) -> PartError {
        PartError::Load { file: self.file.name.clone(), error }
    }

    /// What a picture's activations are estimated to be; `None` where there is no such component.
    pub fn estimate(&self, picture: Workload) -> Option<u64> {
        let component = self.component().ok()?;
        let element = self.activation_dtype().size() as u64;
        let compute = Compute { element, host: tensor::is_host(self.device()) };
        Some(family::activation_bytes(&self.file.model, component, picture, compute))
    }

    /// Plans for a picture's activations, as estimated or as learned.
    pub fn expect(&self, picture: Workload) {
        let Some(estimate) = self.estimate(picture) else { return };
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let learned = learned.iter().find(|(of, _)| *of == picture).map_or(0, |(_, bytes)| *bytes);
        self.set_plan(self.plan().with_activations(estimate.max(learned)));
    }

    /// Remembers what the activations of a picture were measured to be, if more than planned, and
    /// gives what to plan for.
    pub fn learn(&self, picture: Workload) -> u64 {
        let planned = self.plan().activation_bytes;
        let measured = self.weights().as_ref().and_then(|placed| placed.measured_activations());
        let Some(bytes) = measured.filter(|bytes| *bytes > planned) else { return planned };
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.retain(|(of, _)| *of != picture);
        learned.push((picture, bytes));
        bytes
    }

    /// The device that computes, by name.
    pub fn compute_device(&self) -> DeviceId {
        self.plan().compute_device
    }

    /// The device that computes.
    pub fn device(&self) -> &Device {
        &self.options.device
    }

    /// The dtype of activations.
    pub fn activation_dtype(&self) -> DType {
        kernels::activation_dtype(self.device(), self.options.dtype)
    }

    /// The compute dtype.
    pub fn dtype(&self) -> DType {
        self.options.dtype
    }

    /// Whether its weights are loaded.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// When it was last used, on the store's clock.
    pub fn last_used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Drops the weights; they are loaded again when needed. Their memory is the system's again.
    pub fn unload(&self) {
        let weights = self.take_weights();
        if weights.is_some() {
            drop(weights);
            heap::give_back();
        }
    }

    /// Whether `other` could take over these weights: all that differs is where they live.
    pub fn may_hand_over(&self, other: &Part) -> bool {
        self.compute_device() == other.compute_device()
            && self.options.dtype == other.options.dtype
            && self.options.high_precision_loras == other.options.high_precision_loras
            && self.options.pinning.on == other.options.pinning.on
    }

    /// Takes over the weights of another part of the same component, and leaves it without.
    pub fn take_over(&self, other: &Part) {
        let weights = other.take_weights();
        let mut own = self.weights();
        self.loaded.store(weights.is_some(), Ordering::Release);
        *own = weights;
    }

    fn take_weights(&self) -> Option<Arc<OffloadedWeights>> {
        let mut weights = self.weights();
        self.loaded.store(false, Ordering::Release);
        weights.take()
    }

    /// Ends a run: what passed through the compute device leaves it.
    pub fn rest(&self) {
        if let Some(weights) = &*self.weights() {
            weights.drain();
        }
    }

    /// The shortage of the work that has just ended, if it went beyond the device's memory after its
    /// last layer had come. Told once.
    pub fn overrun(&self) -> Option<Box<Shortage>> {
        self.weights().as_ref()?.check_end()
    }

    /// Whether the file is still what was opened, where layers are used from it.
    ///
    /// # Errors
    /// When it was changed while the work that has just ended used it.
    pub fn check_file(&self) -> Result<(), OpenError> {
        self.weights().as_ref().map_or(Ok(()), |weights| weights.check_file())
    }

    /// What is held where, and what passed; `None` where nothing is loaded.
    pub fn stats(&self) -> Option<StreamStats> {
        self.weights().as_ref().map(|weights| weights.stats())
    }

    /// Whether what lives on `cpu` is kept in RAM, or why not.
    pub fn pinning(&self) -> &Pinning {
        &self.options.pinning
    }

    /// Bytes of the layers at home on a device.
    pub fn held_on(&self, device: DeviceId) -> u64 {
        let stats = self.stats().unwrap_or_default();
        let held = stats.devices.iter().find(|held| held.device == device);
        held.map_or(0, |held| held.resident_bytes)
    }

    /// The layers, loaded or moved now where they are not at home yet, with a patch on their
    /// weights. `now` is the time on the store's clock.
    ///
    /// # Errors
    /// When the weights cannot be read, changed or moved.
    pub fn scope(
        &self,
        patch: Option<Arc<dyn Patch>>,
        now: u64,
        progress: &mut LoadProgress<'_>,
    ) -> Result<Scope, PartError> {
        self.used.store(now, Ordering::Relaxed);
        let plan = self.plan();
        let mut weights = self.weights();
        let placed = match &*weights {
            Some(placed) => Arc::clone(placed),
            None => {
                let placed = Arc::new(self.load(progress)?);
                *weights = Some(Arc::clone(&placed));
                self.loaded.store(true, Ordering::Release);
                placed
            }
        };
        if placed.plan() != *plan {
            placed.replan(&plan).map_err(|error| self.wrong(error))?;
        }
        placed.set_patch(patch).map_err(|error| self.wrong(error))?;
        Ok(Scope::new(placed as Arc<dyn LayerSource>))
    }

    fn load(&self, progress: &mut LoadProgress<'_>) -> Result<OffloadedWeights, PartError> {
        let options = Options {
            pin: self.options.pinning.on,
            high_precision_loras: self.options.high_precision_loras,
            interrupt: self.interrupt.clone(),
            ..Options::default()
        };
        OffloadedWeights::load(
            Arc::clone(&self.file.checkpoint),
            self.component()?,
            &self.plan(),
            Arc::clone(&self.machine),
            self.options.dtype,
            options,
            |loaded| {
                progress(loaded.bytes, loaded.total);
                match self.interrupt.is_raised() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            },
        )
        .map_err(|error| self.wrong(error))
    }

    /// The component in the file.
    ///
    /// # Errors
    /// When the file does not hold it.
    pub fn component(&self) -> Result<&Component, PartError> {
        self.file.model.component(self.kind).ok_or_else(|| PartError::Missing {
            file: self.file.name.clone(),
            component: in_words(self.kind),
        })
    }

    fn weights(&self) -> MutexGuard<'_, Option<Arc<OffloadedWeights>>> {
        self.weights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", in_words(self.kind), self.file.name)
    }
}

/// A component's name for people.
pub fn in_words(kind: ComponentKind) -> &'static str {
    kind.label()
}
