//! What is open and loaded, and who may stay.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use distorch_allocation::{DeviceId, Ledger, LoaderSettings, Plan, Topology, VirtualVram};
use distorch_checkpoint::source::ModelFiles;
use distorch_checkpoint::{ComponentKind, Layer};
use distorch_models::estimate::Workload;
use distorch_runtime::machine::{Remedy, Shortage};
use distorch_runtime::offload::{Interrupt, StreamStats};
use distorch_runtime::patch::Patch;
use distorch_runtime::{DType, Machine, Scope, devices, heap, placement};

use super::file::{Identity, ModelFile};
use super::fit::Check;
use super::part::{LoadProgress, Part, PartOptions};
use super::pinning::{Pin, Pinning};
use super::planning::{Planning, Subject, settings_for};
use super::state::{Instance, Key, State, model_name, release, set};
use super::tasks::Tasks;
use crate::device_set::{DeviceSet, NotReserved};
use crate::error::PipelineError;
use crate::events::RunId;

/// Opens model files once, plans all of them on one ledger, and keeps their weights while there
/// is room.
#[derive(Debug)]
pub struct ModelStore {
    machine: Arc<Machine>,
    /// What ends waits for weights, by the device that computes with them.
    interrupts: BTreeMap<DeviceId, Interrupt>,
    /// What every model computes in; without it, each device has its own.
    dtype: Option<DType>,
    /// Whether what lives on `cpu` is kept in RAM instead of in its file.
    pin: Pin,
    /// Whether a part that ran out of memory takes the allocation that would fit.
    auto_retry: bool,
    clock: AtomicU64,
    state: Mutex<State>,
}

/// How a loader node wants a file loaded.
#[derive(Clone, Debug)]
pub struct Loader<'a> {
    /// The name that the user gave.
    pub name: &'a str,
    /// The file, or several that make one model.
    pub files: &'a ModelFiles,
    /// Where each component goes.
    pub settings: &'a LoaderSettings,
    /// The components that are wanted.
    pub kinds: &'a [ComponentKind],
    /// Keep layers that a LoRA changes in the compute dtype, instead of the checkpoint's.
    pub high_precision_loras: bool,
    /// Whether all other models leave first.
    pub eject_models: bool,
    /// What the components are to do.
    pub tasks: Tasks,
}

/// What a loader gets.
#[derive(Clone)]
pub struct Parts {
    /// The file.
    pub file: Arc<ModelFile>,
    /// The components that the file holds, of those that are wanted.
    pub parts: Vec<Arc<Part>>,
}

impl Parts {
    /// The part of a kind, where the file holds it.
    pub fn get(&self, kind: ComponentKind) -> Option<&Arc<Part>> {
        self.parts.iter().find(|part| part.kind() == kind)
    }

    /// The plans of all parts.
    pub fn plans(&self) -> Vec<Plan> {
        self.parts.iter().map(|part| (*part.plan()).clone()).collect()
    }
}

impl ModelStore {
    /// An empty store on these devices.
    pub fn new(topology: Topology) -> Self {
        let interrupts = topology.ids().into_iter().map(|id| (id, Interrupt::default()));
        let state = State::new(Ledger::new(topology.clone()));
        Self {
            interrupts: interrupts.collect(),
            machine: Machine::new(topology),
            dtype: None,
            pin: Pin::default(),
            auto_retry: false,
            clock: AtomicU64::new(1),
            state: Mutex::new(state),
        }
    }

    /// What every model computes in; without it, each device has its own dtype.
    pub fn with_dtype(self, dtype: Option<DType>) -> Self {
        Self { dtype, ..self }
    }

    /// Whether what lives on `cpu` is kept in RAM instead of in its file.
    pub fn with_pin(self, pin: Pin) -> Self {
        Self { pin, ..self }
    }

    /// Whether a part that ran out of memory takes the allocation that its error names, and goes on.
    pub fn with_auto_retry(self, auto_retry: bool) -> Self {
        Self { auto_retry, ..self }
    }

