//! The layers of a component at the homes that a plan gives them.
//!
//! - On the compute device a layer is there as tensors: in the compute dtype where that is no
//!   larger than the stored one or the device is the host, else as stored and converted at each use,
//!   so that the device holds what the plan says.
//! - On `cpu` a layer stays in its file, and its pages in the system's cache; with
//!   [`Options::pin`] it is kept in RAM.
//! - On another accelerator it is in that one's memory, on a simulated device in the host's under
//!   that device's limit; in the stored dtype in both cases.
//!
//! Layers that live elsewhere pass through a window on the compute device, ahead of their use, in
//! the dtype in which they are stored; conversion is the last step, on the compute device. Files
//! are read, never looked at through their map, so one that is cut short or written over while it is loaded
//! ends in an error; one that is replaced by another of its name stays as it was.
//!
//! When every layer lives on the compute device there is neither window nor loader thread.

mod error;
mod home;
mod order;
mod stats;
mod window;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Instant;

use distorch_allocation::{DeviceId, Plan};
use distorch_checkpoint::{Checkpoint, Component, Layer};

pub use error::{LoadError, Shortage, WayOut};
pub use stats::{DeviceUse, StreamStats};

use crate::machine::{Machine, OutOfMemory, Pool};
use crate::patch::Patch;
use crate::stored::{Precision, StoredLayer};
use crate::tensor::{DType, Device};
use crate::weights::{LayerParams, LayerSource, WeightError};
use home::Home;
use window::{Carrier, TakeError, Window};

/// How a component is placed, besides its plan.
#[derive(Clone, Debug)]
pub struct Options {
    /// Keep what lives on `cpu` in RAM instead of in the file.
    pub pin: bool,
    /// Bytes of the window, if not the plan's; never less than the two largest layers that pass.
    pub window: Option<u64>,
    /// Keep a layer that a patch changes in the compute dtype, instead of the checkpoint's.
    pub high_precision_loras: bool,
    /// Ends waits for weights.
    pub interrupt: Interrupt,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pin: false,
            window: None,
            high_precision_loras: true,
            interrupt: Interrupt::default(),
        }
    }
}

/// A flag that ends waits for weights with an error; copies share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Ends waits, those to come too.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Lets weights be waited for again.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether it is raised.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How far loading is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The layer that is at home now.
    pub layer: &'a str,
    /// Stored bytes of all layers that are at home.
    pub bytes: u64,
    /// Stored bytes of the component.
    pub total: u64,
}

/// The layers of a component, each at its home; see the [module](self).
#[derive(Debug)]
pub struct Placed {
    homes: Arc<Homes>,
    loader: Mutex<Option<JoinHandle<()>>>,
}

/// What the loader thread and those who compute share.
struct Homes {
    checkpoint: Arc<Checkpoint>,
    component: String,
    layers: Vec<Layer>,
    index: HashMap<String, usize>,
    machine: Arc<Machine>,
    compute: DeviceId,
    pool: Arc<Pool>,
    device: Device,
    dtype: DType,
    options: Options,
    homes: RwLock<Vec<Arc<Home>>>,
    window: Arc<Window>,
    /// Held while homes change.
    settled: Mutex<Settled>,
}

/// What the homes were made from.
struct Settled {
    plan: Plan,
    /// The device of each layer.
    devices: Vec<DeviceId>,
    patch: Option<Arc<dyn Patch>>,
    /// The patch's key for each layer, as it was applied.
    keys: Vec<Option<u64>>,
}

