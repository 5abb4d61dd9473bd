//! The planner: settings and blocks in, plan out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::assembly::assemble;
use crate::block::ComponentBlocks;
use crate::device::DeviceId;
use crate::fit::Search;
use crate::language::{Allocation, AllocationError};
use crate::layout::{Layout, LayoutReason, LayoutRule};
use crate::layout_choice::{LayoutChoice, choose};
use crate::ledger::Ledger;
use crate::number::Number;
use crate::pins::Pins;
use crate::placing::Homeless;
use crate::plan::Plan;
use crate::settings::ComponentSettings;
use crate::shares::{Request, Shares};
use crate::size::ByteSize;
use crate::topology::UnknownDevice;
use crate::virtual_vram::{VirtualVram, gigabytes_in_bytes};
use crate::warning::PlanWarning;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The compute device isn't there.
    #[error("component `{component}`, compute device: {error}")]
    ComputeDevice {
        /// The component.
        component: String,
        /// Which device, and which there are.
        error: UnknownDevice,
    },
    /// A donor isn't there.
    #[error("component `{component}`, donor: {error}")]
    Donor {
        /// The component.
        component: String,
        /// Which device, and which there are.
        error: UnknownDevice,
    },
    /// The expert allocation asks for what the machine doesn't have.
    #[error("component `{component}`, expert allocation, {error}")]
    Allocation {
        /// The component.
        component: String,
        /// The entry and what is wrong with it.
        error: AllocationError,
    },
    /// Sizes that leave blocks without a home.
    #[error(
        "component `{component}`, expert allocation: `{block}` of {} fits under none of the sizes, \
         and {} for what is left: raise a size, or give `*` to a device with more room",
        ByteSize(*bytes),
        no_taker(*full)
    )]
    NoHome {
        /// The component.
        component: String,
        /// The first block that fits nowhere.
        block: String,
        /// Its size.
        bytes: u64,
        /// The device that would take what is left, but is full; `None` where every device has a
        /// size.
        full: Option<DeviceId>,
    },
    /// Two components of one name in a model.
    #[error("two components are named `{0}`")]
    DuplicateComponent(String),
}

fn no_taker(full: Option<DeviceId>) -> String {
    match full {
        Some(device) => format!("{device} has no room"),
        None => "no device is there".to_owned(),
    }
}

/// Plans one component on the memory that is free and not promised. Nothing is promised by this;
/// [`plan_model`] does that.
///
/// A plan that doesn't fit is a plan too: it says so in [`Plan::fits`] and its warnings.
///
/// # Errors
/// A device that the machine doesn't have, an allocation beyond a device's capacity, and sizes that
/// leave blocks without a home.
pub fn plan(
    component: &ComponentBlocks,
    settings: &ComponentSettings,
    ledger: &Ledger,
) -> Result<Plan, PlanError> {
    let mut draft = draft_with(0, component, settings, ledger)?;
    let other = draft.choose_layout(component, settings, ledger);
    Ok(other.unwrap_or(draft.plan))
}

/// A plan, and what it takes to make it again in another layout.
struct Draft {
    plan: Plan,
    pins: Pins,
    shares: Shares,
}

impl Draft {
    /// Where the settings leave the layout open, decides which it is on the memory that `ledger` leaves:
    /// the reason goes into the plan, and a plan with the other layout comes back if that is the one.
    fn choose_layout(
        &mut self,
        component: &ComponentBlocks,
        settings: &ComponentSettings,
        ledger: &Ledger,
    ) -> Option<Plan> {
        if settings.layout != LayoutChoice::Auto {
            return None;
        }
        let (compute, layout) = (settings.compute_device, Layout::Interleave);
        let interleave = || {
            let homes = layout.place(component, &self.pins, &self.shares, compute).ok()?;
            let (shares, pins) = (&self.shares, &self.pins);
            let mut plan = assemble(component, settings, layout, ledger, &homes, shares, pins);
            plan.virtual_vram_gb = self.plan.virtual_vram_gb;
            plan.settle(ledger.available(compute));
            Some(plan)
        };
        let (reason, other) = choose(component, &self.plan, interleave);
        self.plan.layout_reason = reason;
        other
    }
}

/// As [`plan`], where other components need `beside` bytes on the compute device while they run and the
/// layout is not chosen yet.
fn draft_with(
    reserved_bytes: u64,
    component: &ComponentBlocks,
    settings: &ComponentSettings,
    ledger: &Ledger,
) -> Result<Draft, PlanError> {
    check(component, settings, ledger)?;
    let search = search(reserved_bytes, component, settings, ledger);
    let (gigabytes, shares) = shares(settings, &search);
    let layout = settings.layout.first();
    let homes = layout
        .place(component, &search.pins, &shares, settings.compute_device)
        .map_err(|homeless| no_home(component, settings, homeless))?;
    let mut plan = assemble(component, settings, layout, ledger, &homes, &shares, &search.pins);
    plan.virtual_vram_gb = gigabytes;
    judge(&mut plan, &search);
    Ok(Draft { plan, pins: search.pins, shares })
}