    /// Whether a part that ran out of memory takes the allocation that its error names.
    pub fn retries(&self) -> bool {
        self.auto_retry
    }

    /// Opens a file, or several that make one model; returns them where they are open already.
    ///
    /// # Errors
    /// When one cannot be opened or is nothing known, or they make no model.
    pub fn open(&self, name: &str, files: &ModelFiles) -> Result<Arc<ModelFile>, PipelineError> {
        let identity = Identity::of(files);
        let mut state = self.state();
        if let Some(file) = state.files.get(&identity).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = Arc::new(ModelFile::open(name, files).map_err(PipelineError::failed)?);
        state.files.retain(|_, file| file.strong_count() > 0);
        state.files.insert(identity, Arc::downgrade(&file));
        Ok(file)
    }

    /// Plans a file's components without promising or loading anything. Other models are as if they had left, where
    /// the loader has them leave first.
    ///
    /// # Errors
    /// When the file cannot be opened, or the settings cannot be planned.
    pub fn plan(&self, loader: &Loader<'_>) -> Result<Vec<Plan>, PipelineError> {
        let file = self.open(loader.name, loader.files)?;
        let state = self.state();
        let instance = Instance { identity: Identity::of(loader.files), number: 0 };
        let mut ledger = state.ledger.clone();
        if loader.eject_models {
            let others = state.parts.iter().filter(|((owner, _), _)| *owner != instance);
            others.for_each(|(key, _)| release(&mut ledger, key));
        }
        let settings = state.settings_of(&instance.identity, loader.settings);
        self.plans(&file, &instance, &settings, loader, &mut ledger)
    }

    /// The devices that a run must have to itself to load this: those that compute, and accelerators that may hold
    /// weights.
    pub fn devices(&self, loader: &Loader<'_>) -> DeviceSet {
        let settings = self.state().settings_of(&Identity::of(loader.files), loader.settings);
        let mut devices = DeviceSet::default();
        for kind in loader.kinds {
            let mut settings = settings_for(*kind, &settings);
            if self.auto_retry && settings.expert.is_none() {
                // It may get more than it begins with.
                settings.virtual_vram = VirtualVram::Auto;
            }
            let may_hold = settings.devices(self.machine.topology()).into_iter();
            devices.extend(may_hold.filter(|device| !device.is_cpu()));
            devices.extend([settings.compute_device]);
        }
        devices
    }

    /// Whether a file's components can do what they are to do, each alone on devices on which nothing
    /// is held. Nothing is promised or loaded.
    ///
    /// # Errors
    /// [`CannotFit`](super::CannotFit) for the first that cannot, when the file cannot be opened, or the settings cannot be
    /// planned.
    pub fn check(&self, loader: &Loader<'_>) -> Result<(), PipelineError> {
        let file = self.open(loader.name, loader.files)?;
        let settings = self.state().settings_of(&Identity::of(loader.files), loader.settings);
        let loaded = self.loaded();
        let held = loaded.iter().flat_map(|part| part.stats()).flat_map(|stats| stats.devices);
        let on_host = |device| self.planning().is_host(device);
        let held = held.filter(|held| on_host(held.device)).map(|held| held.resident_bytes);
        let check = Check {
            planning: self.planning(),
            subject: Subject {
                name: &model_name(&file.path),
                model: &file.model,
                kinds: loader.kinds,
                settings: &settings,
                tasks: &loader.tasks,
            },
            file: loader.name,
            // What is pinned without being asked for has room.
            pin: self.pin == Pin::On,
            retries: self.auto_retry,
            held_on_host: held.fold(0, u64::saturating_add),
        };
        match check.run().map_err(PipelineError::failed)? {
            Some(short) => Err(PipelineError::failed(short)),
            None => Ok(()),
        }
    }