impl Placed {
    /// Brings every layer from the file to the home that the plan gives it. `progress` hears of
    /// each and may stop.
    ///
    /// # Errors
    /// When a device of the plan is missing or too full, a layer has no home in the plan or cannot
    /// be read, or `progress` stops it. What was held until then is given back.
    pub fn load(
        checkpoint: Arc<Checkpoint>,
        component: &Component,
        plan: &Plan,
        machine: Arc<Machine>,
        dtype: DType,
        options: Options,
        mut progress: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Self, LoadError> {
        let homes = Homes::new(checkpoint, component, plan, machine, dtype, options)?;
        homes.check_room(&homes.settled())?;
        let (mut bytes, total) = (0, component.bytes());
        let devices = homes.settled().devices.clone();
        for (index, (layer, device)) in homes.layers.iter().zip(devices).enumerate() {
            let home = homes.base(index, device).map_err(|error| homes.failed(error, plan))?;
            homes.move_in(index, home);
            bytes += layer.bytes();
            let told = Progress { layer: &layer.name, bytes, total };
            if progress(told).is_break() {
                return Err(LoadError::Stopped { component: homes.component.clone() });
            }
        }
        Ok(Self { homes: Arc::new(homes), loader: Mutex::default() })
    }

    /// The plan that the homes follow.
    pub fn plan(&self) -> Plan {
        self.homes.settled().plan.clone()
    }

    /// The patch that is applied.
    pub fn patch(&self) -> Option<Arc<dyn Patch>> {
        self.homes.settled().patch.clone()
    }

    /// Applies another patch, or none: rewrites the layers whose key changes, and gives their number.
    ///
    /// # Errors
    /// When a layer cannot be read or patched, or its home is too full for it. No patch is applied
    /// then, and all layers are as the file has them, as far as it can still be read.
    pub fn set_patch(&self, patch: Option<Arc<dyn Patch>>) -> Result<usize, LoadError> {
        let homes = &self.homes;
        let mut settled = homes.settled();
        homes.window.rest();
        let key = |layer: &Layer| patch.as_ref().and_then(|patch| patch.key(&layer.name));
        let keys: Vec<Option<u64>> = homes.layers.iter().map(key).collect();
        let mut changed = 0;
        for (index, key) in keys.into_iter().enumerate() {
            if settled.keys.get(index) == Some(&key) {
                continue;
            }
            let applied = patch.as_deref().filter(|_| key.is_some());
            if let Err(error) = homes.rewrite(&mut settled, index, applied, key) {
                homes.restore_all(&mut settled);
                return Err(homes.failed(error, &settled.plan));
            }
            changed += 1;
        }
        settled.patch = patch;
        Ok(changed)
    }

    /// Follows another plan of the same component: moves the layers whose home changes, and gives
    /// their number and bytes.
    ///
    /// # Errors
    /// When the plan computes on another device, is another component's, or needs more memory than
    /// there is: nothing is moved then. When a layer cannot be brought home it is an error to use
    /// it until another plan, and the rest go on.
    pub fn replan(&self, plan: &Plan) -> Result<(usize, u64), LoadError> {
        let homes = &self.homes;
        let mut settled = homes.settled();
        if plan.compute_device != homes.compute {
            return Err(LoadError::OtherComputeDevice {
                component: homes.component.clone(),
                loaded: homes.compute,
                planned: plan.compute_device,
            });
        }
        let devices = devices_of(&homes.layers, plan, &homes.machine)?;
        homes.window.rest();
        let next = Settled {
            plan: plan.clone(),
            devices,
            patch: settled.patch.clone(),
            keys: settled.keys.clone(),
        };
        homes.check_room(&next)?;
        let old = std::mem::replace(&mut *settled, next);
        homes.window.set_limit(homes.options.window.unwrap_or(plan.window_bytes));
        let mut moving: Vec<usize> = (0..homes.layers.len())
            .filter(|&i| settled.devices.get(i) != old.devices.get(i))
            .collect();
        // Those that leave the compute device make room for those that come.
        moving.sort_by_key(|&index| settled.devices.get(index) == Some(&homes.compute));
        let (mut bytes, mut failure) = (0, None);
        for &index in &moving {
            bytes += homes.layers.get(index).map_or(0, Layer::bytes);
            if let Err(error) = homes.relocate(&settled, index) {
                failure.get_or_insert(error);
            }
        }
        match failure {
            Some(error) => Err(homes.failed(error, plan)),
            None => Ok((moving.len(), bytes)),
        }
    }

    /// Ends a run: empties the window, so that a model that nobody uses holds only what lives on
    /// its devices.
    pub fn rest(&self) {
        self.homes.window.rest();
    }

    /// What is held on each device of the plan, and what passed since the last reset.
    pub fn stats(&self) -> StreamStats {
        self.homes.stats()
    }

    /// Counts transfers, waits and the window's peak from 0 again.
    pub fn reset_stats(&self) {
        self.homes.window.reset_tally();
    }

    /// Starts the loader thread unless it runs. Where there can be none, layers come without being
    /// foreseen.
    fn start_loader(&self) {
        let mut loader = self.loader.lock().unwrap_or_else(PoisonError::into_inner);
        if loader.as_ref().is_none_or(JoinHandle::is_finished) {
            let homes = Arc::clone(&self.homes);
            let name = format!("loader of {}", homes.component);
            let run = move || Arc::clone(&homes.window).run_loader(&*homes);
            *loader = std::thread::Builder::new().name(name).spawn(run).ok();
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.homes.window.stop();
        let loader = self.loader.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(loader) = loader.take() {
            // A loader that panicked has nothing left to say.
            drop(loader.join());
        }
        self.homes.window.rest();
    }
}

impl LayerSource for Placed {
    fn find(&self, name: &str) -> Option<usize> {
        self.homes.index.get(name).copied()
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        let below = |layer: &Layer| {
            layer.name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
        };
        self.homes.layers.iter().any(below)
    }

    fn fetch(&self, index: usize) -> Result<LayerParams, WeightError> {
        let homes = &self.homes;
        match &*homes.home(index)? {
            Home::Ready { params, .. } => return Ok(params.clone()),
            Home::Stored { layer, device, .. } if *device == homes.compute => {
                return Ok(layer.decode(&homes.device, homes.dtype));
            }
            Home::Stored { .. } | Home::File => {}
            Home::Broken(reason) => return Err(homes.no_home(index, reason.clone())),
        }
        self.start_loader();
        let arrival = homes.window.take(&**homes, index).map_err(|error| match error {
            TakeError::Weight(error) => error,
            TakeError::Memory(error) => homes.out_of_memory(index, error),
        })?;
        let params = arrival.layer.decode(&homes.device, homes.dtype);
        Ok(params.holding(Arc::new(arrival.place)))
    }

    fn device(&self) -> &Device {
        &self.homes.device
    }

    fn dtype(&self) -> DType {
        self.homes.dtype
    }
}

/// The device of each layer.
fn devices_of(
    layers: &[Layer],
    plan: &Plan,
    machine: &Machine,
) -> Result<Vec<DeviceId>, LoadError> {
    let homes: HashMap<&str, DeviceId> =
        plan.blocks.iter().map(|block| (block.name.as_str(), block.device)).collect();
    let device = |layer: &Layer| {
        let home = homes.get(layer.name.as_str()).copied();
        let (component, layer) = (plan.component.clone(), layer.name.clone());
        let device = home.ok_or(LoadError::NotPlanned { component, layer })?;
        let known = machine.pool(device).map(|_| device);
        known.map_err(|error| LoadError::unknown(&plan.component, error))
    };
    layers.iter().map(device).collect()
}

impl Homes {
    /// The frame, with every layer still without a home.
    fn new(
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
        let window = Window::new(
            Arc::clone(&pool),
            plan.activation_bytes,
            vec![0; layers.len()],
            &passing,
            options.window.unwrap_or(plan.window_bytes),
        );
        let nowhere = || Arc::new(Home::Broken("it is not loaded yet".to_owned()));
        let homes = RwLock::new(layers.iter().map(|_| nowhere()).collect());
        let keys = vec![None; layers.len()];
        let settled = Settled { plan: plan.clone(), devices, patch: None, keys };
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
            homes,
            window,
            settled: Mutex::new(settled),
            layers,
        })
    }

