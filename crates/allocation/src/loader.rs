//! Where a checkpoint's three components go, as users say it.

use std::fmt;

use thiserror::Error;

use crate::device::DeviceId;
use crate::language::{Allocation, AllocationProblem};
use crate::layout_choice::LayoutChoice;
use crate::number::Number;
use crate::settings::ComponentSettings;
use crate::topology::{Topology, UnknownDevice};
use crate::virtual_vram::{Donors, VirtualVram};

/// What its user says of where a checkpoint's components go. Devices and allocations are texts in the
/// forms of [`DeviceId`], [`Donors`] and [`Allocation`]; [`Default`] is what holds where nothing is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderInputs {
    /// The diffusion model.
    pub unet: ComponentInputs,
    /// The text encoders.
    pub clip: ComponentInputs,
    /// The device of the VAE; `None` is the first accelerator, else `cpu`.
    pub vae_device: Option<String>,
    /// How blocks are chosen, for the diffusion model and the text encoders.
    pub layout: LayoutChoice,
}

/// What its user says of where one component goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentInputs {
    /// The device that computes; `None` is the first accelerator, else `cpu`.
    pub compute_device: Option<String>,
    /// How much moves off that device.
    pub virtual_vram: VirtualVram,
    /// Who takes it.
    pub donors: String,
    /// Stands in the place of virtual VRAM where it is not empty.
    pub allocation: String,
}

impl ComponentInputs {
    /// All of a component on a device.
    pub fn whole_on(device: Option<String>) -> Self {
        ComponentInputs {
            compute_device: device,
            virtual_vram: VirtualVram::ZERO,
            donors: DeviceId::CPU.to_string(),
            allocation: String::new(),
        }
    }
}

impl LoaderInputs {
    /// GiB of the diffusion model that leave its compute device where nothing is said.
    pub const UNET_GIGABYTES: Number = Number::from_tenths(40);
    /// GiB of the text encoders that leave their compute device where nothing is said.
    pub const CLIP_GIGABYTES: Number = Number::from_tenths(20);
}

impl Default for LoaderInputs {
    fn default() -> Self {
        let component = |device, gigabytes| ComponentInputs {
            virtual_vram: VirtualVram::Gigabytes(gigabytes),
            ..ComponentInputs::whole_on(device)
        };
        LoaderInputs {
            unet: component(None, Self::UNET_GIGABYTES),
            clip: component(Some(DeviceId::CPU.to_string()), Self::CLIP_GIGABYTES),
            vae_device: None,
            layout: LayoutChoice::default(),
        }
    }
}

/// What the inputs mean on a machine, component by component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderSettings {
    /// The diffusion model.
    pub unet: ComponentSettings,
    /// The text encoders.
    pub clip: ComponentSettings,
    /// The VAE, which is all on its device.
    pub vae: ComponentSettings,
}

/// Which setting of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// The device that computes.
    ComputeDevice,
    /// How much moves off that device.
    VirtualVram,
    /// Who takes it.
    Donors,
    /// The allocation that stands in its place.
    Allocation,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Setting::ComputeDevice => "compute device",
            Setting::VirtualVram => "virtual VRAM",
            Setting::Donors => "donors",
            Setting::Allocation => "allocation",
        })
    }
}

/// A setting that cannot be. Who knows what its user calls it prints it [by that name](Self::named).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the {setting} of `{component}`{separator}{problem}")]
pub struct InputError {
    /// The component: `unet`, `clip` or `vae`.
    pub component: &'static str,
    /// Which of its settings.
    pub setting: Setting,
    /// What is wrong with it, with the place in it where there is one.
    pub problem: String,
    /// The device that the machine does not have, where that is the problem.
    pub unknown_device: Option<UnknownDevice>,
    separator: &'static str,
}

impl InputError {
    fn new(component: &'static str, setting: Setting, problem: impl fmt::Display) -> Self {
        let problem = problem.to_string();
        InputError { component, setting, problem, unknown_device: None, separator: ": " }
    }

    /// A problem that starts with its place: `, entry 2, character 12: …`.
    fn at_place(component: &'static str, problem: impl fmt::Display) -> Self {
        InputError { separator: ", ", ..InputError::new(component, Setting::Allocation, problem) }
    }

    fn unknown(component: &'static str, setting: Setting, device: UnknownDevice) -> Self {
        let unknown_device = Some(device.clone());
        InputError { unknown_device, ..InputError::new(component, setting, device) }
    }

    /// The same by a name: `` `NAME`: no device `cuda:3`; … ``.
    pub fn named(&self, name: &str) -> String {
        format!("`{name}`{}{}", self.separator, self.problem)
    }
}