    /// Plans a file's components for a run and promises their memory. Weights are loaded when they are
    /// needed. What the same file was loaded as before gives way; its weights stay where both
    /// plans have them. What other runs compute with now stays as it is.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), when this build cannot compute on a device, and when the run has not
    /// [all devices](Self::devices) that the file may use.
    pub fn place(&self, run: RunId, loader: &Loader<'_>) -> Result<Parts, PipelineError> {
        let needed = self.devices(loader);
        let file = self.open(loader.name, loader.files)?;
        let identity = Identity::of(loader.files);
        let mut state = self.state();
        let devices = state.devices_of(run);
        if let Some(device) = needed.missing_in(&devices) {
            let (what, device) = (loader.name.to_owned(), device.to_string());
            return Err(PipelineError::failed(NotReserved { what, device, devices }));
        }
        state.forget_the_gone();
        let settings = state.settings_of(&identity, loader.settings);
        let instance = state.instance(run, identity, &settings);
        if loader.eject_models {
            state.eject(run, &instance);
        }
        let plans = self.plans(&file, &instance, &settings, loader, &mut state.ledger)?;
        let placed = (settings, loader.kinds.to_vec(), loader.tasks);
        state.loaders.insert(instance.clone(), placed);
        let mut parts = Vec::new();
        for plan in plans {
            let Some(kind) = kind_of(&plan.component) else { continue };
            let key = (instance.clone(), kind);
            state.placed.insert(key.clone(), run);
            let pinning = self.pinning(&state, &key, &plan);
            let options = PartOptions {
                device: self.machine.open(plan.compute_device).map_err(PipelineError::failed)?,
                dtype: self.planning().compute_dtype(&file.model, kind, plan.compute_device),
                high_precision_loras: loader.high_precision_loras,
                pinning,
            };
            let (file, machine) = (Arc::clone(&file), Arc::clone(&self.machine));
            let interrupt = self.interrupts.get(&plan.compute_device).cloned().unwrap_or_default();
            let part = Part::new(file, kind, plan, machine, options, interrupt);
            parts.push(state.settle(key, part));
        }
        Ok(Parts { file, parts })
    }

    /// The layers of a part with a patch on their weights, loaded now if they are not yet. Other
    /// models leave while the host has too little memory for it, the least recently used first.
    ///
    /// # Errors
    /// When the weights cannot be had.
    pub fn scope(
        &self,
        part: &Part,
        patch: Option<Arc<dyn Patch>>,
        progress: &mut LoadProgress<'_>,
    ) -> Result<Scope, PipelineError> {
        while !part.is_loaded()
            && self.host_lacks_room(part)
            && self.make_room(part, part.compute_device())
        {}
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        part.scope(patch, now, progress).map_err(PipelineError::failed)
    }

    /// Drops the weights of the part that was used longest ago of those that hold memory of a
    /// device, but for this one and those of other runs. False when there is none.
    pub fn make_room(&self, but: &Part, device: DeviceId) -> bool {
        let holds = |part: &Arc<Part>| !std::ptr::eq(&**part, but) && part.held_on(device) > 0;
        let may_leave = self.may_leave_for(but).into_iter();
        let oldest = may_leave.filter(holds).min_by_key(|part| part.last_used());
        oldest.inspect(|part| part.unload()).is_some()
    }

