//! What is open and loaded, and who may stay.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use distorch_allocation::{
    ComponentBlocks, ComponentSettings, Ledger, LoaderSettings, Plan, Topology, plan_model,
};
use distorch_checkpoint::{Component, ComponentKind};
use distorch_models::estimate::{self, Picture};
use distorch_runtime::{DType, placement};

use crate::inputs::NodeError;
use crate::models::file::Identity;
use crate::models::{ModelFile, Part};

/// Opens model files once, and plans all of them on one ledger.
#[derive(Debug)]
pub struct ModelStore {
    state: Mutex<State>,
    dtype: Option<DType>,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    files: HashMap<Identity, Weak<ModelFile>>,
    parts: Vec<(Key, Weak<Part>)>,
}

/// Which component of which file.
type Key = (Identity, ComponentKind);

/// How a loader node wants a file loaded.
#[derive(Clone, Debug)]
pub struct Loader<'a> {
    /// The name that the user gave.
    pub name: &'a str,
    /// The file.
    pub path: &'a Path,
    /// Where each component goes.
    pub settings: &'a LoaderSettings,
    /// The components that are wanted.
    pub kinds: &'a [ComponentKind],
    /// Whether all other models leave first.
    pub eject_models: bool,
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
        self.parts.iter().map(|part| part.plan().clone()).collect()
    }
}

impl ModelStore {
    /// An empty store on these devices. `dtype` is what every model computes in; without it, each
    /// device has its own.
    pub fn new(topology: Topology, dtype: Option<DType>) -> Self {
        let state =
            State { ledger: Ledger::new(topology), files: HashMap::new(), parts: Vec::new() };
        Self { state: Mutex::new(state), dtype }
    }

    /// Opens a file, or gives it where it is open already.
    ///
    /// # Errors
    /// When it cannot be opened or is nothing known.
    pub fn open(&self, name: &str, path: &Path) -> Result<Arc<ModelFile>, NodeError> {
        let identity = Identity::of(path);
        let mut state = self.state();
        if let Some(file) = state.files.get(&identity).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = Arc::new(ModelFile::open(name, path).map_err(NodeError::failed)?);
        state.files.insert(identity, Arc::downgrade(&file));
        Ok(file)
    }

    /// Plans a file's components without promising or loading anything.
    ///
    /// # Errors
    /// When the file cannot be opened, or the settings cannot be planned.
    pub fn plan(&self, loader: &Loader<'_>) -> Result<Vec<Plan>, NodeError> {
        let file = self.open(loader.name, loader.path)?;
        let mut ledger = self.state().ledger.clone();
        self.plans(&file, loader, &mut ledger)
    }

    /// Plans a file's components and promises their memory. Weights are loaded when they are
    /// needed. What the same file was loaded as before gives way.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), and when this build cannot compute on a device.
    pub fn place(&self, loader: &Loader<'_>) -> Result<Parts, NodeError> {
        let file = self.open(loader.name, loader.path)?;
        let identity = Identity::of(loader.path);
        let mut state = self.state();
        if loader.eject_models {
            state.unload(|(owner, _)| *owner != identity);
        }
        let plans = self.plans(&file, loader, &mut state.ledger)?;
        let mut parts = Vec::new();
        for plan in plans {
            let Some(kind) = kind_of(&plan.component) else { continue };
            parts.push(self.part(&mut state, &identity, &file, kind, plan)?);
        }
        Ok(Parts { file, parts })
    }

    /// The part with this plan: the one that is there, or a new one in its place.
    fn part(
        &self,
        state: &mut State,
        identity: &Identity,
        file: &Arc<ModelFile>,
        kind: ComponentKind,
        plan: Plan,
    ) -> Result<Arc<Part>, NodeError> {
        let key = (identity.clone(), kind);
        let of_key = |(known, _): &&(Key, Weak<Part>)| *known == key;
        let known = state.parts.iter().find(of_key).and_then(|(_, part)| part.upgrade());
        let device = self.open_device(state, &plan)?;
        let dtype = self.dtype(kind, &plan);
        if let Some(known) = known {
            if *known.plan() == plan && known.dtype() == dtype {
                return Ok(known);
            }
            known.unload();
        }
        let part = Arc::new(Part::new(Arc::clone(file), kind, plan, device, dtype));
        state.parts.retain(|(known, part)| *known != key && part.strong_count() > 0);
        state.parts.push((key, Arc::downgrade(&part)));
        Ok(part)
    }

    fn open_device(
        &self,
        state: &State,
        plan: &Plan,
    ) -> Result<distorch_runtime::Device, NodeError> {
        let info = state.ledger.topology().get(plan.compute_device).map_err(NodeError::failed)?;
        match info.simulated || info.id.is_cpu() {
            true => Ok(distorch_runtime::tensor::cpu()),
            false => Err(NodeError::failed(format!("cannot compute on `{}` yet", info.id))),
        }
    }

    fn plans(
        &self,
        file: &ModelFile,
        loader: &Loader<'_>,
        ledger: &mut Ledger,
    ) -> Result<Vec<Plan>, NodeError> {
        let wanted = |component: &&Component| loader.kinds.contains(&component.kind);
        let components: Vec<(ComponentBlocks, ComponentSettings)> = file
            .model
            .components
            .iter()
            .filter(wanted)
            .map(|component| {
                let settings = settings_for(component.kind, loader.settings);
                let element = if settings.compute_device.is_cpu() { 4 } else { 2 };
                let picture = Picture::native(&file.model);
                let bytes = estimate::activation_bytes(&file.model, component, picture, element);
                let blocks = placement::blocks(component, bytes).map_err(NodeError::failed)?;
                Ok((blocks, settings))
            })
            .collect::<Result<_, NodeError>>()?;
        let model = loader.path.display().to_string();
        plan_model(&model, &components, ledger).map_err(NodeError::failed)
    }

    /// What a component computes in: f32 on the CPU, f16 elsewhere but for the VAE, whose values
    /// leave f16's range in SDXL.
    fn dtype(&self, kind: ComponentKind, plan: &Plan) -> DType {
        let simulated = plan.devices.iter().any(|s| s.device == plan.compute_device && s.simulated);
        match (self.dtype, kind) {
            (Some(DType::F16), ComponentKind::Vae) => DType::F32,
            (Some(dtype), _) => dtype,
            (None, ComponentKind::Vae) => DType::F32,
            (None, _) if plan.compute_device.is_cpu() || simulated => DType::F32,
            (None, _) => DType::F16,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Drops the weights of parts.
    fn unload(&mut self, gone: impl Fn(&Key) -> bool) {
        for (key, part) in &self.parts {
            if let (true, Some(part)) = (gone(key), part.upgrade()) {
                part.unload();
                self.ledger
                    .release_component(&key.0.path().display().to_string(), key.1.short_name());
            }
        }
    }
}

fn settings_for(kind: ComponentKind, settings: &LoaderSettings) -> ComponentSettings {
    match kind {
        ComponentKind::DiffusionModel => settings.unet.clone(),
        ComponentKind::TextEncoders => settings.clip.clone(),
        ComponentKind::Vae => settings.vae.clone(),
    }
}

fn kind_of(name: &str) -> Option<ComponentKind> {
    [ComponentKind::DiffusionModel, ComponentKind::TextEncoders, ComponentKind::Vae]
        .into_iter()
        .find(|kind| kind.short_name() == name)
}