impl LoaderInputs {
    /// What the inputs mean on this machine. Everything that is wrong with them is found here,
    /// before a file is opened.
    ///
    /// # Errors
    /// The first input that cannot be.
    pub fn settings(&self, topology: &Topology) -> Result<LoaderSettings, InputError> {
        Ok(LoaderSettings {
            unet: self.unet.settings("unet", topology, self.layout)?,
            clip: self.clip.settings("clip", topology, self.layout)?,
            vae: ComponentSettings::new(compute_device(
                "vae",
                self.vae_device.as_deref(),
                topology,
            )?),
        })
    }
}

impl ComponentInputs {
    fn settings(
        &self,
        component: &'static str,
        topology: &Topology,
        layout: LayoutChoice,
    ) -> Result<ComponentSettings, InputError> {
        Ok(ComponentSettings {
            compute_device: compute_device(component, self.compute_device.as_deref(), topology)?,
            virtual_vram: self.virtual_vram,
            donors: self.donors(component, topology)?,
            expert: self.expert(component, topology)?,
            layout,
            most_window: None,
        })
    }

    fn donors(&self, component: &'static str, topology: &Topology) -> Result<Donors, InputError> {
        let wrong = |error| InputError::new(component, Setting::Donors, error);
        let donors: Donors = self.donors.parse().map_err(wrong)?;
        for &device in &donors.devices {
            let unknown = |device| InputError::unknown(component, Setting::Donors, device);
            topology.get(device).map_err(unknown)?;
        }
        Ok(donors)
    }

    fn expert(
        &self,
        component: &'static str,
        topology: &Topology,
    ) -> Result<Option<Allocation>, InputError> {
        let wrong = |error| InputError::at_place(component, error);
        let allocation = Allocation::parse(&self.allocation).map_err(wrong)?;
        if let Some(allocation) = &allocation {
            allocation.check(topology).map_err(|error| {
                let unknown_device = match &error.problem {
                    AllocationProblem::Unknown(device) => Some(device.clone()),
                    _ => None,
                };
                InputError { unknown_device, ..wrong(error) }
            })?;
        }
        Ok(allocation)
    }
}

fn compute_device(
    component: &'static str,
    text: Option<&str>,
    topology: &Topology,
) -> Result<DeviceId, InputError> {
    let Some(text) = text else { return Ok(topology.default_compute()) };
    let setting = Setting::ComputeDevice;
    let device: DeviceId =
        text.parse().map_err(|error| InputError::new(component, setting, error))?;
    let unknown = |device| InputError::unknown(component, setting, device);
    Ok(topology.get(device).map_err(unknown)?.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::DeviceInfo;

    fn machine() -> Topology {
        Topology::new(vec![DeviceInfo::new(DeviceId::CPU, "host", 64 << 30)])
            .unwrap()
            .simulate("cuda:0=24GiB,cuda:1=8GiB")
            .unwrap()
    }

    #[test]
    fn the_defaults() {
        let settings = LoaderInputs::default().settings(&machine()).unwrap();
        assert_eq!(settings.unet.compute_device.to_string(), "cuda:0");
        assert_eq!(settings.unet.virtual_vram, VirtualVram::gigabytes(4.0).unwrap());
        assert_eq!(settings.unet.donors, Donors::one(DeviceId::CPU));
        assert_eq!(settings.clip.compute_device, DeviceId::CPU);
        assert_eq!(settings.clip.virtual_vram, VirtualVram::gigabytes(2.0).unwrap());
        assert_eq!(settings.vae.compute_device.to_string(), "cuda:0");
        assert_eq!(settings.vae.virtual_vram, VirtualVram::ZERO);
        assert_eq!((settings.unet.expert, settings.clip.expert), (None, None));
    }

    #[test]
    fn an_error_names_the_setting_and_the_place() {
        let inputs = |change: fn(&mut LoaderInputs)| {
            let mut inputs = LoaderInputs::default();
            change(&mut inputs);
            inputs.settings(&machine()).unwrap_err()
        };
        let error = inputs(|i| i.unet.allocation = "cuda:0,50%;cuda:3,50%".into());
        let problem = "entry 2, character 12: no device `cuda:3`; present: cuda:0, cuda:1, cpu";
        assert_eq!(error.to_string(), format!("the allocation of `unet`, {problem}"));
        assert_eq!(error.named("experts"), format!("`experts`, {problem}"));
        assert_eq!((error.component, error.setting), ("unet", Setting::Allocation));
        assert!(error.unknown_device.is_some());
        let error = inputs(|i| i.vae_device = Some("cuda:7".into()));
        assert_eq!(
            error.to_string(),
            "the compute device of `vae`: no device `cuda:7`; present: cuda:0, cuda:1, cpu"
        );
        let error = inputs(|i| i.clip.donors = "cpu,tpu:0".into());
        assert!(error.to_string().starts_with("the donors of `clip`: "), "{error}");
    }
}