    /// Has a part follow the allocation that would fit where it ran out of memory, and returns that
    /// allocation; `None` where there is none, or nothing would change.
    ///
    /// # Errors
    /// When the allocation cannot be planned, or its layers cannot be moved.
    pub fn adopt(
        &self,
        part: &Part,
        picture: Workload,
        shortage: &Shortage,
    ) -> Result<Option<Remedy>, PipelineError> {
        let mut state = self.state();
        let Some((instance, kind)) = state.key_of(part) else { return Ok(None) };
        let identity = instance.identity.clone();
        let Some((mut settings, kinds, tasks)) = state.loaders.get(&instance).cloned() else {
            return Ok(None);
        };
        let before = settings_for(kind, &settings);
        let mut after = before.clone();
        match &shortage.remedy {
            Remedy::VirtualVram { gigabytes, .. } => {
                after.virtual_vram =
                    VirtualVram::from_number(*gigabytes).map_err(PipelineError::failed)?;
            }
            Remedy::Allocation { allocation, .. } => after.expert = Some(allocation.clone()),
            _ => return Ok(None),
        }
        let (planned, needed) = (part.plan().activation_bytes, part.learn(picture));
        if after == before && needed <= planned {
            return Ok(None);
        }
        set(kind, &mut settings, after.clone());
        let known = |of| (of == kind).then_some(needed);
        let file = part.file();
        let subject = Subject {
            name: &instance.name(),
            model: &file.model,
            kinds: &kinds,
            settings: &settings,
            tasks: &tasks,
        };
        let plans = self.planning().plans(&subject, &mut state.ledger, known);
        let plans = plans.map_err(PipelineError::failed)?;
        let original = state.adopted.get(&(identity.clone(), kind)).map_or(&before, |(o, _)| o);
        let adopted = (original.clone(), after);
        state.adopted.insert((identity, kind), adopted);
        state.loaders.insert(instance, (settings, kinds, tasks));
        drop(state);
        let plan = plans.into_iter().find(|plan| kind_of(&plan.component) == Some(kind));
        let Some(plan) = plan else { return Ok(None) };
        part.follow(plan).map_err(PipelineError::failed)?;
        Ok(Some(shortage.remedy.clone()))
    }

    /// Begins a run, which has these devices to itself: what it places belongs together, and keeps what it is promised
    /// when models are ejected.
    pub(crate) fn begin_run(&self, run: RunId, devices: DeviceSet) {
        self.state().runs.push((run, devices));
    }

    /// Counts a part that an earlier run placed as one of this run: it keeps what it is promised when models are ejected,
    /// and is promised it anew where that was given up since.
    pub fn keep(&self, run: RunId, part: &Part) {
        let mut state = self.state();
        let Some(key) = state.key_of(part) else { return };
        let plan = part.plan();
        state.ledger.promise(&key.0.name(), &plan.component, plan.promised());
        state.placed.insert(key, run);
    }

    /// Ends a run.
    pub(crate) fn end_run(&self, run: RunId) {
        self.state().runs.retain(|(id, _)| *id != run);
    }

    /// What passed through these devices to compute there leaves them, and what computing freed is
    /// the system's again.
    pub(crate) fn rest(&self, devices: &DeviceSet) {
        for part in self.parts().into_iter().filter(|part| devices.contains(part.compute_device()))
        {
            part.rest();
        }
        heap::give_back();
    }

    /// What ends waits for weights that these devices compute with.
    pub(crate) fn interrupts(&self, devices: &DeviceSet) -> Vec<Interrupt> {
        devices.iter().filter_map(|device| self.interrupts.get(&device).cloned()).collect()
    }

    /// Whether the device that computes a part has room for what such a picture takes, beside what is
    /// to live there and to pass through it. What other models hold there counts as free: they leave.
    pub fn has_room(&self, part: &Part, picture: Workload) -> bool {
        let Some(need) = part.estimate(picture) else { return true };
        let (plan, device) = (part.plan(), part.compute_device());
        let (residents, free) = match self.machine.pool(device) {
            Ok(pool) if pool.is_simulated() || !device.is_cpu() => {
                let others = self.may_leave_for(part);
                let leave = others.iter().map(|part| part.held_on(device)).sum::<u64>();
                (plan.resident_bytes, pool.free().saturating_add(leave))
            }
            _ => {
                let free = devices::host_memory().free;
                (widened_bytes(part), free.saturating_add(part.held_on(device)))
            }
        };
        residents.saturating_add(plan.least_window_bytes).saturating_add(need) <= free
    }

    /// Drops all weights but those of runs that go on; they are loaded again when needed.
    pub fn unload_all(&self) {
        self.state().unload();
    }

    /// Bytes that are free on a device now; `None` where there is no such device.
    pub fn free_bytes(&self, device: DeviceId) -> Option<u64> {
        let pool = self.machine.pool(device).ok()?;
        match pool.is_simulated() || !device.is_cpu() {
            true => Some(pool.free()),
            false => Some(devices::host_memory().free),
        }
    }