/// Plans all components of `model` in the order given and promises their memory, in place of what
/// was promised to this model before. Components whose virtual VRAM is `auto` are planned last, so
/// that they adapt to the others. Each plan's peak is held against what all other components leave
/// free.
///
/// # Errors
/// As [`plan`], and two components of one name. The ledger is then as it was.
pub fn plan_model(
    model: &str,
    components: &[(ComponentBlocks, ComponentSettings)],
    ledger: &mut Ledger,
) -> Result<Vec<Plan>, PlanError> {
    let mut names = BTreeSet::new();
    if let Some((twice, _)) = components.iter().find(|(part, _)| !names.insert(part.name())) {
        return Err(PlanError::DuplicateComponent(twice.name().to_owned()));
    }
    let mut promised = ledger.clone();
    promised.release(model);
    let mut order: Vec<usize> = (0..components.len()).collect();
    order.sort_by_key(|&index| components.get(index).is_some_and(|(_, s)| is_auto(s)));
    let mut drafts: BTreeMap<usize, Draft> = BTreeMap::new();
    for index in order {
        let Some((component, settings)) = components.get(index) else { continue };
        let reserved_bytes = transient_of_others(&drafts, settings.compute_device);
        let draft = draft_with(reserved_bytes, component, settings, &promised)?;
        promise(&mut promised, model, &draft.plan);
        drafts.insert(index, draft);
    }
    let mut drafts: Vec<Draft> = drafts.into_values().collect();
    judge_all(&mut drafts, components, model, &promised);
    if choose_layouts(&mut drafts, components, model, &mut promised) {
        judge_all(&mut drafts, components, model, &promised);
    }
    let mut plans: Vec<Plan> = drafts.into_iter().map(|draft| draft.plan).collect();
    for index in 0..plans.len() {
        if let Some(way_out) = room_from_another(index, &plans, components, model, &promised) {
            plans[index].warnings.push(way_out);
        }
    }
    *ledger = promised;
    Ok(plans)
}

/// Promises a plan's bytes on every device that it uses.
fn promise(ledger: &mut Ledger, model: &str, plan: &Plan) {
    ledger.promise(model, &plan.component, plan.promised());
}

/// What `ledger` leaves to one component.
fn without(ledger: &Ledger, model: &str, component: &ComponentBlocks) -> Ledger {
    let mut others = ledger.clone();
    others.release_component(model, component.name());
    others
}

/// Holds each plan's peak against what all other components leave free.
fn judge_all(
    drafts: &mut [Draft],
    components: &[(ComponentBlocks, ComponentSettings)],
    model: &str,
    ledger: &Ledger,
) {
    for (draft, (component, settings)) in drafts.iter_mut().zip(components) {
        let others = without(ledger, model, component);
        judge(&mut draft.plan, &search(0, component, settings, &others));
    }
}

/// Decides about the layouts that the settings leave open; whether any is another than was planned with.
fn choose_layouts(
    drafts: &mut [Draft],
    components: &[(ComponentBlocks, ComponentSettings)],
    model: &str,
    ledger: &mut Ledger,
) -> bool {
    let mut any = false;
    for index in 0..drafts.len() {
        let (Some(draft), Some((component, settings))) =
            (drafts.get_mut(index), components.get(index))
        else {
            continue;
        };
        let others = without(ledger, model, component);
        let Some(other) = draft.choose_layout(component, settings, &others) else { continue };
        let mut changed = others;
        promise(&mut changed, model, &other);
        if crowds_out(index, drafts, components, model, &changed) {
            let waits = other.layout_reason.waits;
            drafts[index].plan.layout_reason = LayoutReason { rule: LayoutRule::NoRoom, waits };
        } else {
            drafts[index].plan = other;
            *ledger = changed;
            any = true;
        }
    }
    any
}

/// Whether, with these promises, a device has less than was promised on it, or another plan than the one at
/// `index` no longer fits.
fn crowds_out(
    index: usize,
    drafts: &[Draft],
    components: &[(ComponentBlocks, ComponentSettings)],
    model: &str,
    ledger: &Ledger,
) -> bool {
    let others = drafts.iter().zip(components).enumerate().filter(|(other, _)| *other != index);
    let mut crowded = others.map(|(_, (draft, (component, _)))| {
        let plan = &draft.plan;
        let least = plan.resident_bytes.saturating_add(plan.transient_bytes());
        plan.fits && least > without(ledger, model, component).available(plan.compute_device)
    });
    let mut devices = ledger.topology().devices().iter();
    crowded.any(|crowded| crowded) || devices.any(|info| ledger.promised(info.id) > info.free)
}

/// The most that any of the planned components needs on this device only while it runs.
fn transient_of_others(drafts: &BTreeMap<usize, Draft>, device: DeviceId) -> u64 {
    let plans = drafts.values().map(|draft| &draft.plan);
    let running = plans.filter(|plan| plan.compute_device == device);
    running.map(Plan::transient_bytes).max().unwrap_or(0)
}