    fn settled(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn home(&self, index: usize) -> Result<Arc<Home>, WeightError> {
        let homes = self.homes.read().unwrap_or_else(PoisonError::into_inner);
        let none = || WeightError::NoLayer { name: format!("#{index}") };
        homes.get(index).cloned().ok_or_else(none)
    }

    fn layer(&self, index: usize) -> Result<&Layer, WeightError> {
        let none = || WeightError::NoLayer { name: format!("#{index}") };
        self.layers.get(index).ok_or_else(none)
    }

    fn layer_name(&self, index: usize) -> String {
        self.layers.get(index).map_or_else(|| format!("#{index}"), |layer| layer.name.clone())
    }

    /// Gives the layer a home in place of its old one.
    fn move_in(&self, index: usize, home: Home) {
        let passes = match &home {
            Home::Stored { device, held, .. } if *device != self.compute => held.bytes(),
            Home::File => self.layers.get(index).map_or(0, Layer::bytes),
            _ => 0,
        };
        let mut homes = self.homes.write().unwrap_or_else(PoisonError::into_inner);
        let old = homes.get_mut(index).map(|place| std::mem::replace(place, Arc::new(home)));
        drop(homes);
        drop(old);
        self.window.resize(index, passes);
    }

    /// A home for the layer as the file has it.
    fn base(&self, index: usize, device: DeviceId) -> Result<Home, WeightError> {
        if device.is_cpu() && device != self.compute && !self.options.pin {
            return Ok(Home::File);
        }
        let layer = StoredLayer::read(&self.checkpoint, self.layer(index)?)?;
        self.settle(index, device, layer)
    }

    /// A home for these values.
    fn settle(
        &self,
        index: usize,
        device: DeviceId,
        layer: StoredLayer,
    ) -> Result<Home, WeightError> {
        let full = |error| self.out_of_memory(index, error);
        if device == self.compute {
            let layer = layer.on(&self.device)?;
            let converted = layer.elements() * self.dtype.size() as u64;
            if self.converts() || converted <= layer.bytes() {
                let held = self.pool.hold(converted, 0).map_err(full)?;
                return Ok(Home::Ready { params: layer.decode(&self.device, self.dtype), held });
            }
            let held = self.pool.hold(layer.bytes(), 0).map_err(full)?;
            return Ok(Home::Stored { layer, device, held });
        }
        let reason = |reason: String| self.no_home(index, reason);
        let pool = self.machine.pool(device).map_err(|error| reason(error.to_string()))?;
        let held = pool.hold(layer.bytes(), 0).map_err(full)?;
        let donor = self.machine.open(device).map_err(|error| reason(error.to_string()))?;
        Ok(Home::Stored { layer: layer.on(&donor)?, device, held })
    }

    /// Whether residents are kept in the compute dtype even where that is larger: on the host,
    /// which no plan limits.
    fn converts(&self) -> bool {
        self.compute.is_cpu() && !self.pool.is_simulated()
    }

    /// Reads the layer and patches it, or not.
    fn rewrite(
        &self,
        settled: &mut Settled,
        index: usize,
        patch: Option<&dyn Patch>,
        key: Option<u64>,
    ) -> Result<(), WeightError> {
        let device = settled.devices.get(index).copied().unwrap_or(self.compute);
        // Its old home is given up first: there may be no room for both.
        self.move_in(index, Home::Broken("it is being rewritten".to_owned()));
        let made = match patch {
            None => self.base(index, device),
            Some(patch) => self.patched(index, patch).and_then(|l| self.settle(index, device, l)),
        };
        let outcome = made.map(|home| self.move_in(index, home));
        if let Err(error) = &outcome {
            self.move_in(index, Home::Broken(error.to_string()));
        }
        if let Some(applied) = settled.keys.get_mut(index) {
            *applied = key;
        }
        outcome
    }

    fn patched(&self, index: usize, patch: &dyn Patch) -> Result<StoredLayer, WeightError> {
        let layer = self.layer(index)?;
        let base = StoredLayer::read(&self.checkpoint, layer)?;
        let mut params = base.clone().values()?;
        patch.apply(&layer.name, &mut params)?;
        let precision = match self.options.high_precision_loras {
            true => Precision::Compute(self.dtype),
            false => Precision::Stored,
        };
        base.with_values(params, precision)
    }

    /// Takes every patch away.
    fn restore_all(&self, settled: &mut Settled) {
        settled.patch = None;
        for index in 0..self.layers.len() {
            let broken = matches!(self.home(index).as_deref(), Ok(Home::Broken(_)));
            if broken || settled.keys.get(index).copied().flatten().is_some() {
                // What still fails is told where the layer is used.
                let _ = self.rewrite(settled, index, None, None);
            }
        }
    }

    /// Moves a layer to the device that the plan has for it now.
    fn relocate(&self, settled: &Settled, index: usize) -> Result<(), WeightError> {
        let device = settled.devices.get(index).copied().unwrap_or(self.compute);
        let key = settled.keys.get(index).copied().flatten();
        let patch = settled.patch.as_deref().filter(|_| key.is_some());
        let old = self.home(index)?;
        let to_file = device.is_cpu() && device != self.compute && !self.options.pin;
        let made = match (&*old, patch) {
            (Home::Stored { layer, .. }, _) if patch.is_some() || !to_file => {
                self.settle(index, device, layer.clone())
            }
            (_, None) => self.base(index, device),
            (_, Some(patch)) => {
                self.patched(index, patch).and_then(|l| self.settle(index, device, l))
            }
        };
        drop(old);
        match made {
            Ok(home) => {
                self.move_in(index, home);
                Ok(())
            }
            Err(error) => {
                self.move_in(index, Home::Broken(error.to_string()));
                Err(error)
            }
        }
    }

    /// Whether each device has room for what is to live there, with the window and the activations
    /// on the compute device. What this component holds already counts as free.
    fn check_room(&self, settled: &Settled) -> Result<(), LoadError> {
        let mut need: HashMap<DeviceId, u64> = HashMap::new();
        for (layer, &device) in self.layers.iter().zip(&settled.devices) {
            *need.entry(device).or_default() += self.bytes_at(layer, device);
        }
        let plan = &settled.plan;
        // More than the least is taken from what is free then.
        let window = self.options.window.unwrap_or(0).max(plan.least_window_bytes);
        *need.entry(self.compute).or_default() += plan.activation_bytes.saturating_add(window);
        let mut devices: Vec<_> = need.into_iter().collect();
        devices.sort_by_key(|&(device, _)| device);
        for (device, need) in devices {
            let pool = self.machine.pool(device);
            let pool = pool.map_err(|error| LoadError::unknown(&self.component, error))?;
            let free = pool.free().saturating_add(self.held_on(device));
            if need > free {
                let simulated = pool.is_simulated();
                let shortage = Shortage::new(OutOfMemory { device, simulated, need, free }, plan);
                let component = self.component.clone();
                return Err(LoadError::Memory { component, shortage });
            }
        }
        Ok(())
    }

    /// Bytes of memory that the layer takes on a device.
    fn bytes_at(&self, layer: &Layer, device: DeviceId) -> u64 {
        if device != self.compute {
            let in_file = device.is_cpu() && !self.options.pin;
            return if in_file { 0 } else { layer.bytes() };
        }
        let converted = converted_bytes(layer, self.dtype);
        if self.converts() { converted } else { converted.min(layer.bytes()) }
    }

    /// Bytes that the layers at home on the device hold.
    fn held_on(&self, device: DeviceId) -> u64 {
        let homes = self.homes.read().unwrap_or_else(PoisonError::into_inner);
        let at_home = |home: &&Arc<Home>| match &***home {
            Home::Ready { .. } => device == self.compute,
            Home::Stored { device: at, .. } => *at == device,
            Home::File => device.is_cpu(),
            Home::Broken(_) => false,
        };
        homes.iter().filter(at_home).map(|home| home.held()).sum()
    }

    fn stats(&self) -> StreamStats {
        let (tally, window_peak) = self.window.tally();
        let plan = self.settled().plan.clone();
        let devices = plan.devices.iter().map(|share| {
            let device = share.device;
            let computes = device == self.compute;
            let resident_bytes = self.held_on(device);
            let (window_bytes, activation_bytes) =
                if computes { (window_peak, plan.activation_bytes) } else { (0, 0) };
            let beside = self.window.limit();
            let planned_bytes = match computes {
                false => share.bytes,
                true if self.converts() => resident_bytes + beside + activation_bytes,
                true if self.options.window.is_some() => {
                    plan.resident_bytes + beside + activation_bytes
                }
                true => plan.peak_bytes,
            };
            DeviceUse {
                device,
                simulated: share.simulated,
                planned_bytes,
                resident_bytes,
                window_bytes,
                activation_bytes,
                peak_bytes: resident_bytes + window_bytes + activation_bytes,
            }
        });
        StreamStats {
            devices: devices.collect(),
            bytes_moved: tally.bytes,
            transfers: tally.transfers,
            unforeseen: tally.unforeseen,
            stall_seconds: tally.stalled.as_secs_f64(),
        }
    }

    fn no_home(&self, index: usize, reason: String) -> WeightError {
        WeightError::Load { layer: self.layer_name(index), reason }
    }

    fn out_of_memory(&self, index: usize, error: OutOfMemory) -> WeightError {
        // Within a change of homes the lock is held, and the plan's way out is added there.
        let shortage = match self.settled.try_lock() {
            Ok(settled) => Shortage::new(error, &settled.plan),
            Err(_) => Box::new(Shortage { error, way_out: WayOut::Donor }),
        };
        WeightError::Memory { layer: self.layer_name(index), shortage }
    }

    fn failed(&self, error: WeightError, plan: &Plan) -> LoadError {
        let component = self.component.clone();
        match error {
            WeightError::Memory { shortage, .. } => {
                LoadError::Memory { component, shortage: Shortage::new(shortage.error, plan) }
            }
            error => LoadError::Weight { component, error },
        }
    }
}

/// Bytes of the layer in the compute dtype, scales multiplied in.
fn converted_bytes(layer: &Layer, dtype: DType) -> u64 {
    let scales = ["scale_weight", "weight_scale", "scale_input", "input_scale"];
    let params = layer.params.iter().filter(|param| !scales.contains(&param.name.as_str()));
    params.map(|param| param.elements().saturating_mul(dtype.size() as u64)).sum()
}

impl Carrier for Homes {
    fn bring(&self, index: usize, asked: Instant) -> Result<(StoredLayer, Instant), WeightError> {
        let home = self.home(index)?;
        let (layer, from) = match &*home {
            Home::Stored { layer, device, .. } => (layer.on(&self.device)?, *device),
            Home::File => {
                let read = StoredLayer::read(&self.checkpoint, self.layer(index)?)?;
                (read.on(&self.device)?, DeviceId::CPU)
            }
            Home::Ready { .. } => {
                let reason = "it moved to the compute device meanwhile".to_owned();
                return Err(self.no_home(index, reason));
            }
            Home::Broken(reason) => return Err(self.no_home(index, reason.clone())),
        };
        let arrival = self.machine.transfer(from, self.compute, layer.bytes(), asked);
        Ok((layer, arrival))
    }

    fn name(&self, index: usize) -> String {
        self.layer_name(index)
    }

    fn is_interrupted(&self) -> bool {
        self.options.interrupt.is_raised()
    }
}

impl std::fmt::Debug for Homes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Homes")
            .field("component", &self.component)
            .field("layers", &self.layers.len())
            .field("compute", &self.compute)
            .finish_non_exhaustive()
    }
}