    /// Every loaded part with what it holds where, and what passed.
    pub fn stats(&self) -> Vec<(Arc<Part>, StreamStats)> {
        let parts = self.loaded().into_iter();
        parts.filter_map(|part| part.stats().map(|stats| (part, stats))).collect()
    }

    /// The files of the weights that are loaded.
    pub fn loaded_files(&self) -> HashSet<PathBuf> {
        let parts: Vec<_> = {
            let state = self.state();
            let parts = state.parts.iter();
            parts
                .filter_map(|(key, part)| Some((key.0.identity.clone(), part.upgrade()?)))
                .collect()
        };
        let loaded = parts.iter().filter(|(_, part)| part.is_loaded());
        loaded.flat_map(|(identity, _)| identity.paths().to_vec()).collect()
    }

    fn parts(&self) -> Vec<Arc<Part>> {
        self.state().parts.iter().filter_map(|(_, part)| part.upgrade()).collect()
    }

    fn loaded(&self) -> Vec<Arc<Part>> {
        self.parts().into_iter().filter(|part| part.is_loaded()).collect()
    }

    /// The parts that are loaded and no other run than that of this part computes with, this part among them.
    fn may_leave_for(&self, part: &Part) -> Vec<Arc<Part>> {
        let loaded = self.loaded();
        let state = self.state();
        let run = state.run_on(part.compute_device());
        loaded.into_iter().filter(|part| !state.is_in_use(part, run)).collect()
    }

    /// Whether the host's free memory is less than a part computing there takes.
    fn host_lacks_room(&self, part: &Part) -> bool {
        let on_host = distorch_runtime::tensor::is_host(part.device());
        on_host && devices::host_memory().free < widened_bytes(part)
    }

    fn planning(&self) -> Planning<'_> {
        Planning { topology: self.machine.topology(), dtype: self.dtype }
    }

    /// Plans the components of a file.
    fn plans(
        &self,
        file: &ModelFile,
        instance: &Instance,
        settings: &LoaderSettings,
        loader: &Loader<'_>,
        ledger: &mut Ledger,
    ) -> Result<Vec<Plan>, PipelineError> {
        let subject = Subject {
            name: &instance.name(),
            model: &file.model,
            kinds: loader.kinds,
            settings,
            tasks: &loader.tasks,
        };
        self.planning().plans(&subject, ledger, |_| None).map_err(PipelineError::failed)
    }

    /// Whether what the plan has on `cpu` is kept in RAM. What is loaded stays as it is; what others were promised and
    /// have not taken yet is theirs.
    fn pinning(&self, state: &State, key: &Key, plan: &Plan) -> Pinning {
        let there = |(known, part): &(Key, Weak<Part>)| Some((known == key, part.upgrade()?));
        let mut promised = 0_u64;
        for (same, part) in state.parts.iter().filter_map(there) {
            match (same, part.is_loaded()) {
                (true, true)
                    if self.pin == Pin::Auto && part.plan().bytes_on(DeviceId::CPU) > 0 =>
                {
                    return part.pinning().clone();
                }
                (false, false) if part.pinning().on => {
                    promised = promised.saturating_add(part.plan().bytes_on(DeviceId::CPU));
                }
                _ => {}
            }
        }
        self.pin.decide(plan, self.machine.topology(), devices::host_memory(), promised)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that a part's layers at home on the host take there: as they are computed with.
fn widened_bytes(part: &Part) -> u64 {
    let on_host = part.plan().bytes_on(part.compute_device());
    part.component().map_or(0, |component| {
        let bytes = |layer: &Layer| placement::host_bytes(layer, part.dtype());
        let wide = component.layers.iter().map(bytes).sum::<u64>();
        (u128::from(wide) * u128::from(on_host) / u128::from(component.bytes().max(1))) as u64
    })
}

fn kind_of(name: &str) -> Option<ComponentKind> {
    let all = ComponentKind::ALL.into_iter().chain([ComponentKind::Upscaler]);
    all.into_iter().find(|kind| kind.short_name() == name)
}
