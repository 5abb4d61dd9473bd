//! Whether components can do what a run asks of them at all, before anything of them is loaded.
//!
//! Each is looked at alone, on devices on which nothing else is held: other models leave when memory is
//! needed. What does not fit even so is refused, with what it needs, what there is and the way out.

use distorch_allocation::{ByteSize, DeviceId, Ledger, Number, Plan, PlanWarning};
use distorch_checkpoint::ComponentKind;
use distorch_models::estimate::Workload;
use distorch_runtime::devices::{self, HostNeed, LimitKind};
use distorch_runtime::machine::Remedy;
use thiserror::Error;

use super::part::in_words;
use super::planning::{Planning, PlanningError, Subject, settings_for};
use super::tasks::{Task, Tasks, size_in_words};

/// A component that needs more memory than there is.
#[derive(Clone, Debug, PartialEq, Error)]
#[error(
    "the {} of `{file}`{}: {} is out of memory before anything is loaded: {} needed, {} free",
    in_words(*kind), for_picture(*picture), device_name(*device, *simulated), ByteSize(*need),
    ByteSize(*have)
)]
pub struct CannotFit {
    /// The file.
    pub file: String,
    /// The component.
    pub kind: ComponentKind,
    /// The picture that it is to make, where that matters.
    pub picture: Option<Workload>,
    /// The device that has too little memory.
    pub device: DeviceId,
    /// Whether it is simulated.
    pub simulated: bool,
    /// What is needed there, in bytes.
    pub need: u64,
    /// What it has, in bytes.
    pub have: u64,
    /// What to do.
    pub remedy: Remedy,
    /// The limit of this process that could be raised, where that is what there is too little of.
    pub limit: Option<LimitKind>,
}

fn for_picture(picture: Option<Workload>) -> String {
    picture.map_or_else(String::new, |picture| format!(", for {}", size_in_words(picture)))
}

fn device_name(device: DeviceId, simulated: bool) -> String {
    distorch_allocation::report::device_name(device, simulated)
}

/// What is looked at.
pub(super) struct Check<'a> {
    pub planning: Planning<'a>,
    pub subject: Subject<'a>,
    /// The file's name for people.
    pub file: &'a str,
    /// Whether what lives on `cpu` is kept in RAM instead of in its file.
    pub pin: bool,
    /// Whether a part that runs out of memory takes another allocation and goes on.
    pub retries: bool,
    /// Bytes of the host that loaded models hold and give back when they have to.
    pub held_on_host: u64,
}

impl Check<'_> {
    /// The first component that cannot do its task.
    ///
    /// # Errors
    /// When the settings cannot be planned on this machine.
    pub fn run(&self) -> Result<Option<CannotFit>, PlanningError> {
        for kind in self.subject.kinds {
            let task = self.subject.tasks.of(*kind);
            // What is not known before the run may be smaller than what was planned for.
            let sure = *kind == ComponentKind::TextEncoders || task.most.is_some();
            if !task.used || !sure {
                continue;
            }
            if let Some(short) = self.component(*kind, Task { unknown: false, ..task })? {
                return Ok(Some(short));
            }
        }
        Ok(None)
    }

    fn component(
        &self,
        kind: ComponentKind,
        task: Task,
    ) -> Result<Option<CannotFit>, PlanningError> {
        let mut tasks = Tasks::default();
        tasks.add(kind, task);
        let kinds = [kind];
        let subject = Subject { kinds: &kinds, tasks: &tasks, ..self.subject };
        let mut ledger = Ledger::new(self.planning.topology.clone());
        let plans = self.planning.plans(&subject, &mut ledger, |_| None)?;
        let Some(plan) = plans.first() else { return Ok(None) };
        let picture = task.most.filter(|_| kind != ComponentKind::TextEncoders);
        Ok(self.short(kind, picture, plan))
    }

    fn short(
        &self,
        kind: ComponentKind,
        picture: Option<Workload>,
        plan: &Plan,
    ) -> Option<CannotFit> {
        let device = plan.compute_device;
        let info = self.planning.topology.get(device).ok();
        let simulated = info.is_some_and(|info| info.simulated);
        let (file, host) = (self.file.to_owned(), device.is_cpu() && !simulated);
        let least = plan.warnings.iter().find_map(|warning| match warning {
            PlanWarning::DoesNotFit { least_virtual_vram_gb, .. } => *least_virtual_vram_gb,
            _ => None,
        });
        // An upscaler takes smaller tiles by itself.
        let adapts = kind == ComponentKind::Upscaler
            || (self.retries && (least.is_some() || kind == ComponentKind::Vae));
        // What the host has is asked for below: it may swap, and some of it is held by models that leave.
        if !plan.fits && !host && !adapts {
            let need = plan.resident_bytes.saturating_add(plan.transient_bytes());
            let (remedy, limit) = (self.remedy(kind, picture, least), None);
            let have = plan.available_bytes;
            return Some(CannotFit {
                file,
                kind,
                picture,
                device,
                simulated,
                need,
                have,
                remedy,
                limit,
            });
        }
        let private = self.host_need(plan).saturating_sub(self.held_on_host);
        let short = devices::host_room(HostNeed { private, mapped: 0 }).err()?;
        let remedy = self.remedy(kind, picture, None);
        let limit = Some(short.limit.kind).filter(|limit| *limit != LimitKind::Machine);
        let (device, simulated) = (DeviceId::CPU, false);
        let (need, have) = (short.need, short.limit.room());
        Some(CannotFit { file, kind, picture, device, simulated, need, have, remedy, limit })
    }

    /// Bytes of this process's memory that the component takes at its peak. Simulated devices are memory
    /// of the host; what lives on `cpu` stays in its file unless it is pinned.
    fn host_need(&self, plan: &Plan) -> u64 {
        let simulated =
            |device| self.planning.topology.get(device).is_ok_and(|info| info.simulated);
        let on_host = |device: DeviceId| device.is_cpu() || simulated(device);
        let held = plan.devices.iter().filter(|share| {
            let in_file = share.device.is_cpu()
                && !simulated(share.device)
                && share.device != plan.compute_device
                && !self.pin;
            on_host(share.device) && !in_file
        });
        let held = held.fold(0_u64, |sum, share| sum.saturating_add(share.memory_bytes));
        let running = if on_host(plan.compute_device) { plan.transient_bytes() } else { 0 };
        held.saturating_add(running)
    }

    fn remedy(
        &self,
        kind: ComponentKind,
        picture: Option<Workload>,
        gigabytes: Option<Number>,
    ) -> Remedy {
        let component = kind.short_name().to_owned();
        // A VAE or an upscaler is whole on its device.
        let is_whole = matches!(kind, ComponentKind::Vae | ComponentKind::Upscaler);
        if let Some(gigabytes) = gigabytes.filter(|_| !is_whole) {
            let replaces_allocation = settings_for(kind, self.subject.settings).expert.is_some();
            return Remedy::VirtualVram { component, gigabytes, replaces_allocation };
        }
        match (kind, picture) {
            (ComponentKind::Vae, _) => Remedy::Tiles,
            (ComponentKind::Upscaler, _) => Remedy::OtherDevice { component },
            (ComponentKind::TextEncoders, _) => Remedy::OtherDevice { component },
            (ComponentKind::DiffusionModel, Some(picture)) if picture.batch > 1 => {
                Remedy::FewerPictures
            }
            (ComponentKind::DiffusionModel, _) => Remedy::SmallerPicture,
        }
    }
}