/// For a plan that does not fit whatever its own virtual VRAM: the other component on its
/// compute device whose virtual VRAM would make the room, the largest first.
fn room_from_another(
    index: usize,
    plans: &[Plan],
    components: &[(ComponentBlocks, ComponentSettings)],
    model: &str,
    ledger: &Ledger,
) -> Option<PlanWarning> {
    let crowded = plans.get(index)?;
    let helpless = |warning: &PlanWarning| {
        matches!(warning, PlanWarning::DoesNotFit { least_virtual_vram_gb: None, .. })
    };
    if !crowded.warnings.iter().any(helpless) {
        return None;
    }
    let mut others: Vec<usize> = (0..plans.len()).filter(|&other| other != index).collect();
    others.sort_by_key(|&other| plans.get(other).map(|plan| Reverse(plan.resident_bytes)));
    others.into_iter().find_map(|other| {
        let (component, settings) = components.get(other)?;
        if settings.compute_device != crowded.compute_device || settings.expert.is_some() {
            return None;
        }
        let mut rest = ledger.clone();
        rest.release_component(model, component.name());
        let search = search(crowded.transient_bytes(), component, settings, &rest);
        let gigabytes = search.least(rest.available(settings.compute_device))?;
        let component = component.name().to_owned();
        Some(PlanWarning::RoomFromAnother { component, least_virtual_vram_gb: gigabytes })
    })
}

fn is_auto(settings: &ComponentSettings) -> bool {
    settings.expert.is_none() && settings.virtual_vram == VirtualVram::Auto
}

fn check(
    component: &ComponentBlocks,
    settings: &ComponentSettings,
    ledger: &Ledger,
) -> Result<(), PlanError> {
    let topology = ledger.topology();
    let name = || component.name().to_owned();
    topology
        .get(settings.compute_device)
        .map_err(|error| PlanError::ComputeDevice { component: name(), error })?;
    for &donor in &settings.donors.devices {
        topology.get(donor).map_err(|error| PlanError::Donor { component: name(), error })?;
    }
    match &settings.expert {
        Some(allocation) => allocation
            .check(topology)
            .map_err(|error| PlanError::Allocation { component: name(), error }),
        None => Ok(()),
    }
}

/// What looks for homes, and for the virtual VRAM that is enough, on the memory that `ledger`
/// leaves, where other components need `beside` bytes while they run.
fn search<'a>(
    reserved_bytes: u64,
    component: &'a ComponentBlocks,
    settings: &ComponentSettings,
    ledger: &'a Ledger,
) -> Search<'a> {
    let (compute, pins) = (settings.compute_device, Pins::of(component));
    let pinned = pins.bytes;
    Search {
        component,
        pins,
        layout: settings.layout.first(),
        donors: settings.donors.resolve(compute, ledger.topology()),
        reserved_bytes,
        request: Request { total: component.bytes(), pinned, compute, ledger },
    }
}

/// The shares that the settings ask for and, without an expert allocation, the gigabytes behind
/// them.
fn shares(settings: &ComponentSettings, search: &Search<'_>) -> (Option<Number>, Shares) {
    if let Some(allocation) = &settings.expert {
        return (None, search.request.allocation(allocation));
    }
    let gigabytes = match settings.virtual_vram {
        VirtualVram::Gigabytes(gigabytes) => gigabytes,
        VirtualVram::Auto => {
            let available = search.request.ledger.available(search.request.compute);
            search.least(available).unwrap_or_else(|| Number::from_tenths(search.most()))
        }
    };
    let shares = search.request.virtual_vram(gigabytes_in_bytes(gigabytes), &search.donors);
    (Some(gigabytes), shares)
}

/// The error for a block without a home.
fn no_home(
    component: &ComponentBlocks,
    settings: &ComponentSettings,
    Homeless { block, bytes }: Homeless,
) -> PlanError {
    let component = component.name().to_owned();
    let allocation = settings.expert.as_ref();
    let cpu = allocation.filter(|allocation| allocation.ceiling(DeviceId::CPU).is_none());
    let full = allocation.and_then(Allocation::wildcard).or(cpu.map(|_| DeviceId::CPU));
    PlanError::NoHome { component, block, bytes, full }
}

/// Holds the plan's peak against what the compute device has, and says what would fit if it
/// doesn't.
fn judge(plan: &mut Plan, search: &Search<'_>) {
    let device = plan.compute_device;
    plan.settle(search.request.ledger.available(device));
    plan.warnings.retain(|warning| !matches!(warning, PlanWarning::DoesNotFit { .. }));
    if !plan.fits {
        plan.warnings.push(PlanWarning::DoesNotFit {
            device,
            peak: plan.peak_bytes,
            available: plan.available_bytes,
            donors: search.donors.to_vec(),
            least_virtual_vram_gb: search.least(plan.available_bytes),
        });
    }
}
