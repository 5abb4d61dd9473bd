//! What the store of models knows: what is open and placed, for which run, and what was promised.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Weak};

use distorch_allocation::{ComponentSettings, DeviceId, Ledger, LoaderSettings};
use distorch_checkpoint::ComponentKind;

use super::file::{Identity, ModelFile};
use super::part::Part;
use super::planning::settings_for;
use super::tasks::Tasks;
use crate::device_set::DeviceSet;
use crate::events::RunId;

/// What is open and placed.
#[derive(Debug)]
pub(super) struct State {
    pub ledger: Ledger,
    pub files: HashMap<Identity, Weak<ModelFile>>,
    pub parts: Vec<(Key, Weak<Part>)>,
    /// How each file was loaded last.
    pub loaders: HashMap<Instance, (LoaderSettings, Vec<ComponentKind>, Tasks)>,
    /// The runs that go on, with the devices of each.
    pub runs: Vec<(RunId, DeviceSet)>,
    /// In which run each part was placed last.
    pub placed: HashMap<Key, RunId>,
    /// Settings that turned out not to fit, and those that took their place.
    pub adopted: HashMap<(Identity, ComponentKind), (ComponentSettings, ComponentSettings)>,
}

/// The weights of a file as one run has them at a time. Runs that compute side by side with the same file have one each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Instance {
    pub identity: Identity,
    /// Tells them apart, from 0.
    pub number: u32,
}

/// Which component of which file.
pub(super) type Key = (Instance, ComponentKind);

impl State {
    /// Nothing is open, and nothing promised.
    pub fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            files: HashMap::new(),
            parts: Vec::new(),
            loaders: HashMap::new(),
            runs: Vec::new(),
            placed: HashMap::new(),
            adopted: HashMap::new(),
        }
    }

    /// Settings as the user wants them, but for those that turned out not to fit.
    pub fn settings_of(&self, identity: &Identity, wanted: &LoaderSettings) -> LoaderSettings {
        let mut settings = wanted.clone();
        for ((owner, kind), (before, after)) in &self.adopted {
            if owner == identity && settings_for(*kind, wanted) == *before {
                set(*kind, &mut settings, after.clone());
            }
        }
        settings
    }

    /// Which component of which file a part is.
    pub fn key_of(&self, part: &Part) -> Option<Key> {
        let same = |weak: &Weak<Part>| std::ptr::eq(weak.as_ptr(), part);
        self.parts.iter().find(|(_, weak)| same(weak)).map(|(key, _)| key.clone())
    }

    /// The part that is there already if it is the same; else this one in its place.
    pub fn settle(&mut self, key: Key, part: Part) -> Arc<Part> {
        let known = self.parts.iter().find(|(known, _)| *known == key);
        if let Some(known) = known.and_then(|(_, part)| part.upgrade()) {
            match known.may_hand_over(&part) {
                true if known.plan() == part.plan() => return known,
                true => part.take_over(&known),
                false => known.unload(),
            }
        }
        let part = Arc::new(part);
        self.parts.retain(|(known, _)| *known != key);
        self.parts.push((key, Arc::downgrade(&part)));
        part
    }

    /// The devices of a run that goes on.
    pub fn devices_of(&self, run: RunId) -> DeviceSet {
        let found = self.runs.iter().find(|(id, _)| *id == run);
        found.map(|(_, devices)| devices.clone()).unwrap_or_default()
    }

    /// The run that has a device now.
    pub fn run_on(&self, device: DeviceId) -> Option<RunId> {
        self.runs.iter().find(|(_, devices)| devices.contains(device)).map(|(run, _)| *run)
    }

    /// Whether another run than this one has the device that computes with a part.
    pub fn is_in_use(&self, part: &Part, but: Option<RunId>) -> bool {
        self.run_on(part.compute_device()).is_some_and(|run| Some(run) != but)
    }

    /// The weights that a run gets of a file: those that are on its devices already, else the first that no other run
    /// computes with.
    pub fn instance(&self, run: RunId, identity: Identity, settings: &LoaderSettings) -> Instance {
        let mut known: BTreeMap<u32, Vec<(ComponentKind, Arc<Part>)>> = BTreeMap::new();
        for ((instance, kind), part) in &self.parts {
            if let (true, Some(part)) = (instance.identity == identity, part.upgrade()) {
                known.entry(instance.number).or_default().push((*kind, part));
            }
        }
        known.retain(|_, parts| !parts.is_empty());
        let in_use: Vec<u32> = known
            .iter()
            .filter(|(_, parts)| parts.iter().any(|(_, part)| self.is_in_use(part, Some(run))))
            .map(|(number, _)| *number)
            .collect();
        let is_there = |(kind, part): &(ComponentKind, Arc<Part>)| {
            part.compute_device() == settings_for(*kind, settings).compute_device
        };
        let there = known
            .iter()
            .find(|(number, parts)| !in_use.contains(*number) && parts.iter().all(is_there));
        let number = match there {
            Some((number, _)) => *number,
            None => (0..u32::MAX).find(|number| !in_use.contains(number)).unwrap_or(u32::MAX),
        };
        Instance { identity, number }
    }

    /// Drops the weights of all parts but this file's and those of other runs. What was promised to those that this run
    /// placed stays theirs: they come back when they are used.
    pub fn eject(&mut self, run: RunId, but: &Instance) {
        for (key, part) in &self.parts {
            let Some(part) = part.upgrade().filter(|_| key.0 != *but) else { continue };
            if self.is_in_use(&part, Some(run)) {
                continue;
            }
            part.unload();
            if self.placed.get(key) != Some(&run) {
                release(&mut self.ledger, key);
            }
        }
    }

    /// Drops the weights of all parts but those of runs, and what was promised to them.
    pub fn unload(&mut self) {
        for (key, part) in &self.parts {
            if let Some(part) = part.upgrade().filter(|part| !self.is_in_use(part, None)) {
                part.unload();
                release(&mut self.ledger, key);
            }
        }
    }

    /// Gives back what was promised to parts that no longer are.
    pub fn forget_the_gone(&mut self) {
        let (there, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.parts)
            .into_iter()
            .partition(|(_, part)| part.strong_count() > 0);
        self.parts = there;
        for (key, _) in &gone {
            release(&mut self.ledger, key);
            self.placed.remove(key);
        }
    }
}

pub(super) fn release(ledger: &mut Ledger, (instance, kind): &Key) {
    ledger.release_component(&instance.name(), kind.short_name());
}

impl Instance {
    /// Its name in the ledger.
    pub fn name(&self) -> String {
        let path = model_name(&self.identity.path());
        if self.number == 0 { path } else { format!("{path} ({})", self.number) }
    }
}

/// A file's name in the ledger.
pub(super) fn model_name(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn set(kind: ComponentKind, all: &mut LoaderSettings, settings: ComponentSettings) {
    match kind {
        ComponentKind::DiffusionModel => all.unet = settings,
        ComponentKind::TextEncoders => all.clip = settings,
        ComponentKind::Vae | ComponentKind::Upscaler => all.vae = settings,
    }
}
